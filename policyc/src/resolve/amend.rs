//! One policy among ten thousand has changed: it alone is resolved, and everything else is taken over.
//!
//! The result is what resolving all of them gives, but for the numbers of atoms, and for atoms that no
//! policy asks any more.

use std::{collections::BTreeSet, sync::Arc};

use super::{Locate, Numbers, ResolveError, Resolver, TrustDomains};
use crate::{
    cluster::Cluster,
    ir::{AtomId, Policy, Program},
};

/// A program whose policies may change one by one.
#[derive(Debug, Default)]
pub struct Amendable {
    program: Program,
    numbers: Numbers,
}

impl Amendable {
    /// `program` is what [`super::resolve`] gave.
    pub fn new(program: Program) -> Self {
        let numbers = (0u32..).map(AtomId).zip(&program.atoms);
        let numbers = numbers.map(|(id, atom)| (atom.clone(), id)).collect();
        Self { program, numbers }
    }

    /// The policies as they are now.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Takes policies of these names, `namespace` and `name`, as `cluster` has them: those that it
    /// has not are gone. `false`: the mesh is another one, which every policy depends on, and nothing
    /// has changed.
    ///
    /// # Errors
    /// The first value that does not parse. Nothing has changed.
    pub fn amend(
        &mut self,
        cluster: &Cluster,
        names: &BTreeSet<(String, String)>,
        locate: Locate<'_>,
    ) -> Result<bool, ResolveError> {
        if cluster.mesh != self.program.mesh {
            return Ok(false);
        }
        let known = self.program.atoms.len();
        let mut resolver = Resolver {
            cluster,
            domains: TrustDomains::Expanded,
            atoms: std::mem::take(&mut self.program.atoms),
            numbers: std::mem::take(&mut self.numbers),
        };
        let named = |(namespace, name): &(String, String)| {
            let mut policies = cluster.policies.iter();
            policies.find(|policy| policy.namespace == *namespace && policy.name == *name)
        };
        let resolved: Result<Vec<_>, ResolveError> = names
            .iter()
            .map(|name| {
                let written = named(name);
                let policy = written.map(|written| resolver.policy(written, locate));
                Ok((name, policy.transpose()?.map(Arc::new)))
            })
            .collect();
        if resolved.is_err() {
            for atom in resolver.atoms.drain(known..) {
                resolver.numbers.remove(&atom);
            }
        }
        self.program.atoms = resolver.atoms;
        self.numbers = resolver.numbers;
        for (name, now) in resolved? {
            self.put(name, now);
        }
        Ok(true)
    }

    fn put(&mut self, (namespace, name): &(String, String), now: Option<Arc<Policy>>) {
        let policies = &mut self.program.policies;
        let place = |policy: &Arc<Policy>| {
            (policy.namespace.as_str(), policy.name.as_str()).cmp(&(namespace, name))
        };
        match (policies.binary_search_by(place), now) {
            (Ok(at), Some(policy)) => policies[at] = policy,
            (Ok(at), None) => drop(policies.remove(at)),
            (Err(at), Some(policy)) => policies.insert(at, policy),
            (Err(_), None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{compile, read};

    const MESH: &str = "trustDomain: td\ntrustDomainAliases: [old]";

    fn policy(name: &str, rest: &str) -> String {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: {name}, namespace: shop}}\nspec: {rest}\n"
        )
    }

    fn loaded(policies: &BTreeMap<&str, &str>) -> read::Loaded {
        let text: String = policies
            .iter()
            .map(|(name, rest)| policy(name, rest))
            .collect();
        let (loaded, found) = read::load_str("p.yaml", &text, Some(MESH));
        assert!(!crate::diagnostic::any_error(&found), "{found:?}");
        loaded
    }

