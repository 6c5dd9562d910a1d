//! What the project needs beyond stable Rust, as a table: how to see that it is there, and what
//! to install where it is not.

use std::{fs, path::Path};

use super::{Toolchain, kube, says};
use crate::paths;

pub const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
pub const DEBIAN_CARGO: &str = "/usr/bin/cargo";
pub const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";
/// bpf-linker must be linked with the LLVM that rustc has.
pub const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
pub const BPF_LINKER: &str = "bpf-linker 0.13";
/// How programs of Kubernetes are had.
pub const KUBE_INSTALL: &str = "cargo xtask setup --kube";

/// Debian's BPF standard library; the file's name ends in a hash.
const DEBIAN_BPF_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";

/// One thing that must be there.
pub struct Need {
    pub what: &'static str,
    /// What it is for, completing "this machine lacks X, ...".
    pub why: &'static str,
    /// Debian's package; `None`: `install` is a command of its own.
    pub package: Option<&'static str>,
    pub install: &'static str,
    part: Part,
    is_there: fn() -> bool,
}

/// When a need counts.
#[derive(PartialEq)]
enum Part {
    Always,
    /// Debian's compiler, unless rustup's nightly can do it.
    Compiler,
    /// Only to build bpf-linker.
    Linker,
    /// Only for benches: what ours is compared with.
    Peers,
    /// Only for tests, which can be skipped.
    Browser,
    /// Only for what is given away: what reads images beside ours.
    Images,
    /// Only for tests of the proxy with other people's clients, which can be skipped.
    Clients,
    /// The same: a real API server.
    Kube,
    /// Only to build that server.
    KubeBuild,
}

const fn package(
    what: &'static str,
    why: &'static str,
    package: &'static str,
    part: Part,
    is_there: fn() -> bool,
) -> Need {
    Need {
        what,
        why,
        package: Some(package),
        install: "",
        part,
        is_there,
    }
}

/// A program that is put into the cache, see `kube`.
const fn of_kubernetes(what: &'static str, is_there: fn() -> bool) -> Need {
    Need {
        what,
        why: FOR_KUBE,
        package: None,
        install: KUBE_INSTALL,
        part: Part::Kube,
        is_there,
    }
}

const FOR_BPF: &str = "to compile the BPF programs";
const FOR_LINKER: &str = "to build bpf-linker";
const FOR_NETWORK: &str = "for the tests' network namespaces";
const FOR_CLIENTS: &str = "to test the proxy with real clients";
const FOR_PAGE: &str = "to test the page of `policyc graph` in a browser";
const FOR_IMAGES: &str = "to check the image";
const FOR_KUBE: &str = "to test with a real API server";
const FOR_KUBE_BUILD: &str = "to build kube-apiserver";
const FOR_VM: &str = "to test other kernels in a virtual machine";

