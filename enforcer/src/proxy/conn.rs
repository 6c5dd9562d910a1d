//! One client connection: who, to where, and how to ask for a verdict.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use policyc::{
    ir::RuleRef,
    l7::{Answer, Connection, HttpRequest, Outcome, Step, Upstream, answer::is_grpc},
    request::{Authorizer, Cause, Expected, Wire},
};

use super::{
    Decision, Event, Flow, Flows, Judge, Maker, ProxyConfig, Reporter, Spoken, listener::Stats,
};

/// What all connections share.
pub(super) struct Shared {
    pub config: ProxyConfig,
    pub judge: Arc<dyn Judge>,
    pub flows: Arc<dyn Flows>,
    pub reporter: Arc<dyn Reporter>,
    pub stats: Arc<Stats>,
}

/// A client's connection. Dropped when its last user is.
pub(super) struct Conn {
    pub shared: Arc<Shared>,
    pub client: SocketAddr,
    pub pod: SocketAddr,
    maker: Maker,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.shared.flows.client_closed(self.flow());
    }
}

impl Conn {
    /// An accepted connection.
    pub fn new(shared: Arc<Shared>, client: SocketAddr, pod: SocketAddr) -> Self {
        let flow = Flow {
            pod,
            remote: client,
        };
        let maker = shared.flows.client_opened(flow);
        Self {
            shared,
            client,
            pod,
            maker,
        }
    }

    fn flow(&self) -> Flow {
        Flow {
            pod: self.pod,
            remote: self.client,
        }
    }

    /// The verdict of the policies that are in force now, reported. Without a table everything is
    /// refused.
    pub fn judge(&self, wire: Wire, sni: Option<&str>, http: Option<&HttpRequest<'_>>) -> Outcome {
        let Some(ruling) = self.shared.judge.ruling(self.flow(), self.maker) else {
            return settled(Expected::Deny, Cause::NoAllowMatched, None, http);
        };
        let outcome = match &ruling.decision {
            Decision::Settled {
                verdict,
                cause,
                rule,
            } => settled(*verdict, *cause, *rule, http),
            Decision::Ask { engine, residual } => {
                let connection = Connection {
                    peer: Some(self.client.ip()),
                    sni,
                };
                let judge = |answer| engine.judge(residual, wire, connection, http, answer);
                match judge(None) {
                    Step::Verdict(outcome) => *outcome,
                    // No authorizer is reached from here: that is its failure, and the provider's
                    // settings say what failure means.
                    Step::AskAuthorizer { .. } => match judge(Some(Authorizer::Error)) {
                        Step::Verdict(outcome) => *outcome,
                        Step::AskAuthorizer { rule, .. } => {
                            settled(Expected::Deny, Cause::CustomError, Some(rule), http)
                        }
                    },
                }
            }
        };
        self.report(ruling.epoch, &outcome, wire, sni, http);
        outcome
    }

    /// Whether a request might be judged as such on this port, by the table in force now.
    pub fn may_speak_http(&self) -> bool {
        match self.shared.judge.ruling(self.flow(), self.maker) {
            Some(ruling) => match ruling.decision {
                Decision::Ask { residual, .. } => residual.may_speak_http(),
                // Settled or not, a request can be answered as one.
                Decision::Settled { .. } => true,
            },
            None => false,
        }
    }

    fn report(
        &self,
        epoch: u32,
        outcome: &Outcome,
        wire: Wire,
        sni: Option<&str>,
        http: Option<&HttpRequest<'_>>,
    ) {
        let stats = &self.shared.stats;
        let count = match outcome.verdict {
            Expected::Allow => &stats.allowed,
            Expected::Deny => &stats.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
        let policy = outcome
            .rule
            .and_then(|rule| self.shared.judge.policy_name(epoch, rule));
        self.shared.reporter.verdict(&Event {
            source: self.client,
            destination: self.pod,
            epoch,
            verdict: outcome.verdict,
            cause: outcome.cause,
            policy: policy.as_deref(),
            rule: outcome.rule,
            audit: &outcome.audit,
            dry_run_allow: &outcome.dry_run_allow,
            dry_run_deny: &outcome.dry_run_deny,
            spoken: match (http, wire) {
                (Some(http), _) => Spoken::Http {
                    method: http.method,
                    target: http.target,
                    host: http.authority,
                },
                (None, Wire::Tls) => Spoken::Tls { sni },
                (None, Wire::Tcp | Wire::Http) => Spoken::Tcp,
            },
        });
    }
}

fn settled(
    verdict: Expected,
    cause: Cause,
    rule: Option<RuleRef>,
    http: Option<&HttpRequest<'_>>,
) -> Outcome {
    let answer = http.filter(|_| verdict == Expected::Deny).map(|http| {
        let grpc = http
            .headers
            .any("content-type", &mut |value| is_grpc(value));
        Answer::denied(grpc)
    });
    Outcome {
        verdict,
        cause,
        rule,
        audit: Vec::new(),
        dry_run_allow: Vec::new(),
        dry_run_deny: Vec::new(),
        answer,
        upstream: Upstream::default(),
    }
}
