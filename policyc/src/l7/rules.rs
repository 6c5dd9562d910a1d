//! Rules as flat code: one array of words for all rules of a residual, each rule's words side by
//! side, so that judging one touches few cache lines however many there are.
//!
//! ```text
//! rule         reference, clauses, then each clause
//! clause       alternatives, words that follow, then each alternative
//! alternative  literals, words that follow, then each literal
//! literal      atoms << 1 | negated, then the number of each atom
//! ```

use std::collections::HashMap;

use super::{
    engine::CompileError,
    index::{Index, Key},
    matcher::{Bytes, Facts, Test},
};
use crate::ir::{Alternative, Atom, AtomId, Literal, ResidualRule, RuleRef};

/// All rules of one order of judgement.
#[derive(Debug, Default)]
pub(super) struct Code {
    words: Vec<u32>,
    atoms: Vec<Entry>,
    rules: Vec<RuleRef>,
}

#[derive(Debug)]
struct Entry {
    test: Test,
    /// Where the answer is kept once given; [`Memo::NONE`] for what is cheaper asked again.
    memo: u16,
}

/// The rules of one stage: where each begins in the code, found by what it must see.
#[derive(Debug, Default)]
pub(super) struct Stage {
    index: Index,
    /// Rules that no single value can find, in order.
    always: Vec<u32>,
}

/// Answers already given about one request.
#[derive(Default)]
pub(super) struct Memo {
    known: [u64; 8],
    truth: [u64; 8],
}

impl Memo {
    const NONE: u16 = u16::MAX;
    const SLOTS: u16 = 512;

    fn get(&self, slot: u16) -> Option<bool> {
        let (word, bit) = (usize::from(slot / 64), slot % 64);
        (self.known[word] >> bit & 1 == 1).then(|| self.truth[word] >> bit & 1 == 1)
    }

    fn set(&mut self, slot: u16, truth: bool) {
        let (word, bit) = (usize::from(slot / 64), slot % 64);
        self.known[word] |= 1 << bit;
        self.truth[word] |= u64::from(truth) << bit;
    }
}

impl Stage {
    pub fn is_empty(&self) -> bool {
        self.always.is_empty() && self.index.is_empty()
    }

    /// The first rule, in order, that holds.
    pub fn first(&self, code: &Code, facts: &Facts<'_>, memo: &mut Memo) -> Option<RuleRef> {
        let mut best = u32::MAX;
        self.index.candidates(facts, &mut |posting| {
            let found = posting
                .iter()
                .take_while(|at| **at < best)
                .find(|at| code.holds(**at, facts, memo));
            best = found.copied().unwrap_or(best);
        });
        let found = self.always.iter().take_while(|at| **at < best);
        let first = found.copied().find(|at| code.holds(*at, facts, memo));
        let at = first.unwrap_or(best);
        (at != u32::MAX).then(|| code.reference(at))
    }

    /// Every rule that holds, in order.
    pub fn all(&self, code: &Code, facts: &Facts<'_>, memo: &mut Memo) -> Vec<RuleRef> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut candidates = self.always.clone();
        let mut add = |posting: &[u32]| candidates.extend_from_slice(posting);
        self.index.candidates(facts, &mut add);
        candidates.sort_unstable();
        candidates.dedup();
        let holding = candidates
            .into_iter()
            .filter(|at| code.holds(*at, facts, memo));
        holding.map(|at| code.reference(at)).collect()
    }
}

impl Code {
    fn reference(&self, at: u32) -> RuleRef {
        self.rules[self.words[at as usize] as usize]
    }

    fn holds(&self, at: u32, facts: &Facts<'_>, memo: &mut Memo) -> bool {
        let mut at = at as usize + 1;
        let clauses = self.words[at];
        at += 1;
        for _ in 0..clauses {
            let end = at + 2 + self.words[at + 1] as usize;
            if !self.clause_holds(at, facts, memo) {
                return false;
            }
            at = end;
        }
        true
    }

    fn clause_holds(&self, at: usize, facts: &Facts<'_>, memo: &mut Memo) -> bool {
        let mut next = at + 2;
        for _ in 0..self.words[at] {
            let end = next + 2 + self.words[next + 1] as usize;
            if self.alternative_holds(next, facts, memo) {
                return true;
            }
            next = end;
        }
        false
    }