    /// A program with its atoms written out, wherever they are numbered.
    fn spelt(program: &Program) -> Vec<String> {
        let literal = |literal: &crate::ir::Literal| {
            let atoms = literal.any.iter().map(|id| &program.atoms[id.index()]);
            let mut atoms: Vec<_> = atoms.map(|atom| format!("{atom:?}")).collect();
            atoms.sort();
            format!("{} {atoms:?}", literal.negated)
        };
        let rule = |rule: &crate::ir::Rule| {
            let clauses = rule.clauses.iter().map(|clause| {
                let any = clause.any.iter();
                any.map(|a| a.all.iter().map(literal).collect::<Vec<_>>())
                    .collect::<Vec<_>>()
            });
            format!("{:?}", clauses.collect::<Vec<_>>())
        };
        let policy = |policy: &Arc<Policy>| {
            let rules: Vec<_> = policy.rules.iter().map(rule).collect();
            let about = (
                &policy.namespace,
                &policy.name,
                &policy.action,
                policy.dry_run,
            );
            format!("{about:?} {:?} {rules:?}", policy.attachment)
        };
        program.policies.iter().map(policy).collect()
    }

    #[test]
    fn a_changed_policy_is_what_resolving_all_of_them_gives() {
        let one = "{rules: [{from: [{source: {principals: ['*/ns/web/sa/front']}}]}]}";
        let two = "{action: DENY, rules: [{from: [{source: {principals: [old/ns/a/sa/b],\
                   ipBlocks: [10.0.0.0/8]}}], to: [{operation: {ports: ['80']}}]}]}";
        let three = "{action: AUDIT, rules: [{from: [{source: {namespaces: [a, b]}}]}]}";
        let mut policies = BTreeMap::from([("b", one), ("d", two)]);
        let whole = |loaded: &read::Loaded| {
            compile::compile(loaded, Default::default(), &BTreeMap::new()).unwrap()
        };
        let mut amendable = Amendable::new(whole(&loaded(&policies)));
        let steps = [
            ("a", Some(two)),
            ("c", Some(three)),
            ("d", Some(one)),
            ("b", None),
            ("b", Some(three)),
            ("a", None),
            ("never", None),
            ("d", Some(two)),
        ];
        for (name, now) in steps {
            let only = now.map(|now| (name, now)).into_iter().collect();
            match now {
                Some(now) => policies.insert(name, now),
                None => policies.remove(name),
            };
            let names = BTreeSet::from([("shop".to_owned(), name.to_owned())]);
            let done = compile::amend(&mut amendable, &loaded(&only), &names).unwrap();
            assert!(done, "{name}");
            let whole = whole(&loaded(&policies));
            assert_eq!(spelt(amendable.program()), spelt(&whole), "{name} {now:?}");
        }
        let asked: BTreeSet<_> = amendable.program().atoms.iter().collect();
        assert_eq!(asked.len(), amendable.program().atoms.len(), "each once");
    }

    #[test]
    fn another_mesh_and_a_value_that_does_not_parse_change_nothing() {
        let one = "{rules: [{from: [{source: {namespaces: [a]}}]}]}";
        let policies = BTreeMap::from([("a", one)]);
        let mut loaded = loaded(&policies);
        let program = compile::compile(&loaded, Default::default(), &BTreeMap::new()).unwrap();
        let mut amendable = Amendable::new(program.clone());
        let names = BTreeSet::from([("shop".to_owned(), "a".to_owned())]);
        let rules = loaded.cluster.policies[0].rules.as_mut().unwrap();
        let source = &mut rules[0].from.as_mut().unwrap()[0];
        source.namespaces = Some(vec!["new".into()]);
        source.ip_blocks = Some(vec!["no address".into()]);
        assert!(compile::amend(&mut amendable, &loaded, &names).is_err());
        assert_eq!(
            (amendable.program(), amendable.numbers.len()),
            (&program, 1)
        );
        loaded.cluster.mesh.trust_domain = "other".into();
        assert!(!compile::amend(&mut amendable, &loaded, &names).unwrap());
        assert_eq!(amendable.program(), &program);
    }
}
