//! One client connection: who, to where, and how to ask for a verdict.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use policyc::{
    ir::RuleRef,
    l7::{
        Answer, AuthorizerSettings, Connection, HttpRequest, Outcome, Step, Upstream,
        answer::is_grpc,
    },
    request::{Authorizer, Cause, Expected, Wire},
};

use super::{
    Decision, Event, Flow, Flows, Judge, Maker, ProxyConfig, Refusal, Reporter, Ruling, Spoken,
    Why,
    authorizer::{Ask, AskHttp, Checked},
    stats::Stats,
};

/// What all connections share.
pub(super) struct Shared {
    pub config: ProxyConfig,
    pub judge: Arc<dyn Judge>,
    pub flows: Arc<dyn Flows>,
    pub reporter: Arc<dyn Reporter>,
    pub stats: Arc<Stats>,
}

impl Shared {
    /// Counts and reports that a connection is not served, or not to its end.
    pub fn refuse(&self, client: SocketAddr, pod: SocketAddr, refusal: Refusal) {
        self.stats.count(refusal);
        if !self.reporter.wants_verdicts() {
            return;
        }
        self.reporter.verdict(&Event {
            source: client,
            destination: pod,
            epoch: u32::try_from(*self.judge.changes().borrow()).unwrap_or(u32::MAX),
            verdict: Expected::Deny,
            why: Why::Proxy(refusal),
            policy: None,
            rule: None,
            audit: &[],
            dry_run_allow: &[],
            dry_run_deny: &[],
            spoken: Spoken::Tcp,
        });
    }
}

/// A client's connection. Dropped when its last user is.
pub(super) struct Conn {
    pub shared: Arc<Shared>,
    pub client: SocketAddr,
    pub pod: SocketAddr,
    maker: Maker,
}

/// What policies say, or whom they want to be asked.
pub(super) enum Judged {
    Verdict(Box<Outcome>),
    Ask(Question),
}

/// A provider to be asked because of a rule.
pub(super) struct Question {
    pub provider: String,
    pub rule: RuleRef,
    pub settings: Option<Arc<AuthorizerSettings>>,
}

/// What a provider has said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answered {
    pub provider: String,
    pub answer: Authorizer,
}

/// A verdict with names, for the access log.
pub(super) struct Verdict {
    pub epoch: u32,
    pub verdict: Expected,
    pub cause: Cause,
    pub policy: Option<String>,
    pub rule: Option<RuleRef>,
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

    /// What the table in force now says.
    pub fn ruling(&self) -> Option<Ruling> {
        self.shared.judge.ruling(self.flow(), self.maker)
    }

    /// The verdict by a ruling, unreported. Without a table everything is refused. `answered` counts
    /// only where the same provider is to be asked.
    pub fn judge(
        &self,
        ruling: Option<&Ruling>,
        wire: Wire,
        sni: Option<&str>,
        http: Option<&HttpRequest<'_>>,
        answered: Option<&Answered>,
    ) -> Judged {
        let Some(ruling) = ruling else {
            return Judged::Verdict(settled(Expected::Deny, Cause::NoAllowMatched, None, http));
        };
        let (engine, residual) = match &ruling.decision {
            Decision::Settled {
                verdict,
                cause,
                rule,
            } => return Judged::Verdict(settled(*verdict, *cause, *rule, http)),
            Decision::Ask { engine, residual } => (engine, residual),
        };
        let connection = Connection {
            peer: Some(self.client.ip()),
            sni,
        };
        let judge = |answer| engine.judge(residual, wire, connection, http, answer);
        let (provider, rule) = match judge(None) {
            Step::Verdict(outcome) => return Judged::Verdict(outcome),
            Step::AskAuthorizer { provider, rule } => (provider, rule),
        };
        match answered.filter(|answered| answered.provider == provider) {
            Some(answered) => match judge(Some(answered.answer)) {
                Step::Verdict(outcome) => Judged::Verdict(outcome),
                Step::AskAuthorizer { rule, .. } => {
                    let cause = Cause::CustomError;
                    Judged::Verdict(settled(Expected::Deny, cause, Some(rule), http))
                }
            },
            None => Judged::Ask(Question {
                settings: engine.authorizer(provider).cloned(),
                provider: provider.into(),
                rule,
            }),
        }
    }