    fn alternative_holds(&self, at: usize, facts: &Facts<'_>, memo: &mut Memo) -> bool {
        let mut next = at + 2;
        for _ in 0..self.words[at] {
            let head = self.words[next];
            let (first, end) = (next + 1, next + 1 + (head >> 1) as usize);
            let any = self.words[first..end]
                .iter()
                .any(|atom| self.atom_holds(*atom, facts, memo));
            if any == (head & 1 == 1) {
                return false;
            }
            next = end;
        }
        true
    }

    fn atom_holds(&self, atom: u32, facts: &Facts<'_>, memo: &mut Memo) -> bool {
        let entry = &self.atoms[atom as usize];
        if entry.memo == Memo::NONE {
            return entry.test.holds(facts);
        }
        if let Some(known) = memo.get(entry.memo) {
            return known;
        }
        let truth = entry.test.holds(facts);
        memo.set(entry.memo, truth);
        truth
    }
}

/// Makes code and stages from what lowering left of the rules.
pub(super) struct Builder<'a> {
    atoms: &'a [Atom],
    numbers: HashMap<AtomId, u32>,
    /// How often each atom is mentioned without negation, by its number.
    mentions: Vec<u32>,
    code: Code,
}

impl<'a> Builder<'a> {
    pub fn new(atoms: &'a [Atom]) -> Self {
        Self {
            atoms,
            numbers: HashMap::new(),
            mentions: Vec::new(),
            code: Code::default(),
        }
    }

    /// Compiles the rules of one stage. Rules that can never hold leave nothing.
    pub fn stage(&mut self, rules: &[ResidualRule]) -> Result<Stage, CompileError> {
        for literal in rules.iter().flat_map(literals) {
            for atom in &literal.any {
                let number = self.number(*atom)?;
                if !literal.negated {
                    self.mentions[number as usize] += 1;
                }
            }
        }
        let mut stage = Stage::default();
        for rule in rules {
            if rule.clauses.iter().any(|clause| clause.any.is_empty()) {
                continue;
            }
            let at = self.rule(rule)?;
            match self.access(rule)? {
                Some(atoms) => {
                    for atom in atoms {
                        stage
                            .index
                            .add(key(&self.code.atoms[atom as usize].test), at);
                    }
                }
                None => stage.always.push(at),
            }
        }
        stage.index.finish();
        Ok(stage)
    }

    /// The code, once all stages are compiled.
    pub fn finish(mut self) -> Code {
        let mut next = 0;
        for (entry, mentions) in self.code.atoms.iter_mut().zip(&self.mentions) {
            if *mentions > 1 && is_dear(&entry.test) && next < Memo::SLOTS {
                entry.memo = next;
                next += 1;
            }
        }
        self.code
    }

    fn number(&mut self, atom: AtomId) -> Result<u32, CompileError> {
        if let Some(number) = self.numbers.get(&atom) {
            return Ok(*number);
        }
        let written = self.atoms.get(atom.index());
        let written = written.ok_or(CompileError::UnknownAtom(atom))?;
        let test = Test::new(written).ok_or(CompileError::KernelAtom(atom))?;
        let number = length(self.code.atoms.len())?;
        self.code.atoms.push(Entry {
            test,
            memo: Memo::NONE,
        });
        self.mentions.push(0);
        self.numbers.insert(atom, number);
        Ok(number)
    }

    fn rule(&mut self, rule: &ResidualRule) -> Result<u32, CompileError> {
        let at = length(self.code.words.len())?;
        let reference = length(self.code.rules.len())?;
        self.code.rules.push(rule.rule);
        let clauses = length(rule.clauses.len())?;
        self.code.words.extend([reference, clauses]);
        for clause in &rule.clauses {
            let head = self.open(clause.any.len())?;
            for alternative in &clause.any {
                self.alternative(alternative)?;
            }
            self.close(head)?;
        }
        Ok(at)
    }

    fn alternative(&mut self, alternative: &Alternative) -> Result<(), CompileError> {
        let head = self.open(alternative.all.len())?;
        for literal in &alternative.all {
            let count = length(literal.any.len())?;
            self.code
                .words
                .push(count << 1 | u32::from(literal.negated));
            for atom in &literal.any {
                let number = self.number(*atom)?;
                self.code.words.push(number);
            }
        }
        self.close(head)
    }

