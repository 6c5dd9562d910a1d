//! `policyc diff`: what a change of policies or of the cluster lets through, and what no longer.

use std::io::{Write, stdout};

use anyhow::bail;
use clap::ValueEnum;
use policyc::diff::{self, Diff, markdown, text};

use super::{
    Outcome,
    sides::{With, side},
    sources::{CatchAll, key_sets},
};

/// Tells what a change lets through, and what it no longer does
///
/// Compares what two states of policies and cluster mean: which sources reach which workload, port
/// and HTTP operation. Each side is a bundle, a file or folder of manifests, `-`, or a git revision
/// of a file or folder as git:REVISION:PATH. Policies that are renamed, moved or written otherwise
/// are no difference.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  policyc diff old.bin new.bin
  policyc diff git:origin/main:manifests manifests --fail-on widen
  policyc diff git:HEAD~1:policies policies -f inventory/ --format markdown
  policyc diff old/ new/ --mesh mesh.yaml --format json

`+` is let through now, `-` is refused now, `~` differs otherwise; `?` could not be shown on a request,
and cannot be ruled out. Under a line stands a request that the two sides judge differently, as
`policyc eval` takes it. JSON: format, old, new, outcome (same, differs, may_differ), widens, narrows,
differences[], added_destinations[], removed_destinations[], added_sources[], removed_sources[], notes[].

Exit codes: 0 compared, also when there are differences; 1 a side has errors, or --fail-on was met;
2 usage or I/O. A workload that is there on one side alone counts for `any` only.")]
pub struct Args {
    /// A bundle, manifests, or git:REVISION:PATH
    old: String,

    /// A bundle, manifests, or git:REVISION:PATH
    new: String,

    /// Manifests of pods, services and nodes for both sides; a bundle's own are then not used
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    inventory: Vec<String>,

    /// MeshConfig of manifests, of both sides
    #[arg(long, value_name = "FILE")]
    mesh: Option<String>,

    /// MeshConfig of the old side, where it is another; may be git:REVISION:FILE
    #[arg(long, value_name = "FILE")]
    old_mesh: Option<String>,

    /// MeshConfig of the new side, where it is another
    #[arg(long, value_name = "FILE")]
    new_mesh: Option<String>,

    /// What a DENY rule without from, to and when means in manifests
    #[arg(long, value_enum, default_value_t = CatchAll::DenyAll)]
    catch_all_deny: CatchAll,

    /// Key set for a jwksUri of manifests; repeatable
    #[arg(long, value_name = "URI=FILE")]
    jwks: Vec<String>,

    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// Exit with 1 when something is let through that was not, when something is refused that was
    /// not, or on any difference
    #[arg(long, value_enum)]
    fail_on: Option<FailOn>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    Text,
    Json,
    /// For a comment on a pull request
    Markdown,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum FailOn {
    Widen,
    Narrow,
    Any,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let from_stdin = [&args.old, &args.new];
    let from_stdin = from_stdin
        .into_iter()
        .chain(&args.inventory)
        .filter(|s| *s == "-");
    if from_stdin.count() > 1 {
        bail!("standard input can be read once");
    }
    let key_sets = key_sets(&args.jwks)?;
    let mut read = Vec::new();
    for (spec, mesh) in [(&args.old, &args.old_mesh), (&args.new, &args.new_mesh)] {
        let with = With {
            mesh: mesh.as_deref().or(args.mesh.as_deref()),
            catch_all_deny: args.catch_all_deny.into(),
            key_sets: &key_sets,
            inventory: &args.inventory,
        };
        match side(spec, &with)? {
            Ok(side) => read.push((spec, side)),
            Err(outcome) => return Ok(outcome),
        }
    }
    let sides: Vec<diff::Side<'_>> = read
        .iter()
        .map(|(name, side)| diff::Side {
            name,
            program: &side.program,
            cluster: &side.cluster,
        })
        .collect();
    let [old, new] = sides.as_slice() else {
        bail!("there are two sides");
    };
    let outcome = match diff::diff(old, new, super::time::clock()?) {
        Ok(diff) => {
            print(&diff, args.format)?;
            decided(&diff, args.fail_on)
        }
        Err(why) => {
            eprintln!("policyc: {why}");
            Outcome::Bad
        }
    };
    Ok(outcome)
}

/// Prints a comparison.
pub fn print(diff: &Diff, format: Format) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    match format {
        Format::Text => write!(out, "{}", text(diff))?,
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(diff)?)?,
        Format::Markdown => write!(out, "{}", markdown(diff))?,
    }
    Ok(())
}

/// What a comparison means for the caller.
pub fn decided(diff: &Diff, fail_on: Option<FailOn>) -> Outcome {
    let met = match fail_on {
        None => false,
        Some(FailOn::Widen) => diff.widens,
        Some(FailOn::Narrow) => diff.narrows,
        Some(FailOn::Any) => !diff.is_empty(),
    };
    if met { Outcome::Bad } else { Outcome::Good }
}