const NEEDS: &[Need] = &[
    package(
        "rustc with LLVM 22",
        FOR_BPF,
        "rustc-web",
        Part::Compiler,
        || says(DEBIAN_RUSTC, &["-vV"]).is_some_and(|text| text.contains("LLVM version: 22.")),
    ),
    package(
        "cargo for that rustc",
        FOR_BPF,
        "cargo-web",
        Part::Compiler,
        || Path::new(DEBIAN_CARGO).exists(),
    ),
    package(
        "clippy for that rustc",
        "to lint the BPF programs",
        "rust-web-clippy",
        Part::Compiler,
        || Path::new(DEBIAN_CLIPPY).exists(),
    ),
    package(
        "core for BPF",
        FOR_BPF,
        "libstd-rust-web-dev-bpf",
        Part::Compiler,
        debian_core_is_there,
    ),
    package(
        "rustc's LLVM tools",
        FOR_BPF,
        "rust-web-llvm",
        Part::Compiler,
        || Path::new("/usr/share/doc/rust-web-llvm").exists(),
    ),
    package(
        "a C++ compiler",
        "to build bpf-linker and the fuzz targets",
        "g++",
        Part::Always,
        || paths::program("c++").is_some(),
    ),
    package(
        "LLVM 22's headers",
        FOR_LINKER,
        "llvm-22-dev",
        Part::Linker,
        || {
            Path::new(LLVM_PREFIX)
                .join("include/llvm-c/Core.h")
                .exists()
        },
    ),
    package(
        "LLVM 22's Polly",
        FOR_LINKER,
        "libpolly-22-dev",
        Part::Linker,
        || Path::new(LLVM_PREFIX).join("lib/libPolly.a").exists(),
    ),
    package(
        "zstd's headers",
        FOR_LINKER,
        "libzstd-dev",
        Part::Linker,
        || Path::new("/usr/include/zstd.h").exists(),
    ),
    package(
        "zlib's headers",
        FOR_LINKER,
        "zlib1g-dev",
        Part::Linker,
        || Path::new("/usr/include/zlib.h").exists(),
    ),
    Need {
        what: BPF_LINKER,
        why: FOR_BPF,
        package: None,
        install: "cargo install bpf-linker --version 0.13.0 --no-default-features --features llvm-22",
        part: Part::Always,
        is_there: linker_is_there,
    },
    package("ip", FOR_NETWORK, "iproute2", Part::Always, || {
        paths::program("ip").is_some()
    }),
    package("nft", FOR_NETWORK, "nftables", Part::Always, || {
        paths::program("nft").is_some()
    }),
    package(
        "wg",
        "for the tests' WireGuard uplink",
        "wireguard-tools",
        Part::Always,
        || paths::program("wg").is_some(),
    ),
    package(
        "iptables",
        "to compare with",
        "iptables",
        Part::Peers,
        || paths::program("iptables-nft-restore").is_some(),
    ),
    package("strip", FOR_VM, "binutils", Part::Always, || {
        paths::program("strip").is_some()
    }),
    package("qemu", FOR_VM, "qemu-system-x86", Part::Always, || {
        paths::program("qemu-system-x86_64").is_some()
    }),
    package(
        "a static busybox",
        FOR_VM,
        "busybox-static",
        Part::Always,
        || Path::new("/usr/share/doc/busybox-static").exists(),
    ),
    package("cpio", FOR_VM, "cpio", Part::Always, || {
        paths::program("cpio").is_some()
    }),
    package("xz", FOR_VM, "xz-utils", Part::Always, || {
        paths::program("xz").is_some()
    }),
    package(
        "openssl",
        "to check that others read our keys and signatures",
        "openssl",
        Part::Always,
        || paths::program("openssl").is_some(),
    ),
    package("chromium", FOR_PAGE, "chromium", Part::Browser, || {
        paths::program("chromium").is_some()
    }),
    package(
        "a font",
        FOR_PAGE,
        "fonts-dejavu-core",
        Part::Browser,
        || Path::new("/usr/share/doc/fonts-dejavu-core").exists(),
    ),
    package("skopeo", FOR_IMAGES, "skopeo", Part::Images, || {
        paths::program("skopeo").is_some()
    }),
    package("umoci", FOR_IMAGES, "umoci", Part::Images, || {
        paths::program("umoci").is_some()
    }),
    package("curl", FOR_CLIENTS, "curl", Part::Clients, || {
        paths::program("curl").is_some()
    }),
    package(
        "nghttp and h2load",
        FOR_CLIENTS,
        "nghttp2-client",
        Part::Clients,
        || paths::program("nghttp").is_some() && paths::program("h2load").is_some(),
    ),
    package(
        "Python's environments",
        "for clients and an Envoy to test with",
        "python3-venv",
        Part::Clients,
        || says("python3", &["-m", "ensurepip", "--version"]).is_some(),
    ),
    package("go", FOR_KUBE_BUILD, "golang-go", Part::KubeBuild, || {
        paths::program("go").is_some()
    }),
    package("jq", FOR_KUBE_BUILD, "jq", Part::KubeBuild, || {
        paths::program("jq").is_some()
    }),
    package("rsync", FOR_KUBE_BUILD, "rsync", Part::KubeBuild, || {
        paths::program("rsync").is_some()
    }),
    package("make", FOR_KUBE_BUILD, "make", Part::KubeBuild, || {
        paths::program("make").is_some()
    }),
    package(
        "dpkg-source",
        FOR_KUBE_BUILD,
        "dpkg-dev",
        Part::KubeBuild,
        || paths::program("dpkg-source").is_some(),
    ),
    of_kubernetes("etcd", || kube::program("etcd").is_some()),
    of_kubernetes("kubectl", || kube::program("kubectl").is_some()),
    of_kubernetes("kube-apiserver", kube::server_is_there),
    Need {
        what: "rustfmt",
        why: "to check the format",
        package: None,
        install: "rustup component add rustfmt",
        part: Part::Always,
        is_there: || says("cargo", &["fmt", "--version"]).is_some(),
    },
    Need {
        what: "clippy",
        why: "to lint",
        package: None,
        install: "rustup component add clippy",
        part: Part::Always,
        is_there: || says("cargo", &["clippy", "--version"]).is_some(),
    },
];

