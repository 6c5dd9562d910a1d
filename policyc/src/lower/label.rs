//! How a rule was lowered, for people: one label for each protocol a destination port may be
//! declared to speak.

use serde::Serialize;

use crate::{
    cluster::Protocol,
    ir::{Action, Fact, Policy, Program, Rule},
    lower::scope,
};

/// What became of a rule on a port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Label {
    /// Decided in the kernel.
    Exact,
    /// Needs more than the connection: userspace judges.
    Redirect,
    /// A DENY with HTTP fields on a TCP port: the fields are dropped, so that it denies more.
    WidenedDeny,
    /// An ALLOW with HTTP fields on a TCP port: the rule is void there.
    NeverMatches,
}

impl Label {
    /// The word for the label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Redirect => "redirect",
            Self::WidenedDeny => "widened-deny",
            Self::NeverMatches => "never-matches",
        }
    }
}

/// The label of a rule on ports of a declared protocol.
pub fn label(program: &Program, policy: &Policy, rule: &Rule, protocol: Protocol) -> Label {
    let asks = |fact: Fact| {
        scope::atoms(rule)
            .filter_map(|atom| program.atoms.get(atom.index()))
            .any(|atom| atom.fact() == fact)
    };
    let custom = matches!(policy.action, Action::Custom { .. });
    match (protocol, &policy.action) {
        (Protocol::Tcp, Action::Allow) if asks(Fact::Http) => Label::NeverMatches,
        _ if custom || asks(Fact::ServerName) => Label::Redirect,
        (Protocol::Tcp, Action::Deny) if asks(Fact::Http) => Label::WidenedDeny,
        (Protocol::Tcp, _) => Label::Exact,
        _ if asks(Fact::Http) || asks(Fact::RemoteAddress) => Label::Redirect,
        _ => Label::Exact,
    }
}
