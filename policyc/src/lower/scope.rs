//! The policies that apply to a workload, gathered for judging: one scope for all pods that no
//! policy can tell apart as destinations.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    cluster::{Protocol, ProviderKind},
    ir::{
        Action, Atom, AtomId, AuthenticationId, Fact, Literal, Otherwise, PolicyId, Program,
        Provider, Rule, RuleRef,
    },
    options::CatchAllDeny,
};

/// What tells one destination from another. Pods with equal keys share a scope.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ScopeKey {
    pub policies: Vec<PolicyId>,
    pub authentications: Vec<AuthenticationId>,
    /// Declared protocols; a port that is not here is undeclared.
    pub ports: BTreeMap<u16, Protocol>,
    /// `destination.ip` atoms that are true for the pod's address.
    pub destination: BTreeSet<AtomId>,
    pub gateway: bool,
}

/// When a rule's turn comes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stage {
    Custom,
    Deny,
    Allow,
    Audit,
    DryRunAllow,
    DryRunDeny,
}

/// A rule in its stage.
#[derive(Clone, Copy, Debug)]
pub struct Staged<'a> {
    pub stage: Stage,
    pub reference: RuleRef,
    pub rule: &'a Rule,
}

/// A scope: the rules of its policies by stage, and the atoms that they ask about.
#[derive(Debug)]
pub struct Scope<'a> {
    pub program: &'a Program,
    pub key: ScopeKey,
    /// By (namespace, name, rule).
    rules: Vec<Staged<'a>>,
    /// Rules that can match only when one of these source atoms is true.
    guarded: HashMap<AtomId, Vec<usize>>,
    /// Rules that no source atom rules out.
    unguarded: Vec<usize>,
    /// Atoms about the source, those about the client's address among them.
    pub source_atoms: BTreeSet<AtomId>,
    /// Ports that rules name, with their atom.
    pub port_atoms: BTreeMap<u16, AtomId>,
    pub provider: Provider,
    /// The provider speaks HTTP, so that it is not asked about TCP connections.
    pub provider_http_only: bool,
    pub otherwise: Otherwise,
}

impl<'a> Scope<'a> {
    pub fn new(program: &'a Program, key: ScopeKey) -> Self {
        let (provider, provider_http_only) = provider(program, &key.policies);
        let mut scope = Self {
            program,
            rules: Vec::new(),
            guarded: HashMap::new(),
            unguarded: Vec::new(),
            source_atoms: BTreeSet::new(),
            port_atoms: BTreeMap::new(),
            provider,
            provider_http_only,
            otherwise: Otherwise::Allow,
            key,
        };
        for id in scope.key.policies.clone() {
            scope.gather(id);
        }
        scope
    }

