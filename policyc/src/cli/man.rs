//! `policyc man`: a manual page for each command.

use std::{fs, path::PathBuf};

use anyhow::Context;

use super::Outcome;

/// Writes manual pages into a folder
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  policyc man /usr/local/share/man/man1
  policyc man . && man ./policyc-check.1")]
pub struct Args {
    /// The folder; it is made where it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub fn run(args: &Args, command: clap::Command) -> anyhow::Result<Outcome> {
    let name = args.folder.display();
    fs::create_dir_all(&args.folder).with_context(|| format!("cannot make {name}"))?;
    clap_mangen::generate_to(command, &args.folder)
        .with_context(|| format!("cannot write into {name}"))?;
    Ok(Outcome::Good)
}
