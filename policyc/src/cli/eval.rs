//! `policyc eval`: requests in, verdicts out, a JSON line each, in the same order.

mod engines;
mod lines;

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write, stderr, stdin, stdout},
};

use anyhow::{Context, bail};
use clap::ValueEnum;
use policyc::{
    options::Options,
    request::{Expected, Judgement, Request},
};
use serde::Serialize;

pub use self::engines::Engines;
use self::lines::Line;
use super::{Outcome, sources::SourceArgs};

/// Requests that are read, judged and answered at a time.
const BATCH: usize = 65_536;

/// Judges requests: JSON lines in, JSON lines out
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  policyc eval -f manifests/ --requests requests.jsonl
  echo '{\"id\":\"1\",\"src\":\"default/frontend\",\"dst\":\"default/backend\",\"port\":80,\"protocol\":\"http\",\
\"http\":{\"method\":\"GET\",\"path\":\"/\"}}' | policyc eval -f manifests/ --requests -
  policyc eval -f manifests/ --requests requests.jsonl --engine both --now 2026-01-01T00:00:00Z

A line of `enforcer monitor --format json` is a request, too. A request that cannot be judged gives a line with `id` and `error`, and exit code 1 at the end; so does
one whose `expect` (`allow` or `deny`) is not what came of it.")]
pub struct Args {
    #[command(flatten)]
    sources: SourceArgs,

    /// Requests, a JSON object a line; `-` for standard input
    #[arg(long, value_name = "FILE")]
    requests: String,

    /// What judges: the compiled tables, the naive reference, or both, which must agree
    #[arg(long, value_enum, default_value_t = EngineChoice::Tables)]
    engine: EngineChoice,

    /// The time at which tokens are checked, as RFC 3339; default the clock
    #[arg(long, value_name = "TIME", value_parser = super::time::seconds)]
    now: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum EngineChoice {
    /// The linked table and the requests' engine, the code that runs in production
    Tables,
    /// The meaning of policies written naively
    Oracle,
    /// Both; a difference is an error
    Both,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    if args.requests == "-" && args.sources.files.iter().any(|file| file == "-") {
        bail!("manifests and requests cannot both come from standard input");
    }
    let loaded = match args.sources.load() {
        Ok(loaded) => loaded,
        Err(outcome) => return Ok(outcome),
    };
    let options = Options {
        now: args.now.map_or_else(super::time::clock, Ok)?,
        jwks: args.sources.key_sets()?,
        catch_all_deny: args.sources.catch_all_deny.into(),
    };
    let engines = Engines::new(args.engine, &loaded, &options)?;
    let mut input: Box<dyn BufRead> = match args.requests.as_str() {
        "-" => Box::new(stdin().lock()),
        path => Box::new(BufReader::new(
            File::open(path).with_context(|| format!("cannot read {path}"))?,
        )),
    };
    let mut output = BufWriter::new(stdout().lock());
    let mut outcome = Outcome::Good;
    let mut number = 0;
    loop {
        let batch = lines::read(&mut input, &mut number, BATCH)?;
        if batch.is_empty() {
            break;
        }
        if answer(&engines, batch, &mut output)? == Outcome::Bad {
            outcome = Outcome::Bad;
        }
    }
    output.flush()?;
    Ok(outcome)
}

/// Judges a batch and writes a line for each of its lines.
fn answer(
    engines: &Engines<'_>,
    batch: Vec<Line>,
    output: &mut impl Write,
) -> anyhow::Result<Outcome> {
    let requests: Vec<Request> = batch.iter().filter_map(|l| l.request()).cloned().collect();
    let mut judgements = engines.judge(&requests).into_iter();
    let mut outcome = Outcome::Good;
    for line in batch {
        let (id, result) = match line {
            Line::Broken { id, why } => (id, Err(why)),
            Line::Request(request) => {
                let result = judgements
                    .next()
                    .unwrap_or_else(|| Err("the engine gave no answer: this is a defect".into()));
                if !is_expected(&request, &result)? {
                    outcome = Outcome::Bad;
                }
                (request.id, result)
            }
        };
        match result {
            Ok(judgement) => serde_json::to_writer(&mut *output, &Judged { id, judgement })?,
            Err(error) => {
                outcome = Outcome::Bad;
                serde_json::to_writer(&mut *output, &Failed { id, error })?;
            }
        }
        writeln!(output)?;
    }
    Ok(outcome)
}

#[derive(Serialize)]
struct Judged {
    id: String,
    #[serde(flatten)]
    judgement: Judgement,
}

#[derive(Serialize)]
struct Failed {
    id: String,
    error: String,
}

/// Whether a request that says what it expects got just that. What differs is said on standard error.
fn is_expected(request: &Request, result: &Result<Judgement, String>) -> anyhow::Result<bool> {
    let (Some(expected), Ok(judgement)) = (request.expect, result) else {
        return Ok(true);
    };
    if judgement.verdict == expected {
        return Ok(true);
    }
    let word = |verdict| match verdict {
        Expected::Allow => "allow",
        Expected::Deny => "deny",
    };
    writeln!(
        stderr(),
        "{}: expected {}, got {}",
        request.id,
        word(expected),
        word(judgement.verdict)
    )?;
    Ok(false)
}
