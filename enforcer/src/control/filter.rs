//! Which lines a monitor wants.

use serde::{Deserialize, Serialize};

use crate::report::{Line, Peer, Verdict, VerdictLine};

/// What is empty wants all. Lines that are no verdicts are wanted always.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Namespace of the source or of the destination.
    pub namespace: Option<String>,
    /// `namespace/name`, or a name, of the source or of the destination.
    pub pod: Option<String>,
    pub verdict: Option<Verdict>,
    /// `namespace/name` of the deciding, auditing or dry-run policy, or of the shadow's.
    pub policy: Option<String>,
    /// Of the policies or of the datapath.
    pub reason: Option<String>,
    /// `namespace/name`, address or principal of the source.
    pub source: Option<String>,
}

impl Filter {
    /// Whether a line is wanted.
    pub fn wants(&self, line: &Line) -> bool {
        match line {
            Line::Verdict(verdict) => self.wants_verdict(verdict),
            Line::Lost { .. } | Line::Dropped { .. } | Line::Notice(_) => true,
        }
    }

    fn wants_verdict(&self, line: &VerdictLine) -> bool {
        let any_end = |matches: &dyn Fn(&str, &str) -> bool| {
            [&line.src, &line.dst].into_iter().any(|end| match end {
                Peer::Pod(pod) => pod
                    .split_once('/')
                    .is_some_and(|(namespace, name)| matches(namespace, name)),
                Peer::Ip { .. } => false,
            })
        };
        let namespace = self
            .namespace
            .as_ref()
            .is_none_or(|wanted| any_end(&|namespace, _| namespace == wanted));
        let pod = self.pod.as_ref().is_none_or(|wanted| {
            any_end(&|namespace, name| match wanted.split_once('/') {
                Some(both) => both == (namespace, name),
                None => name == wanted,
            })
        });
        let policy = self.policy.as_ref().is_none_or(|wanted| {
            let shadow = line.shadow.as_ref().and_then(|s| s.policy.as_ref());
            line.policy.as_ref() == Some(wanted)
                || shadow == Some(wanted)
                || line.audit.iter().any(|hit| hit.policy == *wanted)
                || line.dry_run.iter().any(|hit| hit.policy == *wanted)
        });
        let reason = self
            .reason
            .as_ref()
            .is_none_or(|wanted| line.reason == *wanted || line.datapath == *wanted);
        let source = self.source.as_ref().is_none_or(|wanted| {
            line.src.to_string() == *wanted
                || line.src_ip.to_string() == *wanted
                || line.src_principal.as_ref() == Some(wanted)
        });
        let verdict = self.verdict.is_none_or(|wanted| wanted == line.verdict);
        namespace && pod && policy && reason && source && verdict
    }
}