    /// Whether what is being carried is still allowed by the table in force now. A provider that was
    /// not asked before cannot be asked here: that is its failure, and its settings say what failure
    /// means. Reported only where it is not allowed any more.
    pub fn allows_still(
        &self,
        wire: Wire,
        sni: Option<&str>,
        http: Option<&HttpRequest<'_>>,
        answered: Option<&Answered>,
    ) -> bool {
        let ruling = self.ruling();
        let judge = |answered| self.judge(ruling.as_ref(), wire, sni, http, answered);
        let outcome = match judge(answered) {
            Judged::Verdict(outcome) => outcome,
            Judged::Ask(question) => {
                let failed = Answered {
                    provider: question.provider,
                    answer: Authorizer::Error,
                };
                match judge(Some(&failed)) {
                    Judged::Verdict(outcome) => outcome,
                    Judged::Ask(_) => return false,
                }
            }
        };
        if outcome.verdict == Expected::Allow {
            return true;
        }
        self.shared.stats.broken_off.fetch_add(1, Ordering::Relaxed);
        self.report(epoch(ruling.as_ref()), &outcome, wire, sni, http);
        false
    }

    /// Asks a provider.
    pub async fn ask(
        &self,
        question: &Question,
        sni: Option<&str>,
        http: Option<AskHttp>,
    ) -> io::Result<Checked> {
        self.shared.stats.asked.fetch_add(1, Ordering::Relaxed);
        let judge = &self.shared.judge;
        let (Some(settings), Some(authorizers)) = (&question.settings, judge.authorizers()) else {
            return Err(io::Error::other("nobody can be asked"));
        };
        let ask = Ask {
            source: self.client,
            source_principal: judge.principal(self.client.ip()),
            destination: self.pod,
            destination_principal: judge.principal(self.pod.ip()),
            sni: sni.map(str::to_owned),
            http,
        };
        authorizers.check(Arc::clone(settings), ask).await
    }

    /// Whether a request might be judged as such on this port, by the table in force now.
    pub fn may_speak_http(&self) -> bool {
        match self.ruling() {
            Some(ruling) => match ruling.decision {
                Decision::Ask { residual, .. } => residual.may_speak_http(),
                // Settled or not, a request can be answered as one.
                Decision::Settled { .. } => true,
            },
            None => false,
        }
    }

    /// Counts and reports a verdict.
    pub fn report(
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
        if !self.shared.reporter.wants_verdicts() {
            return;
        }
        let policy = self.policy(epoch, outcome);
        self.shared.reporter.verdict(&Event {
            source: self.client,
            destination: self.pod,
            epoch,
            verdict: outcome.verdict,
            why: Why::Policy(outcome.cause),
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

    /// Counts and reports that the proxy itself refuses or breaks off.
    pub fn refuse(&self, refusal: Refusal) {
        self.shared.refuse(self.client, self.pod, refusal);
    }

    /// A verdict with its names.
    pub fn verdict(&self, epoch: u32, outcome: &Outcome) -> Verdict {
        Verdict {
            epoch,
            verdict: outcome.verdict,
            cause: outcome.cause,
            policy: self.policy(epoch, outcome),
            rule: outcome.rule,
        }
    }

    fn policy(&self, epoch: u32, outcome: &Outcome) -> Option<String> {
        let rule = outcome.rule?;
        self.shared.judge.policy_name(epoch, rule)
    }
}

/// Of a ruling; 0 where there is no table.
pub(super) fn epoch(ruling: Option<&Ruling>) -> u32 {
    ruling.map_or(0, |ruling| ruling.epoch)
}

/// A verdict without questions.
pub(super) fn settled(
    verdict: Expected,
    cause: Cause,
    rule: Option<RuleRef>,
    http: Option<&HttpRequest<'_>>,
) -> Box<Outcome> {
    let answer = http.filter(|_| verdict == Expected::Deny).map(|http| {
        let grpc = http
            .headers
            .any("content-type", &mut |value| is_grpc(value));
        Answer::denied(grpc)
    });
    Box::new(Outcome {
        verdict,
        cause,
        rule,
        audit: Vec::new(),
        dry_run_allow: Vec::new(),
        dry_run_deny: Vec::new(),
        answer,
        upstream: Upstream::default(),
    })
}
