//! `policyc test`: do policies do what is written beside them?

use std::{
    fs,
    io::{Read, Write, stdin, stdout},
};

use anyhow::{Context, bail};
use clap::ValueEnum;
use policyc::{
    expect::{
        self, Expectation,
        coverage::{Coverage, Kind, Share, coverage},
        junit,
    },
    options::Options,
    request::Request,
};
use serde::Serialize;

use super::{
    Outcome,
    eval::{EngineChoice, Engines},
    percent,
    sources::SourceArgs,
};

/// Untouched parts that are listed for people; more are only counted.
const LISTED: usize = 40;

/// Tests policies by expectations that are kept beside them
///
/// An expectation is a request as `eval` reads it with `expect`: allow, deny, or an object with what
/// must come out: verdict, layer, reason, policy, rule, audit, dry_run. JSON lines, or YAML.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  policyc test tests.yaml -f manifests/
  policyc test tests/*.jsonl -f manifests/ --min-coverage 90% --format junit > report.xml

  # tests.yaml
  - src: default/frontend
    dst: default/backend
    port: 80
    protocol: http
    http: {method: GET, path: /api/v1/data}
    expect: {verdict: allow, policy: default/allow-frontend}

Coverage is the share of rules, entries and values that some expectation touches: a rule that matches,
an entry of from, to or when that holds, a value that the request has.")]
pub struct Args {
    /// Files of expectations; `-` for JSON lines on standard input
    #[arg(required = true, value_name = "FILE")]
    tests: Vec<String>,

    #[command(flatten)]
    sources: SourceArgs,

    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,

    /// Fail where less of the policies is touched: 90%, 90 or 0.9
    #[arg(long, value_name = "P", value_parser = percent::share)]
    min_coverage: Option<f64>,

    /// What judges: the compiled tables, the naive reference, or both, which must agree
    #[arg(long, value_enum, default_value_t = EngineChoice::Tables)]
    engine: EngineChoice,

    /// The time at which tokens are checked, as RFC 3339; default the clock
    #[arg(long, value_name = "TIME", value_parser = super::time::seconds)]
    now: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    Human,
    Json,
    Junit,
}

type Results<'a> = Vec<(&'a Expectation, &'a expect::Outcome)>;

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let expectations = match read(args)? {
        Ok(expectations) => expectations,
        Err(error) => {
            eprintln!("policyc: {error}");
            return Ok(Outcome::Failed);
        }
    };
    let loaded = match args.sources.load() {
        Ok(loaded) => loaded,
        Err(outcome) => return Ok(outcome),
    };
    let options = Options {
        now: args.now.map_or_else(super::time::clock, Ok)?,
        jwks: args.sources.key_sets()?,
        catch_all_deny: args.sources.catch_all_deny.into(),
    };
    let requests: Vec<Request> = expectations.iter().map(|e| e.request.clone()).collect();
    let engines = Engines::new(args.engine, &loaded, &options)?;
    let judged = engines.judge(&requests);
    let outcomes: Vec<expect::Outcome> = expectations
        .iter()
        .zip(&judged)
        .map(|(expectation, judged)| expectation.expect.compare(judged))
        .collect();
    let results: Results<'_> = expectations.iter().zip(&outcomes).collect();
    let judged = requests.into_iter().zip(&judged);
    let touching: Vec<Request> = judged
        .filter(|(_, judged)| judged.is_ok())
        .map(|(request, _)| request)
        .collect();
    let measured = coverage(&loaded.cluster, &loaded.sources, &touching, &options)
        .map_err(|why| anyhow::anyhow!("coverage cannot be measured: {why}"))?;

    match args.format {
        Format::Human => human(&results, &measured)?,
        Format::Json => {
            let report = Report::new(&results, &measured);
            writeln!(stdout(), "{}", serde_json::to_string_pretty(&report)?)?;
        }
        Format::Junit => write!(stdout(), "{}", junit::report(&results))?,
    }
    let mut outcome = Outcome::Good;
    if outcomes
        .iter()
        .any(|outcome| *outcome != expect::Outcome::Passed)
    {
        outcome = Outcome::Bad;
    }
    if let Some(wanted) = args.min_coverage
        && measured.share() < wanted
    {
        eprintln!(
            "policyc: coverage is {}, less than --min-coverage {}",
            percent::words(measured.share()),
            percent::words(wanted)
        );
        outcome = Outcome::Bad;
    }
    Ok(outcome)
}

fn read(args: &Args) -> anyhow::Result<Result<Vec<Expectation>, expect::ReadError>> {
    let mut found = Vec::new();
    for name in &args.tests {
        let text = if name == "-" {
            if args.sources.files.iter().any(|file| file == "-") {
                bail!("manifests and expectations cannot both come from standard input");
            }
            let mut text = String::new();
            stdin()
                .read_to_string(&mut text)
                .context("cannot read standard input")?;
            text
        } else {
            fs::read_to_string(name).with_context(|| format!("cannot read {name}"))?
        };
        match expect::read(name, &text) {
            Ok(expectations) => found.extend(expectations),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(found))
}

fn human(results: &Results<'_>, coverage: &Coverage) -> std::io::Result<()> {
    let mut out = stdout().lock();
    let mut failed = 0;
    for (expectation, outcome) in results {
        let (id, place) = (&expectation.request.id, &expectation.place);
        let name = if id == place {
            id.clone()
        } else {
            format!("{id} ({place})")
        };
        match outcome {
            expect::Outcome::Passed => continue,
            expect::Outcome::Failed(why) => writeln!(out, "FAILED {name}: {}", why.join("; "))?,
            expect::Outcome::Error(why) => writeln!(out, "ERROR  {name}: {why}")?,
        }
        writeln!(out, "       {}", super::replay::words(&expectation.request))?;
        failed += 1;
    }
    for untouched in coverage.untouched.iter().take(LISTED) {
        let rule = untouched
            .rule
            .map_or(String::new(), |rule| format!(" rule {rule}"));
        let what = match (untouched.kind, &untouched.value) {
            (Kind::Rule, _) => String::new(),
            (_, Some(value)) => format!(" {} `{value}`", untouched.part),
            (_, None) => format!(" {}", untouched.part),
        };
        let (file, line) = (&untouched.file, untouched.line);
        writeln!(
            out,
            "untouched {file}:{line}: {}{rule}{what}",
            untouched.policy
        )?;
    }
    if coverage.untouched.len() > LISTED {
        writeln!(out, "... and {} more", coverage.untouched.len() - LISTED)?;
    }
    let share = |what, share: Share| format!("{} of {} {what}", share.touched, share.all);
    writeln!(
        out,
        "{} passed, {failed} failed; coverage {}: {}, {}, {}",
        results.len() - failed,
        percent::words(coverage.share()),
        share("rules", coverage.rules),
        share("entries", coverage.entries),
        share("values", coverage.values),
    )
}

#[derive(Serialize)]
struct Report<'a> {
    passed: usize,
    failed: usize,
    results: Vec<ResultLine<'a>>,
    /// From 0 to 1.
    coverage_share: f64,
    coverage: &'a Coverage,
}

#[derive(Serialize)]
struct ResultLine<'a> {
    id: &'a str,
    place: &'a str,
    /// `passed`, `failed` or `error`
    outcome: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<&'a str>,
}

impl<'a> Report<'a> {
    fn new(results: &Results<'a>, coverage: &'a Coverage) -> Self {
        let lines: Vec<ResultLine<'a>> = results
            .iter()
            .map(|(expectation, outcome)| {
                let (outcome, failures) = match outcome {
                    expect::Outcome::Passed => ("passed", Vec::new()),
                    expect::Outcome::Failed(why) => {
                        ("failed", why.iter().map(String::as_str).collect())
                    }
                    expect::Outcome::Error(why) => ("error", vec![why.as_str()]),
                };
                ResultLine {
                    id: &expectation.request.id,
                    place: &expectation.place,
                    outcome,
                    failures,
                }
            })
            .collect();
        let passed = lines.iter().filter(|line| line.outcome == "passed").count();
        Self {
            passed,
            failed: lines.len() - passed,
            results: lines,
            coverage_share: coverage.share(),
            coverage,
        }
    }
}
