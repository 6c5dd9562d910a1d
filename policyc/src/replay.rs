//! Recorded traffic against other policies: which flows would meet another verdict.
//!
//! A record does not hold everything that was said: the kernel decides before anything is, and the
//! proxy records no headers and no tokens. Where the new verdict depends on that, it is not guessed.

pub mod flow;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    cluster::Cluster,
    engine,
    ir::Program,
    request::{Cause, Expected, Request},
};
use flow::{Flow, Line, Said, Seen, Skipped};

/// Distinct flows that are kept; more are an error, for they would have to be dropped.
pub const FLOWS_MAX: usize = 1_000_000;

/// Recorded traffic, equal flows as one.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    flows: BTreeMap<Key, Kept>,
    /// Lines that are no verdict of policies.
    pub skipped: BTreeMap<Skipped, u64>,
    /// Verdicts that the monitor has missed.
    pub lost: u64,
    /// Flows without a verdict.
    pub without_verdict: u64,
}

/// What tells flows apart: the request without its number, and what is known of the verdict.
type Key = (String, Option<(Verdict, Said)>);

#[derive(Clone, Debug)]
struct Kept {
    request: Request,
    count: u64,
}

/// A verdict that can be ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allow,
    Deny,
}

impl From<Expected> for Verdict {
    fn from(verdict: Expected) -> Self {
        match verdict {
            Expected::Allow => Self::Allow,
            Expected::Deny => Self::Deny,
        }
    }
}

/// One distinct flow of a recording.
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'a> {
    pub request: &'a Request,
    /// How often it was seen.
    pub count: u64,
    /// The verdict, where there was one, and what is known of what was said.
    pub verdict: Option<(Verdict, Said)>,
}

/// More distinct flows than are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the recording holds more than {FLOWS_MAX} distinct flows: split it")]
pub struct TooMany;

impl Recording {
    /// Adds a line.
    ///
    /// # Errors
    /// More distinct flows than are kept.
    pub fn add(&mut self, line: Line) -> Result<(), TooMany> {
        let Flow { mut request, seen } = match line {
            Line::Flow(flow) => *flow,
            Line::Lost(lost) => {
                self.lost = self.lost.saturating_add(lost);
                return Ok(());
            }
            Line::Notice => return Ok(()),
        };
        let verdict = match seen {
            Seen::Verdict { verdict, said } => Some((verdict.into(), said)),
            Seen::Nothing => {
                self.without_verdict += 1;
                None
            }
            Seen::Other(why) => {
                *self.skipped.entry(why).or_default() += 1;
                return Ok(());
            }
        };
        let id = std::mem::take(&mut request.id);
        request.expect = None;
        // A request is strings and numbers: it can always be written.
        let key = (serde_json::to_string(&request).unwrap_or_default(), verdict);
        request.id = id;
        let full = self.flows.len() >= FLOWS_MAX;
        match self.flows.get_mut(&key) {
            Some(kept) => kept.count += 1,
            None if full => return Err(TooMany),
            None => {
                self.flows.insert(key, Kept { request, count: 1 });
            }
        }
        Ok(())
    }

    /// Adds a flow of another recording.
    pub(crate) fn keep(&mut self, flow: Recorded<'_>) {
        let mut request = flow.request.clone();
        let id = std::mem::take(&mut request.id);
        let key = (
            serde_json::to_string(&request).unwrap_or_default(),
            flow.verdict,
        );
        request.id = id;
        let count = flow.count;
        self.flows.insert(key, Kept { request, count });
    }

    /// The distinct flows, in an order that does not depend on when they were seen.
    pub fn flows(&self) -> impl Iterator<Item = Recorded<'_>> {
        self.flows.iter().map(|((_, verdict), kept)| Recorded {
            request: &kept.request,
            count: kept.count,
            verdict: *verdict,
        })
    }
}

/// What became of a recording under other policies. All counts are of recorded flows, repetitions
/// included.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Replay {
    pub flows: u64,
    /// Flows that meet the same verdict.
    pub same: u64,
    /// Denied before, allowed now.
    pub widened: Vec<Changed>,
    /// Allowed before, denied now.
    pub narrowed: Vec<Changed>,
    /// The verdict depends on what was not recorded.
    pub unknown: Vec<Unknown>,
    /// Flows that cannot be judged: their pods are not in the inventory, mostly.
    pub unjudged: Vec<Unknown>,
    /// Lines that are no verdict of policies.
    pub skipped: BTreeMap<Skipped, u64>,
    pub lost: u64,
}

/// A flow that meets another verdict.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Changed {
    pub flow: Request,
    pub count: u64,
    pub was: Verdict,
    pub now: Verdict,
    pub reason: Cause,
    /// `namespace/name` of the policy that decides now.
    pub policy: Option<String>,
    pub rule: Option<u32>,
}

/// A flow of which the verdict is not known.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Unknown {
    pub flow: Request,
    pub count: u64,
    pub was: Verdict,
    pub why: String,
}

/// Judges a recording by a program. `now` is in seconds since 1970.
pub fn replay(program: &Program, cluster: &Cluster, recording: &Recording, now: u64) -> Replay {
    let mut replay = Replay {
        skipped: recording.skipped.clone(),
        lost: recording.lost,
        ..Replay::default()
    };
    let mut by_said: BTreeMap<Said, Vec<(Recorded<'_>, Verdict)>> = BTreeMap::new();
    for flow in recording.flows() {
        if let Some((verdict, said)) = flow.verdict {
            by_said.entry(said).or_default().push((flow, verdict));
        }
    }
    for (said, flows) in by_said {
        let requests: Vec<Request> = flows.iter().map(|(flow, _)| flow.request.clone()).collect();
        let answers = engine::each(
            program,
            cluster,
            &requests,
            |table, number, request, parties| table.certain(number, request, parties, said, now),
        );
        for ((flow, was), answer) in flows.into_iter().zip(answers) {
            replay.flows += flow.count;
            let unknown = |why: String| Unknown {
                flow: flow.request.clone(),
                count: flow.count,
                was,
                why,
            };
            let certain = match answer {
                Err(why) => {
                    replay.unjudged.push(unknown(why));
                    continue;
                }
                Ok(None) => {
                    replay.unknown.push(unknown(not_recorded(said).into()));
                    continue;
                }
                Ok(Some(certain)) => certain,
            };
            let now = Verdict::from(certain.verdict);
            if now == was {
                replay.same += flow.count;
                continue;
            }
            let list = match now {
                Verdict::Allow => &mut replay.widened,
                Verdict::Deny => &mut replay.narrowed,
            };
            list.push(Changed {
                flow: flow.request.clone(),
                count: flow.count,
                was,
                now,
                reason: certain.cause,
                policy: certain.policy,
                rule: certain.rule,
            });
        }
    }
    replay
}

fn not_recorded(said: Said) -> &'static str {
    match said {
        Said::Nothing => {
            "it depends on the request, and the kernel had decided before there was one"
        }
        Said::Part | Said::Everything => {
            "it depends on headers, a token or an authorizer, which are not recorded"
        }
    }
}
