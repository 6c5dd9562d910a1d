//! What the kernel can do, by trying it.

use std::{io, path::Path};

use aya::programs::{SchedClassifier, TcAttachType};
use rtnetlink::{LinkMessageBuilder, LinkVeth};

use super::{Finding, missing, note, ok, read};
use crate::{
    attach::Attach,
    chain,
    flows::{SocketsError, tcp_sockets},
    netlink,
    netns::{Netns, NetnsError},
    object::{self, ObjectError},
    pins::{Pins, is_bpffs},
};

/// The oldest kernel that the programs are tested on.
const OLDEST: (u32, u32) = (6, 1);

pub(super) fn examine(bpffs: &Path) -> Vec<Finding> {
    let mut findings = vec![version(), btf(), lockdown(), programs(bpffs)];
    findings.extend(devices());
    findings.push(sockets());
    findings.push(jit());
    findings
}

fn version() -> Finding {
    let release = read("/proc/sys/kernel/osrelease");
    if release_of(&release) >= OLDEST {
        ok("kernel", release)
    } else {
        missing("kernel", release, "run Linux 6.1 or later")
    }
}

fn release_of(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .flat_map(str::parse);
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn btf() -> Finding {
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    if Path::new(PATH).exists() {
        ok("kernel types (BTF)", PATH)
    } else {
        missing(
            "kernel types (BTF)",
            format!("no {PATH}"),
            "run a kernel built with CONFIG_DEBUG_INFO_BTF=y; in a container, mount the node's /sys",
        )
    }
}

fn lockdown() -> Finding {
    let text = read("/sys/kernel/security/lockdown");
    if text.contains("[confidentiality]") {
        missing(
            "kernel lockdown",
            "confidentiality: BPF may not read what the programs read",
            "boot with lockdown=integrity, or without",
        )
    } else {
        ok("kernel lockdown", "allows BPF")
    }
}

/// The proof of everything that the programs and maps need: the kernel takes them.
fn programs(bpffs: &Path) -> Finding {
    const WHAT: &str = "BPF programs";
    if !object::is_built() {
        return missing(
            WHAT,
            "not part of this binary",
            "run `cargo xtask build`, then build the agent again",
        );
    }
    match try_programs(bpffs) {
        None => note(
            WHAT,
            "not tried: the BPF file system cannot be written",
            "see `BPF file system` and the capabilities below",
        ),
        Some(Ok(walked)) => {
            let walked: Vec<String> = walked
                .iter()
                .map(|(name, count)| match count {
                    Some(count) => format!("{name} {count}"),
                    None => (*name).into(),
                })
                .collect();
            ok(
                WHAT,
                format!("taken; instructions verified: {}", walked.join(", ")),
            )
        }
        Some(Err(error)) => missing(
            WHAT,
            chain(&error),
            "mend what else is missing here; if nothing is, the kernel lacks CONFIG_BPF_SYSCALL, \
             CONFIG_NET_CLS_BPF or CONFIG_INET",
        ),
    }
}

type Walked = Result<Vec<(&'static str, Option<u32>)>, ObjectError>;

/// Loads the programs with pins of their own, and takes those away again.
fn try_programs(bpffs: &Path) -> Option<Walked> {
    if !is_bpffs(bpffs) {
        return None;
    }
    let own = bpffs.join(format!("enforcer-doctor-{}", std::process::id()));
    std::fs::create_dir(&own).ok()?;
    let pins = Pins::below(&own);
    let walked = match pins.take() {
        Ok(_lock) => object::trial(&pins),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = pins.remove_all() {
        tracing::warn!(error = chain(&error), "pins of the trial are left");
    }
    if let Err(error) = std::fs::remove_dir(&own) {
        tracing::warn!(%error, "a directory of the trial is left");
    }
    Some(walked)
}

/// Interfaces and ways to attach, tried in a namespace that ends with the trial.
fn devices() -> Vec<Finding> {
    let tried = Netns::throwaway(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let netns = Netns::current().map_err(io::Error::other)?;
            let handle = netlink::connect(&netns).map_err(io::Error::other)?;
            let pair = LinkMessageBuilder::<LinkVeth>::new("try0", "try1").build();
            let veth = handle.link().add(pair).execute().await;
            let clsact = aya::programs::tc::qdisc_add_clsact("lo");
            let tcx = SchedClassifier::query_tcx("lo", TcAttachType::Ingress);
            io::Result::Ok((veth, clsact, tcx.is_ok()))
        })
    });
    let (veth, clsact, tcx) = match tried {
        Ok(Ok(tried)) => tried,
        Ok(Err(error)) => return vec![untried(&error.to_string())],
        Err(error @ NetnsError::Create { .. }) => return vec![untried(&chain(&error))],
        Err(error) => return vec![untried(&chain(&error))],
    };
    let veth = match veth {
        Ok(()) => ok("veth devices", "there"),
        Err(error) => missing(
            "veth devices",
            format!("none: {error}"),
            "run `modprobe veth`: the way into the proxy's namespace is made of them",
        ),
    };
    vec![veth, attach(tcx && Attach::best() == Attach::Tcx, clsact)]
}

fn untried(why: &str) -> Finding {
    note(
        "devices and hooks",
        format!("not tried: {why}"),
        "CAP_SYS_ADMIN and CAP_NET_ADMIN are needed to try",
    )
}

fn attach(tcx: bool, clsact: Result<(), aya::programs::tc::TcError>) -> Finding {
    match (tcx, clsact) {
        (true, _) => ok("attaching", "TCX links"),
        (false, Ok(())) => note(
            "attaching",
            "by clsact: this kernel has no TCX",
            "Linux 6.6 and later replace programs without touching queueing disciplines, and can \
             guard pods from inside (--hook=pod)",
        ),
        (false, Err(error)) => missing(
            "attaching",
            format!("this kernel has neither TCX nor clsact: {error}"),
            "run `modprobe -a sch_ingress cls_bpf`, or Linux 6.6 or later",
        ),
    }
}

/// What opens the connections that are remembered at the first start is asked of the kernel.
fn sockets() -> Finding {
    match tcp_sockets() {
        Ok(_) => ok("socket tables", "can be read"),
        Err(error @ (SocketsError::Diag { .. } | SocketsError::Decode { .. })) => missing(
            "socket tables",
            chain(&error),
            "run `modprobe -a inet_diag tcp_diag`",
        ),
    }
}

fn jit() -> Finding {
    match read("/proc/sys/net/core/bpf_jit_enable").as_str() {
        "0" => note(
            "BPF compiler (JIT)",
            "off",
            "run `sysctl net.core.bpf_jit_enable=1`: interpreted programs are many times slower",
        ),
        _ => ok("BPF compiler (JIT)", "on"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_their_first_two_numbers() {
        assert_eq!(release_of("6.1.0-50-cloud-amd64"), (6, 1));
        assert_eq!(release_of("10.0-rc1"), (10, 0));
        assert!(release_of("5.15.0") < OLDEST && release_of("6.12.1") > OLDEST);
        assert!(release_of("") < OLDEST, "what does not say is not trusted");
    }
}
