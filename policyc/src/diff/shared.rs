//! Two programs over one table of atoms, so that what they ask can be compared by number; and
//! policies by what they say, whatever they are called and however they are written.

use std::{collections::HashMap, sync::Arc};

use crate::ir::{Action, Alternative, Atom, AtomId, Clause, JwtRule, Policy, Program, Rule};

/// Both programs, renumbered.
pub(super) fn share(old: &Program, new: &Program) -> [Program; 2] {
    let mut atoms = old.atoms.clone();
    let mut numbers: HashMap<Atom, AtomId> = HashMap::with_capacity(atoms.len());
    for (number, atom) in (0u32..).zip(&old.atoms) {
        numbers.insert(atom.clone(), AtomId(number));
    }
    let mut renumbered = Vec::with_capacity(new.atoms.len());
    for atom in &new.atoms {
        let next = AtomId(u32::try_from(atoms.len()).unwrap_or(u32::MAX));
        let id = *numbers.entry(atom.clone()).or_insert_with(|| {
            atoms.push(atom.clone());
            next
        });
        renumbered.push(id);
    }
    let mut both = [old.clone(), new.clone()];
    let [old, new] = &mut both;
    old.atoms.clone_from(&atoms);
    new.atoms = atoms;
    let same: Vec<AtomId> = (0..).map(AtomId).take(old.atoms.len()).collect();
    rewrite(old, &same);
    rewrite(new, &renumbered);
    both
}

/// Gives atoms their shared numbers, and puts each rule into the one order that it has.
fn rewrite(program: &mut Program, numbers: &[AtomId]) {
    let policies = program.policies.iter_mut().map(Arc::make_mut);
    for rule in policies.flat_map(|policy| &mut policy.rules) {
        for clause in &mut rule.clauses {
            for literal in clause.any.iter_mut().flat_map(|a| &mut a.all) {
                for atom in &mut literal.any {
                    *atom = numbers.get(atom.index()).copied().unwrap_or(*atom);
                }
                literal.any.sort_unstable();
            }
        }
        rule.clauses = canonical(std::mem::take(&mut rule.clauses));
    }
}

/// The clauses in an order that does not depend on how they were written.
pub(super) fn canonical(mut clauses: Vec<Clause>) -> Vec<Clause> {
    for clause in &mut clauses {
        for Alternative { all } in &mut clause.any {
            all.sort_unstable();
            all.dedup();
        }
        clause.any.sort_unstable();
        clause.any.dedup();
    }
    clauses.sort_unstable();
    clauses.dedup();
    clauses
}

/// What a policy says: its number is the same for all that say the same.
#[derive(Debug, Default)]
pub(super) struct Contents<'a> {
    policies: HashMap<(&'a Action, bool, Vec<&'a Rule>), u32>,
}

impl<'a> Contents<'a> {
    /// The number of each policy.
    pub fn of(&mut self, program: &'a Program) -> Vec<u32> {
        program.policies.iter().map(|p| self.number(p)).collect()
    }

    fn number(&mut self, policy: &'a Policy) -> u32 {
        let mut rules: Vec<&Rule> = policy.rules.iter().collect();
        rules.sort_unstable();
        rules.dedup();
        let next = u32::try_from(self.policies.len()).unwrap_or(u32::MAX);
        *self
            .policies
            .entry((&policy.action, policy.dry_run, rules))
            .or_insert(next)
    }
}

/// How tokens are verified for a workload: the rules in their order, with the keys themselves.
pub(super) fn token_rules(
    program: &Program,
    authentications: &[crate::ir::AuthenticationId],
) -> Vec<JwtRule> {
    let mut rules: Vec<JwtRule> = Vec::new();
    for id in authentications {
        let Some(authentication) = program.authentications.get(id.index()) else {
            continue;
        };
        for rule in &authentication.jwt_rules {
            let mut rule = rule.clone();
            // Where no keys are known every token is refused, wherever they should have come from.
            let by_uri = rule.jwks_uri.as_ref().and_then(|u| program.key_sets.get(u));
            rule.jwks = rule.jwks.or_else(|| by_uri.cloned());
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
    }
    rules.sort_by(|a, b| a.issuer.cmp(&b.issuer));
    rules
}
