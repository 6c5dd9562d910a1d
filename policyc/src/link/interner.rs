//! Sets of atoms, numbered.

use std::collections::HashMap;

use crate::ir::AtomId;

/// Sorted set of atoms.
pub(super) type Signature = Vec<AtomId>;

/// Numbers equal sets alike. Number 0 is the empty set.
#[derive(Clone, Debug)]
pub(super) struct Interner {
    all: Vec<Signature>,
    numbers: HashMap<Signature, u32>,
}

impl Interner {
    pub fn new() -> Self {
        let mut interner = Self {
            all: Vec::new(),
            numbers: HashMap::new(),
        };
        interner.intern(Vec::new());
        interner
    }

    pub fn intern(&mut self, atoms: Signature) -> u32 {
        if let Some(&number) = self.numbers.get(&atoms) {
            return number;
        }
        let number = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        self.all.push(atoms.clone());
        self.numbers.insert(atoms, number);
        number
    }

    pub fn get(&self, number: u32) -> &[AtomId] {
        self.all.get(number as usize).map_or(&[], Vec::as_slice)
    }
    /// The number of a set that has one.
    pub fn find(&self, atoms: &[AtomId]) -> Option<u32> {
        self.numbers.get(atoms).copied()
    }

    /// Numbers a new set. Numbers between that nobody gives away are those of sets without members.
    pub fn give(&mut self, number: u32, atoms: Signature) {
        let at = number as usize;
        if at >= self.all.len() {
            self.all.resize_with(at + 1, Vec::new);
        }
        if let Some(place) = self.all.get_mut(at) {
            place.clone_from(&atoms);
        }
        self.numbers.insert(atoms, number);
    }

    /// Sets that have a number.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    pub fn into_all(self) -> Vec<Signature> {
        self.all
    }
}
