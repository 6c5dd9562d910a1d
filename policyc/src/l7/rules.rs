//! Rules as flat code: one run of bytes for all rules of a residual, each rule's side by side with the
//! texts that it compares, so that judging one touches few cache lines however many there are.
//!
//! Numbers are four bytes, least significant first.
//!
//! ```text
//! rule         reference, clauses, then each clause
//! clause       alternatives, bytes that follow, then each alternative
//! alternative  literals, bytes that follow, then each literal
//! literal      atoms << 1 | negated, bytes that follow, then each atom
//! atom         its number; or INLINE | attribute << 28 | form << 26 | length, then the text
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
    bytes: Vec<u8>,
    atoms: Vec<Entry>,
    rules: Vec<RuleRef>,
}

#[derive(Debug)]
struct Entry {
    test: Test,
    /// Where the answer is kept once given; [`Memo::NONE`] for what is cheaper asked again.
    memo: u16,
}

/// The rules of one stage: where each begins in the code, found by what it must see. A node may hold
/// tens of thousands of stages of a rule or two, so an index is made only where it pays.
#[derive(Debug, Default)]
pub(super) struct Stage {
    index: Option<Box<Index>>,
    /// Rules that no single value can find, or that are few, in order.
    always: Box<[u32]>,
}

/// As many rules are tried one by one sooner than they are found.
const FEW: usize = 4;

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
        self.always.is_empty() && self.index.is_none()
    }

    /// The first rule, in order, that holds.
    pub fn first(&self, code: &Code, facts: &Facts<'_>, memo: &mut Memo) -> Option<RuleRef> {
        let mut best = u32::MAX;
        if let Some(index) = &self.index {
            index.candidates(facts, &mut |posting| {
                let found = posting
                    .iter()
                    .take_while(|at| **at < best)
                    .find(|at| code.holds(**at, facts, memo));
                best = found.copied().unwrap_or(best);
            });
        }
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
        let mut candidates = self.always.to_vec();
        if let Some(index) = &self.index {
            index.candidates(facts, &mut |posting| candidates.extend_from_slice(posting));
        }
        candidates.sort_unstable();
        candidates.dedup();
        let holding = candidates
            .into_iter()
            .filter(|at| code.holds(*at, facts, memo));
        holding.map(|at| code.reference(at)).collect()
    }
}

/// Marks an atom whose text stands in the code itself.
const INLINE: u32 = 1 << 31;
/// Longer texts stay with their atom.
const INLINE_MAX: usize = 256;
/// What a head of two numbers takes.
const HEAD: usize = 8;

impl Code {
    /// The number at `at`. Nothing is ever written outside of the code, so 0 is never read for want
    /// of it.
    fn number(&self, at: usize) -> u32 {
        let bytes = self.bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
        u32::from_le_bytes(bytes.unwrap_or_default())
    }

    fn reference(&self, at: u32) -> RuleRef {
        self.rules[self.number(at as usize) as usize]
    }

    fn holds(&self, at: u32, facts: &Facts<'_>, memo: &mut Memo) -> bool {
        let mut next = at as usize + HEAD;
        (0..self.number(at as usize + 4)).all(|_| {
            let clause = next;
            next = self.end(clause);
            self.clause_holds(clause, facts, memo)
        })
    }

    fn clause_holds(&self, at: usize, facts: &Facts<'_>, memo: &mut Memo) -> bool {
        let mut next = at + HEAD;
        (0..self.number(at)).any(|_| {
            let alternative = next;
            next = self.end(alternative);
            self.alternative_holds(alternative, facts, memo)
        })
    }

    fn alternative_holds(&self, at: usize, facts: &Facts<'_>, memo: &mut Memo) -> bool {
        let mut next = at + HEAD;
        (0..self.number(at)).all(|_| {
            let literal = next;
            next = self.end(literal);
            self.literal_holds(literal, facts, memo)
        })
    }

    fn literal_holds(&self, at: usize, facts: &Facts<'_>, memo: &mut Memo) -> bool {
        let head = self.number(at);
        let mut next = at + HEAD;
        let any = (0..head >> 1).any(|_| {
            let atom = self.number(next);
            let text = next + 4;
            if atom & INLINE == 0 {
                next = text;
                return self.atom_holds(atom, facts, memo);
            }
            next = text + length_of(atom);
            inline_holds(atom, &self.bytes[text..next], facts)
        });
        any != (head & 1 == 1)
    }

