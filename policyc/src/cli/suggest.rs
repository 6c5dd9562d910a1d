//! `policyc suggest`: policies from recorded traffic.

use std::{
    fs,
    io::{Write, stdout},
    path::PathBuf,
};

use anyhow::Context;
use clap::ValueEnum;
use policyc::suggest::{Paths, Wanted, suggest};

use super::{Outcome, flows::FlowArgs, sources::SourceArgs};

/// Writes the least ALLOW policies that let recorded traffic through
///
/// A source pod stands for its service account, a destination pod for what its workload's labels
/// select, and a flow whose request was not recorded for its port. Hosts, headers and tokens are not
/// asked for. What is left out is said on standard error.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  enforcer monitor --verdict allow --format json > flows.jsonl   # with `enforcer run --events all`
  policyc suggest -f inventory/ --flows flows.jsonl > policies.yaml
  policyc suggest -f inventory/ --flows flows.jsonl --paths ids -o policies.yaml
  policyc check -f inventory/ -f policies.yaml --deny-warnings

Review them: what was seen is not always what is wanted. Exit code 1 where nothing can be suggested.")]
pub struct Args {
    #[command(flatten)]
    sources: SourceArgs,

    #[command(flatten)]
    flows: FlowArgs,

    /// Where the policies go; default: standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// How paths of requests are generalised
    #[arg(long, value_enum, default_value_t = PathsChoice::Exact)]
    paths: PathsChoice,

    /// Admit sources without identity by their addresses
    #[arg(long)]
    addresses: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum PathsChoice {
    /// Not at all
    Exact,
    /// A segment of digits, a UUID, or 16 hexadecimal digits or more becomes {*}
    Ids,
    /// A method that was seen is allowed on every path
    Any,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let recording = args.flows.read(&args.sources)?;
    let loaded = match args.sources.load() {
        Ok(loaded) => loaded,
        Err(outcome) => return Ok(outcome),
    };
    let wanted = Wanted {
        paths: match args.paths {
            PathsChoice::Exact => Paths::Exact,
            PathsChoice::Ids => Paths::Ids,
            PathsChoice::Any => Paths::Any,
        },
        addresses: args.addresses,
    };
    let suggestion = suggest(&loaded.cluster, &recording, wanted).map_err(anyhow::Error::msg)?;
    match &args.output {
        _ if suggestion.yaml.is_empty() => {}
        Some(path) => fs::write(path, &suggestion.yaml)
            .with_context(|| format!("cannot write {}", path.display()))?,
        None => write!(stdout(), "{}", suggestion.yaml)?,
    }
    eprintln!(
        "{} policies admit {} recorded flows",
        suggestion.policies, suggestion.admitted
    );
    for (why, count) in &suggestion.left_out {
        eprintln!("left out: {count} flows {why}");
    }
    if recording.lost > 0 {
        eprintln!(
            "left out: {} verdicts that the monitor has missed",
            recording.lost
        );
    }
    for note in &suggestion.notes {
        eprintln!("note: {note}");
    }
    if !loaded.cluster.policies.is_empty() {
        eprintln!(
            "note: the {} policies of the inventory were not looked at: an ALLOW beside these admits more, a DENY less",
            loaded.cluster.policies.len()
        );
    }
    Ok(match suggestion.policies {
        0 => Outcome::Bad,
        _ => Outcome::Good,
    })
}