    fn open(&mut self, members: usize) -> Result<usize, CompileError> {
        let members = length(members)?;
        self.code.words.extend([members, 0]);
        Ok(self.code.words.len())
    }

    fn close(&mut self, head: usize) -> Result<(), CompileError> {
        self.code.words[head - 1] = length(self.code.words.len() - head)?;
        Ok(())
    }

    /// Atoms of which one must be true for the rule to hold, chosen to be rare; `None` when there
    /// are none that a value could find.
    fn access(&mut self, rule: &ResidualRule) -> Result<Option<Vec<u32>>, CompileError> {
        let mut best: Option<(u64, Vec<u32>)> = None;
        for clause in &rule.clauses {
            let mut cost = 0;
            let mut atoms = Vec::new();
            for alternative in &clause.any {
                let Some((more, found)) = self.rarest(alternative)? else {
                    cost = u64::MAX;
                    break;
                };
                cost += more;
                atoms.extend(found);
            }
            if cost != u64::MAX && best.as_ref().is_none_or(|(least, _)| cost < *least) {
                best = Some((cost, atoms));
            }
        }
        Ok(best.map(|(_, atoms)| atoms))
    }

    fn rarest(&mut self, of: &Alternative) -> Result<Option<(u64, Vec<u32>)>, CompileError> {
        let mut best: Option<(u64, Vec<u32>)> = None;
        for literal in of.all.iter().filter(|literal| !literal.negated) {
            let mut cost = 0;
            let mut atoms = Vec::new();
            for atom in &literal.any {
                let number = self.number(*atom)?;
                match key(&self.code.atoms[number as usize].test) {
                    Key::Nothing => cost = u64::MAX,
                    // An atom that is never true finds nothing, and needs not be found.
                    Key::Never => {}
                    key => {
                        atoms.push(number);
                        let mentions = u64::from(self.mentions[number as usize]);
                        cost = u64::saturating_add(cost, mentions * 8 + key.weight());
                    }
                }
            }
            if cost != u64::MAX && best.as_ref().is_none_or(|(least, _)| cost < *least) {
                best = Some((cost, atoms));
            }
        }
        Ok(best)
    }
}

/// By which value of a request an atom is found.
fn key(test: &Test) -> Key<'_> {
    match test {
        Test::Method(p) => Key::of(p, Key::Method),
        Test::Host(p) => Key::of(p, Key::Host),
        Test::Path(p) => Key::of(p, Key::Path),
        Test::Template(t) => match t.literal_prefix() {
            b"" | b"/" => Key::Nothing,
            prefix => Key::PathPrefix(prefix),
        },
        Test::Header { name, value } => Key::of(value, |p| Key::Header(name, p)),
        Test::Claim { path, value } => Key::of(value, |p| Key::Claim(path, p)),
        Test::RequestPrincipal { issuer, subject } => match (issuer, subject) {
            (_, Bytes::Exact(_)) => Key::Subject(subject),
            (Bytes::Exact(_), _) => Key::Issuer(issuer),
            (_, Bytes::NotEmpty | Bytes::Any) => Key::of(issuer, Key::Issuer),
            _ => Key::Subject(subject),
        },
        Test::Sni(p) => Key::of(p, Key::Sni),
        Test::RemoteIp(net) => Key::Remote(*net),
        Test::SourceIp(net) => Key::Source(*net),
        Test::Never => Key::Never,
    }
}

/// Worth remembering: takes a walk over headers, claims or a template.
fn is_dear(test: &Test) -> bool {
    matches!(
        test,
        Test::Header { .. }
            | Test::Claim { .. }
            | Test::RequestPrincipal { .. }
            | Test::RemoteIp(_)
            | Test::Template(_)
    )
}

fn literals(rule: &ResidualRule) -> impl Iterator<Item = &Literal> {
    let alternatives = rule.clauses.iter().flat_map(|clause| &clause.any);
    alternatives.flat_map(|alternative| &alternative.all)
}

fn length(of: usize) -> Result<u32, CompileError> {
    u32::try_from(of)
        .ok()
        .filter(|n| *n < 1 << 31)
        .ok_or(CompileError::TooLarge)
}