/// What is not there, in the order in which it is installed.
pub fn missing() -> Vec<&'static Need> {
    missing_of(false)
}

/// The same, with what benches compare ours with.
pub fn missing_for_peers() -> Vec<&'static Need> {
    missing_of(true)
}

fn missing_of(peers: bool) -> Vec<&'static Need> {
    let compiler = debian_is_there() || !nightly_is_there();
    let linker = !linker_is_there();
    NEEDS
        .iter()
        .filter(|need| match need.part {
            Part::Always => true,
            Part::Compiler => compiler,
            Part::Linker => linker,
            Part::Peers => peers,
            Part::Browser | Part::Clients | Part::Images | Part::Kube | Part::KubeBuild => false,
        })
        .filter(|need| !(need.is_there)())
        .collect()
}

/// What only tests need, and those that lack it are skipped.
pub fn missing_for_tests() -> Vec<&'static Need> {
    let only = |part: &Part| matches!(part, Part::Browser | Part::Clients);
    let needs = NEEDS.iter().filter(|need| only(&need.part));
    needs.filter(|need| !(need.is_there)()).collect()
}

/// As [`missing`], with what checks an image.
pub fn missing_for_dist() -> Vec<&'static Need> {
    let mut missing = missing();
    let python = |need: &Need| need.package == Some("python3-venv");
    let images = NEEDS
        .iter()
        .filter(|need| need.part == Part::Images || python(need));
    missing.extend(images.filter(|need| !(need.is_there)()));
    missing
}

/// What the tests with a real API server lack.
pub fn missing_for_kube() -> Vec<&'static Need> {
    let build = !kube::server_is_there();
    let kube = NEEDS.iter().filter(|need| match need.part {
        Part::Kube => true,
        Part::KubeBuild => build,
        _ => false,
    });
    kube.filter(|need| !(need.is_there)()).collect()
}

/// The compiler to use, when nothing is missing.
pub fn toolchain() -> Toolchain {
    if debian_is_there() {
        Toolchain::Debian
    } else {
        Toolchain::Nightly
    }
}

fn debian_is_there() -> bool {
    Path::new(DEBIAN_CARGO).exists() && debian_core_is_there()
}

fn debian_core_is_there() -> bool {
    fs::read_dir(DEBIAN_BPF_CORE).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    })
}

fn nightly_is_there() -> bool {
    says("rustup", &["run", "nightly", "rustc", "--print", "sysroot"]).is_some_and(|sysroot| {
        Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .exists()
    })
}

/// That it runs shows that its LLVM is there as well.
fn linker_is_there() -> bool {
    paths::program("bpf-linker").is_some_and(|program| {
        says(&program.to_string_lossy(), &["--version"])
            .is_some_and(|version| version.contains(" 0.13."))
    })
}
