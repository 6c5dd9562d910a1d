//! `policyc completions SHELL`: a script that completes commands and arguments.

use std::io::stdout;

use clap::{Command, ValueEnum};
use clap_complete::Shell;

use super::Outcome;

/// Prints a completion script for a shell
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  policyc completions bash > /etc/bash_completion.d/policyc")]
pub struct Args {
    #[arg(value_enum)]
    shell: ShellName,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ShellName {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

pub fn run(args: &Args, mut command: Command) -> Outcome {
    let shell = match args.shell {
        ShellName::Bash => Shell::Bash,
        ShellName::Elvish => Shell::Elvish,
        ShellName::Fish => Shell::Fish,
        ShellName::Powershell => Shell::PowerShell,
        ShellName::Zsh => Shell::Zsh,
    };
    clap_complete::generate(shell, &mut command, "policyc", &mut stdout());
    Outcome::Good
}
