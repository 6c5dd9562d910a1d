//! `policyc replay`: which recorded flows would meet another verdict.

use std::io::{Write, stdout};

use clap::ValueEnum;
use policyc::{
    compile::compile,
    explain::cause,
    replay::{Changed, Replay, Unknown, Verdict, replay},
    request::{HeaderValues, Request, SourceRef},
};

use super::{Outcome, flows::FlowArgs, sources::SourceArgs};

/// Judges recorded traffic by other policies, and lists what changes
///
/// A recording holds neither headers nor tokens, and of what the kernel decides nothing that was
/// said: where the new verdict depends on that, the flow is listed as not known.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  enforcer monitor --format json > flows.jsonl      # on a node that runs with --events all
  policyc replay -f new/ --flows flows.jsonl
  policyc replay -f new/ --flows flows.jsonl --fail-on narrow   # nothing in use may break

Exit code 1 where --fail-on says so: `widen` when a flow that was denied is allowed, `narrow` when one
that was allowed is denied, or, with both and `any`, when its verdict is not known.")]
pub struct Args {
    #[command(flatten)]
    sources: SourceArgs,

    #[command(flatten)]
    flows: FlowArgs,

    /// Which changes are a no
    #[arg(long, value_enum, default_value_t = FailOn::Never)]
    fail_on: FailOn,

    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,

    /// The time at which tokens of requests are checked, as RFC 3339; default the clock
    #[arg(long, value_name = "TIME", value_parser = super::time::seconds)]
    now: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum FailOn {
    /// None
    Never,
    /// Denied before, allowed now; or not known
    Widen,
    /// Allowed before, denied now; or not known
    Narrow,
    /// Any of these, and flows that cannot be judged
    Any,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    Human,
    Json,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let recording = args.flows.read(&args.sources)?;
    if recording.without_verdict > 0 {
        anyhow::bail!(
            "{} of the flows have no verdict that could change: record them with `enforcer monitor --format json`, or give them `expect`",
            recording.without_verdict
        );
    }
    let loaded = match args.sources.load() {
        Ok(loaded) => loaded,
        Err(outcome) => return Ok(outcome),
    };
    let program = compile(
        &loaded,
        args.sources.catch_all_deny.into(),
        &args.sources.key_sets()?,
    )?;
    let now = args.now.map_or_else(super::time::clock, Ok)?;
    let result = replay(&program, &loaded.cluster, &recording, now);
    match args.format {
        Format::Json => writeln!(stdout(), "{}", serde_json::to_string_pretty(&result)?)?,
        Format::Human => print(&result)?,
    }
    let unknown = |was: Verdict| result.unknown.iter().any(|flow| flow.was == was);
    let bad = match args.fail_on {
        FailOn::Never => false,
        FailOn::Widen => !result.widened.is_empty() || unknown(Verdict::Deny),
        FailOn::Narrow => !result.narrowed.is_empty() || unknown(Verdict::Allow),
        FailOn::Any => result.same < result.flows,
    };
    Ok(if bad { Outcome::Bad } else { Outcome::Good })
}

fn print(result: &Replay) -> std::io::Result<()> {
    let mut out = stdout().lock();
    for (lists, what) in [
        (&result.widened, "widened "),
        (&result.narrowed, "narrowed"),
    ] {
        for changed in lists {
            writeln!(out, "{what}  {}", change(changed))?;
        }
    }
    for (lists, what) in [
        (&result.unknown, "unknown "),
        (&result.unjudged, "unjudged"),
    ] {
        for Unknown {
            flow,
            count,
            was,
            why,
        } in lists
        {
            let was = verdict(*was);
            writeln!(out, "{what}  {count} x {}  was {was}: {why}", words(flow))?;
        }
    }
    let sum = |counts: &mut dyn Iterator<Item = u64>| counts.sum::<u64>();
    writeln!(
        out,
        "{} flows: {} the same, {} widened, {} narrowed, {} not known, {} cannot be judged",
        result.flows,
        result.same,
        sum(&mut result.widened.iter().map(|c| c.count)),
        sum(&mut result.narrowed.iter().map(|c| c.count)),
        sum(&mut result.unknown.iter().map(|u| u.count)),
        sum(&mut result.unjudged.iter().map(|u| u.count)),
    )?;
    for (why, count) in &result.skipped {
        writeln!(out, "{count} lines left out: {}", why.words())?;
    }
    if result.lost > 0 {
        writeln!(out, "{} verdicts passed the monitor unseen", result.lost)?;
    }
    Ok(())
}

fn change(changed: &Changed) -> String {
    let by = match (&changed.policy, changed.rule) {
        (Some(policy), Some(rule)) => format!(" ({policy} rule {rule})"),
        _ => String::new(),
    };
    format!(
        "{} x {}  was {}, now {}: {}{by}",
        changed.count,
        words(&changed.flow),
        verdict(changed.was),
        verdict(changed.now),
        cause(changed.reason),
    )
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    }
}

/// `default/frontend -> default/backend:80 GET /api`
pub fn words(flow: &Request) -> String {
    let source = match &flow.src {
        SourceRef::Pod(name) => name.clone(),
        SourceRef::Ip(source) => source.ip.to_string(),
        SourceRef::ServiceAccount(source) => format!("sa:{}", source.sa),
    };
    let mut text = format!("{source} -> {}:{}", flow.dst, flow.port);
    if let Some(http) = &flow.http {
        let host = http
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("host"));
        let host = host.and_then(|(_, values)| HeaderValues::lines(values).first());
        let host = http.host.as_ref().or(host);
        text += &format!(" {} {}{}", http.method, host.map_or("", |h| h), http.path);
    }
    if let Some(sni) = &flow.sni {
        text += &format!(" (TLS to {sni})");
    }
    text
}
