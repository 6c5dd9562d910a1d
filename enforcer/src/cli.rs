//! The commands, a file each. Exit status: 0 done, 1 the answer is "no", 2 usage, input or kernel.

mod all_nodes;
mod config;
mod detach;
#[cfg(test)]
mod docs;
mod doctor;
mod explain;
mod load;
mod monitor;
mod pause;
mod prepare;
mod refresh;
mod rollback;
mod run;
mod shadow;
mod socket;
mod status;
mod support;

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

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
    Run(Box<run::Run>),
    Prepare(prepare::Prepare),
    Status(status::StatusCommand),
    Monitor(monitor::Monitor),
    Explain(explain::Explain),
    Load(load::Load),
    Rollback(rollback::Rollback),
    Refresh(refresh::Refresh),
    Shadow(shadow::Shadow),
    Pause(pause::Pause),
    Resume(pause::Resume),
    SupportBundle(support::SupportBundle),
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

/// Where the agent keeps what the kernel does not.
#[derive(Debug, Args)]
struct StateArgs {
    /// Folder for bundles to go back to, hits of earlier tables and reasons of pauses; default: the
    /// socket's path with `.state` appended
    #[arg(long, value_name = "DIR", env = "ENFORCER_STATE_DIR")]
    state_dir: Option<PathBuf>,
}

impl StateArgs {
    fn folder(&self, socket: &SocketArgs) -> PathBuf {
        let given = self.state_dir.clone();
        given.unwrap_or_else(|| crate::state::beside(&socket.socket))
    }
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
    #[value(alias = "pretty")]
    Human,
    Json,
}

/// Reads the command line, and the configuration file that it names. Ends the process where it cannot
/// be read as a command, or asks for help.
pub fn parse() -> Result<Cli, Failure> {
    let arguments: Vec<_> = std::env::args_os().collect();
    let command = config::command(Cli::command(), &arguments)?;
    let known = command.clone();
    let matches = command.get_matches_from(arguments);
    let mut cli = Cli::from_arg_matches(&matches)?;
    if let Command::Run(run) = &mut cli.command {
        run.configured(config::effective(&matches, &known));
    }
    Ok(cli)
}

/// Carries a command out.
pub fn run(cli: Cli) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Run(command) => command.run(),
        Command::Prepare(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Monitor(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::Load(command) => command.run(),
        Command::Rollback(command) => command.run(),
        Command::Refresh(command) => command.run(),
        Command::Shadow(command) => command.run(),
        Command::Pause(command) => command.run(),
        Command::Resume(command) => command.run(),
        Command::SupportBundle(command) => command.run(),
        Command::Detach(command) => command.run(),
        Command::Doctor(command) => command.run(),
    }
}
