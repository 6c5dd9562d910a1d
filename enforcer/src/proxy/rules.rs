//! What judges, from a linked table: the words for who and where, the residuals for what is said.

use std::{net::IpAddr, sync::Arc};

use enforcer_ebpf::{
    decide::{address_v4, address_v6, decide, pod_by_slot},
    words::{Cell, Holder, Verdict, Words, pod, pod_flags},
};
use policyc::{
    ir::{Policy, Program, RuleRef},
    l7::{CompileError, CompiledResidual, Engine, KeyRing},
    link::Linked,
    request::{Cause, Expected},
};

use super::{Decision, Flow, Maker, Ruling};

/// A table as the proxy reads it.
pub struct Rules {
    epoch: u32,
    words: Box<dyn Words + Send + Sync>,
    engine: Arc<Engine>,
    residuals: Vec<Arc<CompiledResidual>>,
    records: Vec<Settled>,
    /// By number.
    policies: Vec<Arc<Policy>>,
}

struct Settled {
    cause: Cause,
    rule: Option<RuleRef>,
    residual: usize,
}

impl Rules {
    /// As [`Rules::with_keys`], without key sets beyond the program's own.
    pub fn new(
        epoch: u32,
        program: &Program,
        linked: &Linked,
        words: Box<dyn Words + Send + Sync>,
    ) -> Result<Self, CompileError> {
        Self::with_keys(epoch, program, linked, words, &KeyRing::default())
    }

    /// Compiles what is left for userspace. `words` are those of `linked`, wherever they are kept;
    /// `keys` has the key sets that the program does not.
    pub fn with_keys(
        epoch: u32,
        program: &Program,
        linked: &Linked,
        words: Box<dyn Words + Send + Sync>,
        keys: &KeyRing,
    ) -> Result<Self, CompileError> {
        let engine = Engine::with_keys(program, keys);
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
            policies: program.policies.clone(),
        })
    }

    /// What the table says about a client and a pod's port. Whatever cannot be found is refused.
    pub fn ruling(&self, flow: Flow, maker: Maker) -> Ruling {
        let cell = match self.class(flow.remote.ip(), maker) {
            Some(class) => {
                let scope = self.scope(flow.pod.ip());
                decide(&*self.words, scope, class, u32::from(flow.pod.port()))
            }
            None => Cell::NOTHING,
        };
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

    /// Whether the kernel refuses a client of a policed pod, where the client's address tells. False
    /// where it does not.
    pub fn surely_denies(&self, flow: Flow) -> bool {
        let remote = self.address(flow.remote.ip());
        let told = !matches!(remote.holder(), Holder::Node | Holder::Unknown);
        let scope = self.scope(flow.pod.ip());
        let port = u32::from(flow.pod.port());
        let cell = decide(&*self.words, scope, remote.class(), port);
        told && scope != 0 && cell.verdict() == Verdict::Deny
    }

    /// Activation of the table.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// `namespace/name` of a rule's policy.
    pub fn policy_name(&self, rule: RuleRef) -> Option<String> {
        let policy = self.policies.get(rule.policy.index())?;
        Some(policy.qualified_name())
    }

    /// The class by which the kernel has judged the client, and `None` where nobody knows who it is.
    fn class(&self, client: IpAddr, maker: Maker) -> Option<u32> {
        let words = &*self.words;
        let address = self.address(client);
        match (address.holder(), maker) {
            (Holder::LocalPod(_), _) => Some(address.class()),
            // The node has put an address of its own in the place of the pod's.
            (_, Maker::Pod(slot)) => {
                let at = pod_by_slot(words, slot);
                let class = match client {
                    IpAddr::V4(_) => pod::CLASS_V4,
                    IpAddr::V6(_) => pod::CLASS_V6,
                };
                (at != 0).then(|| words.at(at + class) & 0xffff)
            }
            // Any pod may hide behind the node's address: without a word of the kernel it is nobody's.
            (Holder::Node, Maker::Unknown) => None,
            // An address within the pods' ranges that nobody is known to hold is never judged as
            // without identity.
            (Holder::Unknown, _) => None,
            (Holder::Node | Holder::RemotePod | Holder::Outside, _) => Some(address.class()),
        }
    }

    /// The scope of a policed pod of this node, or 0.
    fn scope(&self, ip: IpAddr) -> u32 {
        let words = &*self.words;
        let Holder::LocalPod(slot) = self.address(ip).holder() else {
            return 0;
        };
        let at = pod_by_slot(words, slot);
        let enrolled = words.at(at + pod::FLAGS) & pod_flags::ENROLLED != 0;
        let scope = match ip {
            IpAddr::V4(_) => pod::SCOPE_V4,
            IpAddr::V6(_) => pod::SCOPE_V6,
        };
        if at != 0 && enrolled {
            words.at(at + scope)
        } else {
            0
        }
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
