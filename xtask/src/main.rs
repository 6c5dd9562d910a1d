//! The project's own tasks: one match, a file a command. Knows how to call the other crates and
//! nothing of what is in them.

mod apt;
mod bench;
mod build;
mod compile;
mod demo;
mod dist;
mod fuzz;
mod manifests;
mod paths;
mod setup;
mod soak;
mod step;
mod test;
mod vm;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// The project's own tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 80)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything and watch policies stop real requests, step by step
    ///
    /// Makes network namespaces of its own with real servers and clients, and takes them away
    /// again. Without root or BPF it does the same in a virtual machine.
    Demo {
        /// In a virtual machine, also where this one could do it
        #[arg(long)]
        vm: bool,
    },
    /// Install what is needed to build the BPF programs and to run the tests
    ///
    /// Looks at what is there, and does nothing when all is. With root on Debian it installs the
    /// rest; elsewhere it says what is missing and how to mend it. The other commands run it first.
    Setup {
        /// A real API server as well, for the tests: built once, in about 6 minutes
        ///
        /// One of another version is taken from the folder KUBEBUILDER_ASSETS.
        #[arg(long)]
        kube: bool,
    },
    /// Build the BPF object, then policyc and enforcer in release mode
    Build,
    /// Run everything that CI runs: format, lints, host, kernel and live tests, one VM
    ///
    /// A test that cannot run on this machine says `skipped: reason`; with CI=true in the
    /// environment that is a failure.
    Test,
    /// Run the kernel and live tests on Debian kernels in a virtual machine
    ///
    /// Kernels are fetched with apt-get from the archive that this machine's own packages come from.
    VmTest {
        /// Which kernel
        #[arg(long, value_enum, default_value = "6.1")]
        kernel: vm::Kernel,
        /// How much: a smoke test takes some minutes a kernel, everything half an hour
        #[arg(long, value_enum, default_value = "everything")]
        extent: vm::Extent,
        /// Only tests whose name has one of these in it
        #[arg(value_name = "NAME")]
        only: Vec<String>,
    },
    /// Check policies and compile them to a bundle, as a pipeline does
    Compile(compile::Arguments),
    /// Build what is given away: static programs, an image, the chart, licences, checksums
    ///
    /// All of it lies below target/dist then, and others have read it: skopeo and umoci the image,
    /// syft the list of what is inside. As root, an agent has run from the unpacked image.
    Dist,
    /// Check what is applied to a cluster, and that Kustomize and Helm make the same of it
    ///
    /// The Helm chart is written from the Kustomize base and its components; with BLESS=1 in the
    /// environment what is out of date is written anew. Helm is installed for Python, in an
    /// environment of its own.
    Manifests,
    /// Look for manifests, bundles and clients' bytes that the code cannot cope with
    Fuzz {
        /// How long for each of the three
        #[arg(long, default_value_t = 60, value_name = "N")]
        seconds: u32,
    },
    /// Run one node for a long time: policies, pods and agents come and go
    ///
    /// Every connection must meet what the oracle says, and nothing may grow. Then agents are killed
    /// at any moment, and enforcement must neither open nor close.
    Soak {
        /// How long; 0 for not at all
        #[arg(long, default_value_t = 10.0, value_name = "N")]
        minutes: f64,
        /// How often an agent is killed after that
        #[arg(long, default_value_t = 0, value_name = "N")]
        kills: u32,
        /// Then, let the proxy carry 10 GB of bodies and 10 000 connections, in bounded memory
        #[arg(long)]
        l7: bool,
        /// The agent follows an API server, whose double breaks off, forgets and goes away
        #[arg(long)]
        kube: bool,
    },
    /// Measure, and fail when a stated goal is missed
    Bench {
        /// What
        #[arg(value_enum)]
        what: bench::What,
        /// Write the figures there, as JSON
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Demo { vm } => demo::run(vm),
        Command::Soak {
            minutes,
            kills,
            l7,
            kube,
        } => soak::run(minutes, kills, l7, kube),
        Command::Setup { kube } => setup::run(kube),
        Command::Bench { what, json } => bench::run(what, json),
        Command::Fuzz { seconds } => fuzz::run(seconds),
        Command::Build => build::run(),
        Command::Dist => dist::run(),
        Command::Manifests => manifests::run(),
        Command::Compile(arguments) => compile::run(&arguments),
        Command::Test => test::run(),
        Command::VmTest {
            kernel,
            extent,
            only,
        } => vm::run(kernel, extent, &only),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
