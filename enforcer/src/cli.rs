//! The commands, a file each. Exit status: 0 done, 1 the answer is "no", 2 usage, input or kernel.

mod detach;
mod doctor;
mod load;
mod monitor;
mod run;
mod socket;
mod status;

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// What a command fails with.
type Failure = Box<dyn Error + Send + Sync>;

/// Enforces Istio AuthorizationPolicy on this node, in the kernel.
#[derive(Debug, Parser)]
#[command(name = "enforcer", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Status(status::StatusCommand),
    Monitor(monitor::Monitor),
    Load(load::Load),
    Detach(detach::Detach),
    Doctor(doctor::Doctor),
}

/// Where a running agent listens.
#[derive(Debug, Args)]
struct SocketArgs {
    /// Unix socket for control commands
    #[arg(
        long,
        value_name = "PATH",
        env = "ENFORCER_SOCKET",
        default_value = "/run/enforcer/enforcer.sock"
    )]
    socket: PathBuf,
}

/// Where the agent's things outlive it.
#[derive(Debug, Args)]
struct PlaceArgs {
    /// Directory on a BPF file system, for maps and links
    #[arg(
        long,
        value_name = "DIR",
        env = "ENFORCER_BPFFS",
        default_value = "/sys/fs/bpf"
    )]
    bpffs: PathBuf,
    /// Name of the proxy's network namespace
    #[arg(
        long,
        value_name = "NAME",
        env = "ENFORCER_NETNS",
        default_value = "enforcer"
    )]
    netns: String,
}

/// How a command prints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    Human,
    Json,
}

/// Carries a command out.
pub fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Run(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Monitor(command) => command.run(),
        Command::Load(command) => command.run(),
        Command::Detach(command) => command.run(),
        Command::Doctor(command) => command.run(),
    }
}
