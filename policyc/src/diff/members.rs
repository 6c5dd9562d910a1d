//! The service accounts of both inventories, by what the policies of a workload see of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    cluster::Cluster,
    ir::{AtomId, Program},
    link::{
        Identity, Source,
        classes::{Classes, Closed},
    },
};

/// `namespace`, `name`
pub(super) type Account = (String, String);

/// What is true of an identity, on either side.
pub(super) type Sets = [BTreeSet<AtomId>; 2];

#[derive(Debug)]
pub(super) struct Members {
    accounts: Vec<Account>,
    closed: [Closed; 2],
    /// The class of each account on either side.
    classes: Vec<[u16; 2]>,
    /// Accounts of each class, on either side.
    of_class: [HashMap<u16, Vec<usize>>; 2],
}

/// Accounts by what is true of them; those of which nothing is true are left out.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub named: BTreeMap<Sets, Vec<usize>>,
    touched: BTreeSet<usize>,
}

impl Members {
    /// # Errors
    /// More classes of sources than a table holds.
    pub fn new(programs: &[Program; 2], worlds: [&Cluster; 2]) -> Result<Self, String> {
        let mut accounts: BTreeSet<Account> = BTreeSet::new();
        for world in worlds {
            accounts.extend(world.service_accounts.iter().cloned());
            let pods = world.pods.iter().filter(|p| !p.template.host_network);
            let mut last = None;
            for pod in pods {
                let account = (&pod.namespace, &pod.template.service_account);
                if last != Some(account) {
                    accounts.insert((account.0.clone(), account.1.clone()));
                    last = Some(account);
                }
            }
        }
        let accounts: Vec<Account> = accounts.into_iter().collect();
        let side = |program: &Program| -> Result<(Vec<u16>, Closed), String> {
            let mut classes = Classes::new(program).map_err(|e| e.to_string())?;
            let of = |(namespace, name): &Account| {
                let source = Source {
                    identity: Some(Identity {
                        trust_domain: program.mesh.trust_domain.clone(),
                        namespace: namespace.clone(),
                        service_account: name.clone(),
                    }),
                    address: None,
                };
                classes.class(&source).map_err(|e| e.to_string())
            };
            let of: Vec<u16> = accounts.iter().map(of).collect::<Result<_, _>>()?;
            Ok((of, classes.close()))
        };
        let [old, new] = programs;
        let (old_of, old_closed) = side(old)?;
        let (new_of, new_closed) = match old.mesh.trust_domain == new.mesh.trust_domain {
            // The atoms are the same.
            true => (old_of.clone(), old_closed.clone()),
            false => side(new)?,
        };
        let mut of_class = [HashMap::new(), HashMap::new()];
        for (of, index) in [&old_of, &new_of].into_iter().zip(&mut of_class) {
            for (number, class) in of.iter().enumerate() {
                let members: &mut Vec<usize> = index.entry(*class).or_default();
                members.push(number);
            }
        }
        Ok(Self {
            accounts,
            closed: [old_closed, new_closed],
            classes: old_of
                .into_iter()
                .zip(new_of)
                .map(|(o, n)| [o, n])
                .collect(),
            of_class,
        })
    }

    /// Accounts of which one of these atoms is true.
    pub fn asked(&self, atoms: &BTreeSet<AtomId>) -> Asked {
        let mut touched = BTreeSet::new();
        for (closed, of_class) in self.closed.iter().zip(&self.of_class) {
            for classes in atoms.iter().filter_map(|atom| closed.by_atom.get(atom)) {
                touched.extend(classes.iter().filter_map(|c| of_class.get(c)).flatten());
            }
        }
        let mut named: BTreeMap<Sets, Vec<usize>> = BTreeMap::new();
        for &number in &touched {
            let sets = [0, 1].map(|side: usize| self.set(side, number, atoms));
            named.entry(sets).or_default().push(number);
        }
        Asked { named, touched }
    }

    fn set(&self, side: usize, number: usize, atoms: &BTreeSet<AtomId>) -> BTreeSet<AtomId> {
        let class = self.classes.get(number).and_then(|c| c.get(side));
        let signature = class.and_then(|class| {
            let closed = self.closed.get(side)?;
            closed.signatures.get(usize::from(*class))
        });
        let signature = signature.into_iter().flatten().copied();
        signature.filter(|atom| atoms.contains(atom)).collect()
    }

    pub fn account(&self, number: usize) -> Option<&Account> {
        self.accounts.get(number)
    }

    /// How many have these sets, and the first of them.
    pub fn having(&self, asked: &Asked, sets: &Sets, most: usize) -> (usize, Vec<usize>) {
        if sets.iter().any(|set| !set.is_empty()) {
            let members = asked.named.get(sets).map_or(&[][..], Vec::as_slice);
            return (members.len(), members.iter().take(most).copied().collect());
        }
        let others = (0..self.accounts.len()).filter(|n| !asked.touched.contains(n));
        (
            self.accounts.len() - asked.touched.len(),
            others.take(most).collect(),
        )
    }
}
