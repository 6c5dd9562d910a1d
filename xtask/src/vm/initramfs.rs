//! The guest's whole file system: a static busybox, `ip` and `nft` with their libraries, the
//! kernel modules that the tests need, the files to run, and an `init` that runs them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::{GuestFile, kernel::Kernel};
use crate::paths;

/// What the tests need where Debian's kernel does not have it built in.
const MODULES: &[&str] = &[
    "veth",
    "dummy",
    "bridge",
    "br_netfilter",
    "8021q",
    "vxlan",
    "geneve",
    "ipip",
    "wireguard",
    "sch_ingress",
    "cls_bpf",
    "inet_diag",
    "tcp_diag",
    "nf_tables",
    "nf_conntrack",
    "nft_ct",
    "nft_nat",
    "nft_chain_nat",
    "nft_masq",
];

/// Programs of the host that the tests call.
const PROGRAMS: &[&str] = &["ip", "nft", "wg"];

/// Mounts what the tests expect of a machine, loads the modules, runs the script. Nothing is mounted
/// over /tmp: the clone that the tests come from may lie there.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /bin /proc /sys /dev /run/netns /tmp /etc
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/bin HOME=/tmp CI=true ENFORCER_GUEST=1 RUST_BACKTRACE=0
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
failed=0
check() {
    echo "vm: run $*"
    if "$@"; then :; else failed=1; echo "vm: failed $1"; fi
}
echo "vm: kernel $(uname -r)"
"#;

/// The least that comes before [`END`].
const TRIAL: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
failed=0
"#;

const END: &str = r#"
cut -d ' ' -f 1 /proc/uptime | sed 's/^/vm: seconds /'
if [ "$failed" = 0 ]; then echo 'vm: success'; else echo 'vm: failure'; fi
poweroff -f
"#;

/// Packs the guest's files and returns the archive.
///
/// # Errors
/// When a module, library or program is not there.
pub fn pack(kernel: &Kernel, files: &[GuestFile], script: &str) -> Result<PathBuf> {
    let (home, root) = empty(kernel, "root")?;
    for name in PROGRAMS {
        let program = paths::program(name).with_context(|| format!("no program `{name}`"))?;
        copy_program(&program, &root, &format!("/usr/sbin/{name}"))?;
    }
    for file in files {
        copy_stripped(&file.from, &inside(&root, &file.to))?;
    }
    let mut init = String::from(INIT);
    for (number, module) in resolve(&kernel.modules)?.iter().enumerate() {
        let name = format!("/modules/{number:02}.ko");
        let to = inside(&root, &name);
        fs::create_dir_all(to.parent().unwrap_or(&root))?;
        fs::write(&to, read_module(module)?)?;
        writeln!(
            init,
            "insmod {name} || echo 'vm: cannot load {}'",
            module.display()
        )?;
    }
    init += script;
    init += END;
    write_init(&root, &init)?;
    archive(&root, &home.join("initramfs.cpio"))
}

/// A guest that only says that it lives.
///
/// # Errors
/// When busybox or cpio is not there.
pub fn pack_trial(kernel: &Kernel) -> Result<PathBuf> {
    let (home, root) = empty(kernel, "trial")?;
    write_init(&root, &format!("{TRIAL}{END}"))?;
    archive(&root, &home.join("trial.cpio"))
}

/// An empty tree with busybox in it: the folder of this kernel, and the tree.
fn empty(kernel: &Kernel, name: &str) -> Result<(PathBuf, PathBuf)> {
    let release = kernel
        .modules
        .file_name()
        .context("modules lie in a folder of the release")?;
    let home = paths::target().join("xtask/vm").join(release);
    let root = home.join(name);
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::create_dir_all(root.join("bin"))?;
    let busybox = paths::program("busybox").context("no busybox")?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    Ok((home, root))
}

