//! `cargo xtask compile DIR`: policies in a pipeline. Checks them, makes the bundle, and says in a few
//! lines what became of them.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{build, paths, step};

/// What is asked for.
#[derive(clap::Args)]
pub struct Arguments {
    /// Folder with the manifests
    folder: PathBuf,
    /// MeshConfig, plain or as Istio's ConfigMap
    #[arg(long, value_name = "FILE")]
    mesh: Option<PathBuf>,
    /// Where the bundle goes
    #[arg(
        long,
        short,
        value_name = "FILE",
        default_value = "target/policies.bundle"
    )]
    output: PathBuf,
    /// Number of this state of the policies, such as the pipeline's own; 0 is unordered
    #[arg(long, default_value_t = 0, value_name = "N")]
    generation: u64,
    /// A warning is a failure as well
    #[arg(long)]
    deny_warnings: bool,
}

/// Builds policyc, checks and compiles. Its output is policyc's own.
///
/// # Errors
/// When policyc does not build, the policies have errors, or the bundle cannot be written.
pub fn run(arguments: &Arguments) -> Result<()> {
    let folder = &arguments.folder;
    ensure!(folder.exists(), "there is no {}", folder.display());
    let mut cargo = build::cargo("build");
    cargo.args(["--release", "--package", "policyc", "--bin", "policyc"]);
    step::must("build policyc", &mut cargo, build::LIMIT)?;
    let policyc = paths::target().join("release/policyc");

    let mut check = sources(&policyc, "check", arguments);
    if arguments.deny_warnings {
        check.arg("--deny-warnings");
    }
    run_to_the_end(&mut check, "check")?;
    if let Some(beside) = arguments.output.parent() {
        std::fs::create_dir_all(beside)
            .with_context(|| format!("cannot make {}", beside.display()))?;
    }
    let mut compile = sources(&policyc, "compile", arguments);
    compile.arg("--output").arg(&arguments.output);
    compile.args(["--generation", &arguments.generation.to_string()]);
    run_to_the_end(&mut compile, "compile")
}

fn sources(policyc: &Path, command: &str, arguments: &Arguments) -> Command {
    let mut policyc = Command::new(policyc);
    policyc.arg(command).arg("--file").arg(&arguments.folder);
    if let Some(mesh) = &arguments.mesh {
        policyc.arg("--mesh").arg(mesh);
    }
    policyc
}

/// The output is the user's: it is neither kept nor shortened.
fn run_to_the_end(command: &mut Command, what: &str) -> Result<()> {
    println!("$ policyc {what}");
    let status = command.status().context("cannot start policyc")?;
    if !status.success() {
        bail!("policyc {what}: {status}");
    }
    Ok(())
}