    /// The rules that may match a source for which exactly `source` is true, in order.
    pub fn candidates(&self, source: &BTreeSet<AtomId>) -> Vec<Staged<'a>> {
        let mut found: Vec<usize> = self.unguarded.clone();
        found.extend(
            source
                .iter()
                .filter_map(|atom| self.guarded.get(atom))
                .flatten(),
        );
        found.sort_unstable();
        found.dedup();
        found
            .into_iter()
            .filter_map(|i| self.rules.get(i).copied())
            .collect()
    }

    /// All rules with their names, in order.
    pub fn staged(&self) -> impl Iterator<Item = Staged<'a>> + '_ {
        self.rules.iter().copied()
    }

    /// All rules, in order.
    pub fn rules(&self) -> impl Iterator<Item = &'a Rule> + '_ {
        self.rules.iter().map(|staged| staged.rule)
    }

    fn gather(&mut self, id: PolicyId) {
        let Some(policy) = self.program.policies.get(id.index()) else {
            return;
        };
        let stage = match (&policy.action, policy.dry_run) {
            (Action::Allow, true) => Stage::DryRunAllow,
            (Action::Deny, true) => Stage::DryRunDeny,
            (Action::Allow, false) => {
                // A policy whose rules are absent still makes its workloads default-deny.
                if self.otherwise == Otherwise::Allow {
                    self.otherwise = Otherwise::Deny;
                }
                Stage::Allow
            }
            (Action::Deny, false) => Stage::Deny,
            (Action::Audit, _) => Stage::Audit,
            (Action::Custom { .. }, _) => Stage::Custom,
        };
        for (number, rule) in (0u32..).zip(&policy.rules) {
            let reference = RuleRef {
                policy: id,
                rule: number,
            };
            let catch_all = stage == Stage::Deny && rule.clauses.is_empty();
            if catch_all && self.program.catch_all_deny == CatchAllDeny::DefaultDeny {
                if !matches!(self.otherwise, Otherwise::DefaultDeny(_)) {
                    self.otherwise = Otherwise::DefaultDeny(reference);
                }
                continue;
            }
            self.add(Staged {
                stage,
                reference,
                rule,
            });
        }
    }

    fn add(&mut self, staged: Staged<'a>) {
        let number = self.rules.len();
        match guard(self.program, staged.rule) {
            Some(atoms) => {
                for atom in atoms {
                    self.guarded.entry(atom).or_default().push(number);
                }
            }
            None => self.unguarded.push(number),
        }
        for atom in atoms(staged.rule) {
            match self.program.atoms.get(atom.index()) {
                Some(Atom::DestinationPort(port)) => {
                    self.port_atoms.insert(*port, atom);
                }
                Some(a) if matches!(a.fact(), Fact::Source | Fact::RemoteAddress) => {
                    self.source_atoms.insert(atom);
                }
                _ => {}
            }
        }
        self.rules.push(staged);
    }
}

/// All fields of a rule, each a question with a list of values.
pub fn questions(rule: &Rule) -> impl Iterator<Item = &Literal> {
    rule.clauses
        .iter()
        .flat_map(|clause| &clause.any)
        .flat_map(|alternative| &alternative.all)
}

/// All atoms of a rule.
pub fn atoms(rule: &Rule) -> impl Iterator<Item = AtomId> + '_ {
    questions(rule).flat_map(|literal| literal.any.iter().copied())
}

/// Source atoms of which one must be true for the rule to match: those of a clause each of whose
/// alternatives asks for one. `None` when there is no such clause.
fn guard(program: &Program, rule: &Rule) -> Option<BTreeSet<AtomId>> {
    let is_source = |atom: &AtomId| {
        program
            .atoms
            .get(atom.index())
            .is_some_and(|a| a.fact() == Fact::Source)
    };
    rule.clauses.iter().find_map(|clause| {
        let mut atoms = BTreeSet::new();
        for alternative in &clause.any {
            let literal = alternative
                .all
                .iter()
                .find(|l| !l.negated && l.any.iter().all(is_source))?;
            atoms.extend(literal.any.iter().copied());
        }
        Some(atoms)
    })
}

/// Who answers for the CUSTOM policies of a workload.
fn provider(program: &Program, policies: &[PolicyId]) -> (Provider, bool) {
    let names: BTreeSet<&str> = policies
        .iter()
        .filter_map(|id| match &program.policies.get(id.index())?.action {
            Action::Custom { provider } => Some(provider.as_str()),
            _ => None,
        })
        .collect();
    let mut names = names.into_iter();
    match (names.next(), names.next()) {
        (None, _) => (Provider::None, false),
        // Istio refuses what matches when several providers meet on one workload.
        (Some(_), Some(_)) => (Provider::Unresolved, false),
        (Some(name), None) => {
            let known = program
                .mesh
                .extension_providers
                .iter()
                .find(|p| p.name == name);
            match known.map(|p| &p.kind) {
                Some(ProviderKind::ExtAuthzGrpc(_)) => (Provider::Named(name.into()), false),
                Some(ProviderKind::ExtAuthzHttp(_)) => (Provider::Named(name.into()), true),
                Some(ProviderKind::Other) | None => (Provider::Unresolved, false),
            }
        }
    }
}