fn write_init(root: &Path, script: &str) -> Result<()> {
    let file = root.join("init");
    fs::write(&file, script)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn archive(root: &Path, to: &Path) -> Result<PathBuf> {
    let mut cpio = Command::new("sh");
    cpio.current_dir(root)
        .args(["-c", "find . | cpio --quiet -o -H newc > \"$0\""])
        .arg(to);
    let status = cpio.status().context("cannot run cpio")?;
    ensure!(status.success(), "cpio: {status}");
    Ok(to.into())
}

/// A dynamic program with its libraries at the places where it looks for them.
fn copy_program(from: &Path, root: &Path, to: &str) -> Result<()> {
    let target = inside(root, to);
    fs::create_dir_all(target.parent().unwrap_or(root))?;
    fs::copy(from, target)?;
    let output = Command::new("ldd")
        .arg(from)
        .output()
        .context("cannot run ldd")?;
    for word in String::from_utf8_lossy(&output.stdout).split_whitespace() {
        let library = inside(root, word);
        if word.starts_with('/') && !library.exists() {
            fs::create_dir_all(library.parent().unwrap_or(root))?;
            fs::copy(word, &library).with_context(|| format!("cannot copy {word}"))?;
        }
    }
    Ok(())
}

/// Symbols of a debug build would fill the guest's memory. The BPF object keeps its own: its maps
/// are described by them, and `strip` knows this machine's programs only.
fn copy_stripped(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if !is_program(&bytes) {
        fs::copy(from, to)?;
        return Ok(());
    }
    let status = Command::new("strip").arg("-o").arg(to).arg(from).status();
    let status = status.context("cannot run strip")?;
    ensure!(status.success(), "strip {}: {status}", from.display());
    Ok(())
}

/// An ELF file for x86-64: magic, then the machine's number at byte 18.
fn is_program(bytes: &[u8]) -> bool {
    const X86_64: [u8; 2] = 62u16.to_le_bytes();
    bytes.starts_with(b"\x7fELF") && bytes.get(18..20) == Some(&X86_64[..])
}

fn inside(root: &Path, absolute: &str) -> PathBuf {
    root.join(absolute.trim_start_matches('/'))
}

/// The modules in the order of loading: each after what it depends on. Those that are built into
/// the kernel need none.
fn resolve(modules: &Path) -> Result<Vec<PathBuf>> {
    let mut files = BTreeMap::new();
    index(&modules.join("kernel"), &mut files)?;
    let built_in = fs::read_to_string(modules.join("modules.builtin"))
        .with_context(|| format!("no list of built-in modules in {}", modules.display()))?;
    let built_in: BTreeSet<String> = built_in
        .lines()
        .map(|line| name_of(Path::new(line)))
        .collect();
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for name in MODULES {
        add(name, &files, &built_in, &mut seen, &mut order)?;
    }
    Ok(order)
}

fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    built_in: &BTreeSet<String>,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<PathBuf>,
) -> Result<()> {
    if built_in.contains(name) || !seen.insert(name.to_owned()) {
        return Ok(());
    }
    let file = files
        .get(name)
        .with_context(|| format!("this kernel has no module `{name}`"))?;
    for dependency in depends(&read_module(file)?) {
        add(&dependency, files, built_in, seen, order)?;
    }
    order.push(file.clone());
    Ok(())
}

fn index(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            index(&path, files)?;
        } else if path.to_string_lossy().contains(".ko") {
            files.insert(name_of(&path), path);
        }
    }
    Ok(())
}

/// `net/sched/cls_bpf.ko.xz` is `cls_bpf`; a dash in a file's name is an underscore elsewhere.
fn name_of(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let name = file.split(".ko").next().unwrap_or_default();
    name.replace('-', "_")
}

/// A module's bytes, unpacked: `insmod` of busybox reads plain ones only.
fn read_module(file: &Path) -> Result<Vec<u8>> {
    if file.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    }
    let output = Command::new("xz")
        .arg("-dc")
        .arg(file)
        .output()
        .context("cannot run xz")?;
    ensure!(
        output.status.success(),
        "xz {}: {}",
        file.display(),
        output.status
    );
    Ok(output.stdout)
}

/// The entry `depends=a,b` of a module's information, which ends in a zero byte. (The file
/// `modules.dep` is written when a kernel is installed, and here it is only unpacked.)
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next();
    String::from_utf8_lossy(value.unwrap_or_default())
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_what_it_depends_on() {
        let module = b"\x7fELF..license=GPL\0depends=nf_tables,nf-nat\0retpoline=Y\0";
        assert_eq!(
            depends(module),
            ["nf_tables", "nf_nat"],
            "dashes become underscores"
        );
        let alone = b"\x7fELF..license=GPL\0depends=\0retpoline=Y\0";
        assert!(depends(alone).is_empty(), "an empty list names nothing");
    }

    #[test]
    fn only_this_machines_programs_are_stripped() {
        let mut elf = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0";
        assert!(is_program(&elf));
        elf[18] = 247; // BPF
        assert!(!is_program(&elf));
        assert!(!is_program(b"#!/bin/sh\n"));
    }

    #[test]
    fn a_modules_name_is_its_files_without_the_ending() {
        assert_eq!(
            name_of(Path::new("kernel/net/sched/cls_bpf.ko.xz")),
            "cls_bpf"
        );
        assert_eq!(
            name_of(Path::new("kernel/drivers/net/macvlan-x.ko")),
            "macvlan_x"
        );
    }
}
