//! Three-valued evaluation of a rule: true, false, or what is left to find out.

use std::collections::BTreeSet;

use crate::{
    cluster::Protocol,
    ir::{Alternative, AtomId, Clause, Fact, Literal, Program, Rule},
    lower::scope::{ScopeKey, Stage},
};

/// Which order of judgement a connection is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// HTTP is spoken on a port that may speak it.
    Http,
    /// Anything else.
    Tcp,
}

/// What is known about a connection before its first byte.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub program: &'a Program,
    pub key: &'a ScopeKey,
    /// Atoms about the source that are true; one about the client's address (`remote.ip`) is here
    /// when it is true of the TCP peer.
    pub source: &'a BTreeSet<AtomId>,
    /// The atom of the destination port, where a rule names it.
    pub port: Option<AtomId>,
    pub meaning: Meaning,
}

/// Truth, as far as it is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Truth<T> {
    False,
    True,
    Unknown(T),
}

/// What is known of one atom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Knowledge {
    False,
    True,
    Unknown,
    /// An HTTP field on a connection that is not HTTP: it is not there to be asked.
    Inapplicable,
}

/// Evaluates a rule of `stage`.
pub fn rule(known: &Known<'_>, stage: Stage, rule: &Rule) -> Truth<Vec<Clause>> {
    // ISTIO: an ALLOW rule with any HTTP-only field is ignored on TCP ports as a whole, in all its
    // alternatives; in a rule of another action only the field itself is.
    let allow = matches!(stage, Stage::Allow | Stage::DryRunAllow);
    if allow && known.mentions_http(rule) {
        return Truth::False;
    }
    let mut left = Vec::new();
    for clause in &rule.clauses {
        match known.clause(clause) {
            Truth::False => return Truth::False,
            Truth::True => {}
            Truth::Unknown(clause) => left.push(clause),
        }
    }
    if left.is_empty() {
        Truth::True
    } else {
        Truth::Unknown(left)
    }
}

/// The meanings that are possible on a port of that declared protocol.
pub fn meanings(protocol: Protocol) -> &'static [Meaning] {
    match protocol {
        Protocol::Tcp => &[Meaning::Tcp],
        Protocol::Http | Protocol::Undeclared => &[Meaning::Http, Meaning::Tcp],
    }
}

impl Known<'_> {
    /// Whether the rule has a field of HTTP, on a connection that is not HTTP.
    pub fn mentions_http(&self, rule: &Rule) -> bool {
        crate::lower::scope::atoms(rule).any(|atom| self.atom(atom) == Knowledge::Inapplicable)
    }

    /// Evaluates one clause.
    pub fn clause(&self, clause: &Clause) -> Truth<Clause> {
        let mut any = Vec::new();
        for alternative in &clause.any {
            match self.alternative(alternative) {
                Truth::True => return Truth::True,
                Truth::False => {}
                Truth::Unknown(alternative) => any.push(alternative),
            }
        }
        if any.is_empty() {
            Truth::False
        } else {
            Truth::Unknown(Clause { any })
        }
    }

    fn alternative(&self, alternative: &Alternative) -> Truth<Alternative> {
        let mut all = Vec::new();
        for literal in &alternative.all {
            match self.literal(literal) {
                Truth::False => return Truth::False,
                Truth::True => {}
                Truth::Unknown(literal) => all.push(literal),
            }
        }
        if all.is_empty() {
            Truth::True
        } else {
            Truth::Unknown(Alternative { all })
        }
    }

    fn literal(&self, literal: &Literal) -> Truth<Literal> {
        if literal.any.len() > self.source.len() && self.asks_source(literal) {
            // A long list of which one source can hold a few values: looked up, not read through.
            let holds = |atom| literal.any.binary_search(atom).is_ok();
            return match self.source.iter().any(holds) == literal.negated {
                true => Truth::False,
                false => Truth::True,
            };
        }
        let mut unknown = Vec::new();
        for &atom in &literal.any {
            match self.atom(atom) {
                Knowledge::True if literal.negated => return Truth::False,
                Knowledge::True => return Truth::True,
                Knowledge::False => {}
                Knowledge::Unknown => unknown.push(atom),
                // The whole field is about HTTP: it asks nothing here.
                Knowledge::Inapplicable => return Truth::True,
            }
        }
        match (unknown.is_empty(), literal.negated) {
            (true, true) => Truth::True,
            (true, false) => Truth::False,
            (false, negated) => Truth::Unknown(Literal {
                any: unknown,
                negated,
            }),
        }
    }

    /// Whether the values are about the source. All values of a list ask for the same fact.
    fn asks_source(&self, literal: &Literal) -> bool {
        let first = literal
            .any
            .first()
            .and_then(|id| self.program.atoms.get(id.index()));
        first.is_some_and(|atom| atom.fact() == Fact::Source)
    }

    fn atom(&self, id: AtomId) -> Knowledge {
        let truth = |true_: bool| {
            if true_ {
                Knowledge::True
            } else {
                Knowledge::False
            }
        };
        let Some(atom) = self.program.atoms.get(id.index()) else {
            return Knowledge::Unknown;
        };
        match atom.fact() {
            Fact::Source => truth(self.source.contains(&id)),
            Fact::Destination => truth(self.port == Some(id) || self.key.destination.contains(&id)),
            // A gateway that trusts no proxy takes the TCP peer for the client.
            Fact::RemoteAddress
                if self.meaning == Meaning::Tcp
                    || (self.key.gateway && self.program.mesh.trusted_proxies == 0) =>
            {
                truth(self.source.contains(&id))
            }
            Fact::RemoteAddress | Fact::ServerName => Knowledge::Unknown,
            Fact::Http => match self.meaning {
                // Without a RequestAuthentication no token is ever verified, so none is there.
                Meaning::Http if atom.asks_token() && self.key.authentications.is_empty() => {
                    Knowledge::False
                }
                Meaning::Http => Knowledge::Unknown,
                Meaning::Tcp => Knowledge::Inapplicable,
            },
            Fact::Nothing => Knowledge::False,
        }
    }
}
