//! `enforcer doctor`: can this node enforce, and if not, what would mend it.
//!
//! It changes nothing: what it tries, it tries with small maps of its own and in a namespace that
//! ends with the trial.

mod enrolment;
mod kernel;
mod network;
mod place;
mod uplinks;

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{Failure, Format, PlaceArgs, SocketArgs};
use crate::rights;

/// Say what this node lacks, and how to mend it
///
/// Exit status 1 when something is missing that enforcement needs.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  enforcer doctor\n  enforcer doctor --format json\n\nRun it where the agent runs: in its container, on the node's network."
)]
pub struct Doctor {
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    socket: SocketArgs,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Finding {
    what: String,
    state: State,
    found: String,
    /// How to mend it; empty when there is nothing to mend.
    fix: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// It works, and could work better, or for more pods.
    Note,
    /// Enforcement does not work without it.
    Missing,
}

impl Doctor {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut findings = kernel::examine(&self.place.bpffs);
        findings.extend(capabilities());
        findings.extend(place::examine(&self.place.bpffs));
        findings.extend(runtime.block_on(network::examine()));
        findings.extend(runtime.block_on(uplinks::examine()));
        findings.extend(enrolment::examine(&self.socket.socket));
        match self.format {
            Format::Json => println!("{}", serde_json::to_string_pretty(&findings)?),
            Format::Human => print(&findings),
        }
        let missing = findings.iter().any(|f| f.state == State::Missing);
        Ok(ExitCode::from(u8::from(missing)))
    }
}

fn print(findings: &[Finding]) {
    for finding in findings {
        let mark = match finding.state {
            State::Ok => "ok     ",
            State::Note => "note   ",
            State::Missing => "MISSING",
        };
        println!("{mark}  {:24} {}", finding.what, finding.found);
        if !finding.fix.is_empty() {
            println!("         {:24} -> {}", "", finding.fix);
        }
    }
}

fn capabilities() -> impl Iterator<Item = Finding> {
    let effective = rights::effective();
    rights::CAPABILITIES.iter().map(move |capability| {
        let granted = capability.is_in(effective);
        let found = match granted {
            true => format!("granted: {}", capability.serves),
            false => format!("not granted: {}", capability.serves),
        };
        let fix = "run it as root, or grant it";
        match (granted, capability.needed) {
            (true, _) => ok(capability.name, found),
            (false, true) => missing(capability.name, found, fix),
            (false, false) => note(capability.name, found, fix),
        }
    })
}

fn read(path: &str) -> String {
    // What cannot be read is not there, which each caller has a word for.
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

fn ok(what: &str, found: impl Into<String>) -> Finding {
    finding(what, State::Ok, found, "")
}

fn note(what: &str, found: impl Into<String>, fix: &str) -> Finding {
    finding(what, State::Note, found, fix)
}

fn missing(what: &str, found: impl Into<String>, fix: &str) -> Finding {
    finding(what, State::Missing, found, fix)
}

fn finding(what: &str, state: State, found: impl Into<String>, fix: &str) -> Finding {
    Finding {
        what: what.into(),
        state,
        found: found.into(),
        fix: fix.into(),
    }
}