    /// Where what begins with a head of two numbers ends.
    fn end(&self, at: usize) -> usize {
        at + HEAD + self.number(at + 4) as usize
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

fn length_of(atom: u32) -> usize {
    (atom & ((1 << 26) - 1)) as usize
}

/// The word and the text of an atom that is short and plain enough to stand in the code.
fn inline(test: &Test) -> Option<(u32, &[u8])> {
    let (attribute, pattern) = match test {
        Test::Path(pattern) => (0, pattern),
        Test::Host(pattern) => (1, pattern),
        Test::Method(pattern) => (2, pattern),
        _ => return None,
    };
    let (form, text) = match pattern {
        Bytes::Exact(text) => (0, text),
        Bytes::Prefix(text) => (1, text),
        Bytes::Suffix(text) => (2, text),
        Bytes::NotEmpty | Bytes::Any => return None,
    };
    let length = u32::try_from(text.len())
        .ok()
        .filter(|_| text.len() <= INLINE_MAX)?;
    Some((INLINE | attribute << 28 | form << 26 | length, text))
}

fn inline_holds(atom: u32, text: &[u8], facts: &Facts<'_>) -> bool {
    let Some(http) = &facts.http else {
        return false;
    };
    let value = match atom >> 28 & 3 {
        0 => http.path.as_bytes(),
        1 => match &http.host {
            Some(host) => host.as_bytes(),
            None => return false,
        },
        _ => http.request.method.as_bytes(),
    };
    match atom >> 26 & 3 {
        0 => value == text,
        1 => value.starts_with(text),
        _ => value.ends_with(text),
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
        let mut index = Index::default();
        let mut always = Vec::new();
        for rule in rules {
            if rule.clauses.iter().any(|clause| clause.any.is_empty()) {
                continue;
            }
            let at = self.rule(rule)?;
            let found_by = match rules.len() {
                0..=FEW => None,
                _ => self.access(rule)?,
            };
            match found_by {
                Some(atoms) => {
                    for atom in atoms {
                        index.add(key(&self.code.atoms[atom as usize].test), at);
                    }
                }
                None => always.push(at),
            }
        }
        index.finish();
        Ok(Stage {
            index: (!index.is_empty()).then(|| Box::new(index)),
            always: always.into(),
        })
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
        let at = length(self.code.bytes.len())?;
        let reference = length(self.code.rules.len())?;
        self.code.rules.push(rule.rule);
        let clauses = length(rule.clauses.len())?;
        self.write(reference);
        self.write(clauses);
        for clause in &rule.clauses {
            let head = self.open(length(clause.any.len())?);
            for alternative in &clause.any {
                self.alternative(alternative)?;
            }
            self.close(head)?;
        }
        Ok(at)
    }

    fn alternative(&mut self, alternative: &Alternative) -> Result<(), CompileError> {
        let head = self.open(length(alternative.all.len())?);
        for literal in &alternative.all {
            let count = length(literal.any.len())?;
            let head = self.open(count << 1 | u32::from(literal.negated));
            for atom in &literal.any {
                let number = self.number(*atom)?;
                match inline(&self.code.atoms[number as usize].test) {
                    Some((word, text)) => {
                        self.code.bytes.extend_from_slice(&word.to_le_bytes());
                        self.code.bytes.extend_from_slice(text);
                    }
                    None => self.write(number),
                }
            }
            self.close(head)?;
        }
        self.close(head)
    }

    fn write(&mut self, number: u32) {
        self.code.bytes.extend_from_slice(&number.to_le_bytes());
    }

    /// Writes a head whose second number is not known yet; gives the place after it.
    fn open(&mut self, first: u32) -> usize {
        self.write(first);
        self.write(0);
        self.code.bytes.len()
    }

    fn close(&mut self, after: usize) -> Result<(), CompileError> {
        let follow = length(self.code.bytes.len() - after)?;
        self.code.bytes[after - 4..after].copy_from_slice(&follow.to_le_bytes());
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
