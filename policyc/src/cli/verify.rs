//! `policyc verify`: does a bundle mean what its sources say, and who has signed it?

use std::{
    fs,
    io::{IsTerminal, Write, stderr, stdout},
    path::PathBuf,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use policyc::{
    bundle::{self, Bundle},
    options::{CatchAllDeny, Options},
    sign,
    verify::verify,
};

use super::{
    Outcome,
    sign::public_keys,
    sources::{MaybeSourceArgs, SourceArgs},
};

/// Proves that a bundle means what its sources say, and that it was signed
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  policyc verify bundle.bin -f manifests/
  policyc verify --signature policyc.pub bundle.bin
  policyc verify --signature old.pub --signature new.pub bundle.bin -f manifests/

Every scope, every set of source predicates, every port class and every rule that is left to
userspace is compared with the naive reading of the sources. What a catch-all DENY means is taken
from the bundle. A signature may be of any of the keys.")]
pub struct Args {
    /// The bundle
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,

    /// Public key, PEM, of which one must have signed the bundle; repeatable
    #[arg(long, value_name = "KEY", required_unless_present = "files")]
    signature: Vec<PathBuf>,

    #[command(flatten)]
    sources: MaybeSourceArgs,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let name = args.bundle.display();
    let bytes = fs::read(&args.bundle).with_context(|| format!("cannot read {name}"))?;
    let keys = public_keys(&args.signature)?;
    if !keys.is_empty() {
        // Before anything else of it is read.
        let key = match sign::verify(&bytes, &keys) {
            Ok(key) => sign::fingerprint(key.as_bytes()),
            Err(error) => {
                eprintln!("policyc: {name}: {error}");
                return Ok(Outcome::Bad);
            }
        };
        writeln!(stdout(), "signed by key {key}")?;
    }
    let bundle = match bundle::read(&bytes) {
        Ok(bundle) => bundle,
        Err(error) => {
            eprintln!("policyc: {name}: {error}");
            return Ok(Outcome::Bad);
        }
    };
    match args.sources.given() {
        Some(sources) => {
            let of_bundle = bundle.program.catch_all_deny;
            let expected = args.sources.catch_all_deny.map(Into::into);
            if expected.is_some_and(|expected: CatchAllDeny| expected != of_bundle) {
                eprintln!("policyc: {name} was compiled with another --catch-all-deny");
                return Ok(Outcome::Bad);
            }
            compare(&bundle, &sources)
        }
        None => {
            let (generation, hash) = (bundle.generation, &bundle.hash);
            writeln!(stdout(), "generation {generation}, sha256 {hash}")?;
            Ok(Outcome::Good)
        }
    }
}

/// Compares a bundle with its sources.
fn compare(bundle: &Bundle, sources: &SourceArgs) -> anyhow::Result<Outcome> {
    let loaded = match sources.load() {
        Ok(loaded) => loaded,
        Err(outcome) => return Ok(outcome),
    };
    let options = Options {
        now: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the clock")?
            .as_secs(),
        jwks: sources.key_sets()?,
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
