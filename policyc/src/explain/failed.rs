//! One field that failed, in words: what the rule wants, and what there is.

use super::rules::Known;
use crate::{
    ir::{Atom, Literal},
    l7::View,
};

/// Values of one list that are spelled out; more are counted.
const SPELLED_OUT: usize = 4;

pub(super) struct Failed<'a> {
    pub known: &'a Known<'a>,
    pub view: &'a View<'a>,
}

impl Failed<'_> {
    /// `wants method GET or HEAD; the request has POST`
    pub fn tell(&self, literal: &Literal) -> String {
        let atoms: Vec<&Atom> = literal
            .any
            .iter()
            .filter_map(|id| self.known.program.atoms.get(id.index()))
            .collect();
        let Some(first) = atoms.first() else {
            return "can never match".into();
        };
        let spelled: Vec<String> = atoms.iter().map(|atom| atom.value()).collect();
        let not = if literal.negated { "not " } else { "" };
        format!(
            "wants {} {not}{}; {}",
            first.field(),
            listed(&spelled, " or "),
            self.what_is(first)
        )
    }

    /// What there is of that which the atom asks about.
    fn what_is(&self, atom: &Atom) -> String {
        let values = self.view.values(atom);
        let has = |what: &str| match values.is_empty() {
            true => format!("{what} has none"),
            false => format!("{what} has {}", listed(&values, " and ")),
        };
        match atom {
            Atom::Principal(_)
            | Atom::Namespace(_)
            | Atom::ServiceAccount { .. }
            | Atom::TrustDomain(_) => match &self.known.identity {
                Some(identity) => format!(
                    "the source is {}/ns/{}/sa/{}",
                    identity.trust_domain, identity.namespace, identity.service_account
                ),
                None => "the source has no identity".into(),
            },
            Atom::DestinationPort(_) => format!("the port is {}", self.known.port),
            Atom::DestinationIp(_) => match self.known.destination.first() {
                Some(address) => format!("the destination has {address}"),
                None => "the destination has none".into(),
            },
            Atom::SourceIp(_) => has("the source"),
            Atom::RemoteIp(_) => has("the client"),
            Atom::Sni(_) => has("the connection"),
            Atom::RequestPrincipal { .. } | Atom::Claim { .. } if !self.view.has_token() => {
                "the request has no verified token".into()
            }
            Atom::RequestPrincipal { .. } | Atom::Claim { .. } => has("the token"),
            Atom::Host(_) | Atom::Method(_) | Atom::Path(_) | Atom::Header { .. } => {
                has("the request")
            }
            Atom::Never => "no request ever has it here".into(),
        }
    }
}

/// `a, b or c`, or the first few and how many more.
fn listed(values: &[String], last: &str) -> String {
    let shown = |value: &String| match value.as_str() {
        "" => "an empty value".to_owned(),
        text => text.to_owned(),
    };
    let mut words: Vec<String> = values.iter().take(SPELLED_OUT).map(shown).collect();
    if values.len() > SPELLED_OUT {
        words.push(format!("{} more", values.len() - SPELLED_OUT));
    }
    match words.split_last() {
        Some((end, before)) if !before.is_empty() => format!("{}{last}{end}", before.join(", ")),
        _ => words.concat(),
    }
}
