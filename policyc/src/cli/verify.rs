//! `policyc verify`: does a bundle mean what its sources say?

use std::{
    fs,
    io::{IsTerminal, Write, stderr, stdout},
    path::PathBuf,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use policyc::{bundle, options::Options, verify::verify};

use super::{Outcome, sources::SourceArgs};

/// Proves that a bundle means what its sources say
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  policyc verify bundle.bin -f manifests/

Every scope, every set of source predicates, every port class and every rule that is left to
userspace is compared with the naive reading of the sources. What a catch-all DENY means is taken
from the bundle.")]
pub struct Args {
    /// The bundle
    bundle: PathBuf,

    #[command(flatten)]
    sources: SourceArgs,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let name = args.bundle.display();
    let bytes = fs::read(&args.bundle).with_context(|| format!("cannot read {name}"))?;
    let bundle = match bundle::read(&bytes) {
        Ok(bundle) => bundle,
        Err(error) => {
            eprintln!("policyc: {name}: {error}");
            return Ok(Outcome::Bad);
        }
    };
    let loaded = match args.sources.load() {
        Ok(loaded) => loaded,
        Err(outcome) => return Ok(outcome),
    };
    let options = Options {
        now: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the clock")?
            .as_secs(),
        jwks: args.sources.key_sets()?,
        catch_all_deny: bundle.program.catch_all_deny,
    };
    let start = Instant::now();
    let shown = stderr().is_terminal();
    let mut progress = |done: usize, all: usize| {
        if shown && (done.is_multiple_of(100) || done == all) {
            // Progress is for people; that it cannot be written is no reason to stop.
            let _ = write!(stderr(), "\r{done} of {all} scopes ");
        }
    };
    let verified = match verify(&bundle.program, &loaded.cluster, &options, &mut progress) {
        Ok(verified) => verified,
        Err(why) => {
            eprintln!("policyc: {why}");
            return Ok(Outcome::Bad);
        }
    };
    if shown {
        let _ = write!(stderr(), "\r");
    }
    let mut out = stdout();
    for difference in &verified.differences {
        writeln!(out, "{}", serde_json::to_string(&difference.request)?)?;
        writeln!(out, "  the sources say  {}", difference.sources)?;
        writeln!(out, "  the bundle says  {}", difference.bundle)?;
    }
    writeln!(
        out,
        "{}: {} scopes, {} rows, {} cells, {} requests compared in {:.1} s",
        if verified.differences.is_empty() {
            "the same"
        } else {
            "NOT the same"
        },
        verified.scopes,
        verified.rows,
        verified.cells,
        verified.requests,
        start.elapsed().as_secs_f64()
    )?;
    Ok(if verified.differences.is_empty() {
        Outcome::Good
    } else {
        Outcome::Bad
    })
}
