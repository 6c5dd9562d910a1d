//! Puts the BPF object into the agent, when `cargo xtask build` has made one.
//!
//! Without it the agent still builds, on stable Rust and without the BPF toolchain; its `run` then
//! refuses and names the command.

use std::{env, path::PathBuf};

/// Where `cargo xtask build` leaves the object, below the target directory.
const BUILT: &str = "bpf/bpfel-unknown-none/bpf/enforcer-ebpf";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(bpf_object)");
    println!("cargo::rerun-if-env-changed=ENFORCER_BPF_OBJECT");
    let object = match env::var_os("ENFORCER_BPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => target_directory().join(BUILT),
    };
    // A file that is not there yet counts as changed once it is.
    println!("cargo::rerun-if-changed={}", object.display());
    if object.is_file() {
        println!("cargo::rustc-cfg=bpf_object");
        println!("cargo::rustc-env=ENFORCER_BPF_OBJECT={}", object.display());
    }
}

/// The workspace's target directory: beside the workspace unless cargo was told otherwise.
fn target_directory() -> PathBuf {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    env::var_os("CARGO_TARGET_DIR").map_or_else(
        || here.join("../target"),
        |given| here.join("..").join(PathBuf::from(given)),
    )
}
