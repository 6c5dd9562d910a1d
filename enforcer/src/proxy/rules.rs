//! What judges, from a linked table: the words for who and where, the residuals for what is said.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use enforcer_ebpf::{
    decide::{address_v4, address_v6, decide, pod_by_slot},
    words::{Holder, Verdict, Words, pod, pod_flags},
};
use policyc::{
    ir::{Program, RuleRef},
    l7::{CompileError, CompiledResidual, Engine},
    link::Linked,
    request::{Cause, Expected},
};

use super::{Decision, Ruling};

/// A table as the proxy reads it.
pub struct Rules {
    epoch: u32,
    words: Box<dyn Words + Send + Sync>,
    engine: Arc<Engine>,
    residuals: Vec<Arc<CompiledResidual>>,
    records: Vec<Settled>,
    /// `namespace/name`, by number.
    policies: Vec<String>,
}

struct Settled {
    cause: Cause,
    rule: Option<RuleRef>,
    residual: usize,
}

impl Rules {
    /// Compiles what is left for userspace. `words` are those of `linked`, wherever they are kept.
    pub fn new(
        epoch: u32,
        program: &Program,
        linked: &Linked,
        words: Box<dyn Words + Send + Sync>,
    ) -> Result<Self, CompileError> {
        let engine = Engine::new(program);
        let residuals = linked.residuals.iter();
        let residuals = residuals.map(|residual| engine.compile(residual).map(Arc::new));
        let records = linked.records.iter().map(|record| Settled {
            cause: record.cause,
            rule: record.rule,
            residual: record.residual as usize,
        });
        Ok(Self {
            epoch,
            words,
            residuals: residuals.collect::<Result<_, _>>()?,
            engine: Arc::new(engine),
            records: records.collect(),
            policies: program
                .policies
                .iter()
                .map(|p| p.qualified_name())
                .collect(),
        })
    }

    /// What the table says about a client and a pod's port. Whatever cannot be found is refused.
    pub fn ruling(&self, client: SocketAddr, to: SocketAddr) -> Ruling {
        let words = &*self.words;
        let (source, destination) = (self.address(client.ip()), self.address(to.ip()));
        let scope = match destination.holder() {
            // An address within the pods' ranges that nobody is known to hold is never judged as
            // without identity.
            Holder::LocalPod(slot) if source.holder() != Holder::Unknown => {
                let at = pod_by_slot(words, slot);
                let enrolled = words.at(at + pod::FLAGS) & pod_flags::ENROLLED != 0;
                let scope = match to.ip() {
                    IpAddr::V4(_) => pod::SCOPE_V4,
                    IpAddr::V6(_) => pod::SCOPE_V6,
                };
                if at != 0 && enrolled {
                    words.at(at + scope)
                } else {
                    0
                }
            }
            _ => 0,
        };
        let cell = decide(words, scope, source.class(), u32::from(to.port()));
        let record = self.records.get(cell.record() as usize);
        let settled = |verdict| Decision::Settled {
            verdict,
            cause: record.map_or(Cause::NoAllowMatched, |r| r.cause),
            rule: record.and_then(|r| r.rule),
        };
        let decision = match cell.verdict() {
            Verdict::Allow => settled(Expected::Allow),
            Verdict::Deny => settled(Expected::Deny),
            Verdict::Ask => match record.and_then(|r| self.residuals.get(r.residual)) {
                Some(residual) => Decision::Ask {
                    engine: Arc::clone(&self.engine),
                    residual: Arc::clone(residual),
                },
                None => settled(Expected::Deny),
            },
        };
        Ruling {
            epoch: self.epoch,
            decision,
        }
    }

    /// Activation of the table.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// `namespace/name` of a rule's policy.
    pub fn policy_name(&self, rule: RuleRef) -> Option<&str> {
        self.policies.get(rule.policy.index()).map(String::as_str)
    }

    fn address(&self, ip: IpAddr) -> enforcer_ebpf::words::Address {
        match ip {
            IpAddr::V4(ip) => address_v4(&*self.words, ip.to_bits()),
            IpAddr::V6(ip) => {
                let word = |i: usize| {
                    let [a, b] = [ip.segments()[2 * i], ip.segments()[2 * i + 1]];
                    u32::from(a) << 16 | u32::from(b)
                };
                address_v6(&*self.words, &[word(0), word(1), word(2), word(3)])
            }
        }
    }
}
