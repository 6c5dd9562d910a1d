//! What a set of string patterns can tell apart: every combination of true and false that some
//! string gives, each with a shortest string that does.
//!
//! All patterns are run at once as one automaton, whose states are sets of places in the patterns.
//! In each state only the characters that some place waits for are tried, and one of each kind that
//! nobody waits for; all others lead where that one leads. So nothing is missed, and nothing that no
//! string can do is reported.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::cluster::PathNormalization;

/// States beyond which a set of patterns counts as too many.
const STATES_MAX: usize = 300_000;

/// A pattern that a whole string matches or not.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Pattern {
    pub pieces: Vec<Piece>,
    /// The string is compared in lower case.
    pub fold: bool,
    /// Only what stands before the first `?` counts.
    pub before_query: bool,
}

/// One step of a pattern.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Piece {
    Char(char),
    One(Class),
    /// None or more.
    Many(Class),
}

/// Sets of characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Class {
    Any,
    /// What a path segment may hold as it is.
    Segment,
    /// That, or a slash.
    Path,
}

/// Which strings there are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Domain {
    /// Printable text, the empty one included.
    Text,
    /// Not empty.
    Word,
    /// Not empty, without a slash: a part of an identity.
    Part,
    /// A path as rules see it after this normalisation and the other, with a query or without.
    Target([PathNormalization; 2]),
}

/// The patterns that some string matches, and such a string. Sorted by the patterns' numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cell {
    pub matches: Vec<usize>,
    pub witness: String,
}

impl Pattern {
    pub fn new(pieces: Vec<Piece>) -> Self {
        Self {
            pieces,
            fold: false,
            before_query: false,
        }
    }

    /// Text in which each `*` stands for any text.
    pub fn glob(text: &str) -> Self {
        Self::new(
            text.chars()
                .map(|c| match c {
                    '*' => Piece::Many(Class::Any),
                    c => Piece::Char(c),
                })
                .collect(),
        )
    }

    pub fn literal(text: &str) -> Vec<Piece> {
        text.chars().map(Piece::Char).collect()
    }
}

impl Class {
    fn has(self, c: char) -> bool {
        let segment = c.is_ascii_alphanumeric() || "-._~%!$&'()*+,;:=@".contains(c);
        match self {
            Self::Any => true,
            Self::Segment => segment,
            Self::Path => segment || c == '/',
        }
    }
}

/// The patterns that one string matches.
pub(super) fn matching(patterns: &[Pattern], text: &str) -> Vec<usize> {
    let automaton = Automaton::new(patterns, Domain::Text);
    let mut places = automaton.start();
    for c in text.chars() {
        places = automaton.step(&places, c);
    }
    automaton.matches(&places)
}

/// Every combination that some string of the domain gives; `None` when there are too many.
pub(super) fn cells(patterns: &[Pattern], domain: Domain) -> Option<Vec<Cell>> {
    Automaton::new(patterns, domain).run()
}

/// A state: places that are alive, and where in the domain's own shape the string is.
type State = (Vec<(usize, usize)>, u8);

struct Automaton<'a> {
    patterns: &'a [Pattern],
    domain: Domain,
    /// Upper and lower case must both be tried.
    cases: bool,
    /// Some piece takes certain characters only.
    classes: bool,
    /// Number of each state, with the state before it and the character that led there.
    seen: HashMap<State, (usize, char)>,
    queue: VecDeque<State>,
}

/// The place of a pattern that matched before the query began.
const FROZEN: usize = usize::MAX;

impl<'a> Automaton<'a> {
    fn new(patterns: &'a [Pattern], domain: Domain) -> Self {
        Self {
            patterns,
            domain,
            cases: patterns.iter().any(|p| p.fold) && patterns.iter().any(|p| !p.fold),
            classes: patterns
                .iter()
                .flat_map(|p| &p.pieces)
                .any(|p| matches!(p, Piece::One(c) | Piece::Many(c) if *c != Class::Any)),
            seen: HashMap::new(),
            queue: VecDeque::new(),
        }
    }

    fn start(&self) -> Vec<(usize, usize)> {
        let mut start = Vec::new();
        for number in 0..self.patterns.len() {
            self.reach(number, 0, &mut start);
        }
        tidy(&mut start);
        start
    }

    fn run(mut self) -> Option<Vec<Cell>> {
        let mut trail: Vec<(usize, char)> = vec![(0, ' ')];
        let mut cells = Vec::new();
        let mut found: HashSet<Vec<usize>> = HashSet::new();
        let start = (self.start(), START);
        self.seen.insert(start.clone(), (0, ' '));
        self.queue.push_back(start);
        let mut number = 0;
        while let Some(state) = self.queue.pop_front() {
            if self.domain.ends(state.1) {
                let matches = self.matches(&state.0);
                if found.insert(matches.clone()) {
                    let witness = spelled(&trail, number);
                    cells.push(Cell { matches, witness });
                }
            }
            for c in self.alphabet(&state)? {
                let Some(shape) = self.domain.step(state.1, c) else {
                    continue;
                };
                let next = (self.step(&state.0, c), shape);
                if !self.seen.contains_key(&next) {
                    if self.seen.len() >= STATES_MAX {
                        return None;
                    }
                    self.seen.insert(next.clone(), (number, c));
                    trail.push((number, c));
                    self.queue.push_back(next);
                }
            }
            number += 1;
        }
        Some(cells)
    }

    fn matches(&self, places: &[(usize, usize)]) -> Vec<usize> {
        let at_end = |(number, place): &&(usize, usize)| {
            let length = self.patterns.get(*number).map(|p| p.pieces.len());
            *place == FROZEN || length == Some(*place)
        };
        let mut matches: Vec<usize> = places.iter().filter(at_end).map(|(n, _)| *n).collect();
        matches.dedup();
        matches
    }

    /// Adds a place, and those behind it that nothing has to be read for.
    fn reach(&self, number: usize, place: usize, into: &mut Vec<(usize, usize)>) {
        into.push((number, place));
        let mut place = place;
        let pieces = self.patterns.get(number).map(|p| &p.pieces[..]);
        while let Some(Piece::Many(_)) = pieces.and_then(|p| p.get(place)) {
            place += 1;
            into.push((number, place));
        }
    }

    fn step(&self, places: &[(usize, usize)], c: char) -> Vec<(usize, usize)> {
        let mut next = Vec::new();
        for &(number, place) in places {
            let Some(pattern) = self.patterns.get(number) else {
                continue;
            };
            if place == FROZEN {
                next.push((number, FROZEN));
                continue;
            }
            if pattern.before_query && c == '?' {
                if place == pattern.pieces.len() {
                    next.push((number, FROZEN));
                }
                continue;
            }
            let c = if pattern.fold {
                c.to_ascii_lowercase()
            } else {
                c
            };
            match pattern.pieces.get(place) {
                Some(Piece::Char(wanted)) if *wanted == c => {
                    self.reach(number, place + 1, &mut next);
                }
                Some(Piece::One(class)) if class.has(c) => {
                    self.reach(number, place + 1, &mut next);
                }
                Some(Piece::Many(class)) if class.has(c) => {
                    self.reach(number, place, &mut next);
                }
                _ => {}
            }
        }
        tidy(&mut next);
        next
    }

    /// The characters that lead to different states; `None` when no stand-in for the others is left.
    fn alphabet(&self, state: &State) -> Option<Vec<char>> {
        let mut waited = Vec::new();
        for &(number, place) in &state.0 {
            let piece = self.patterns.get(number).and_then(|p| p.pieces.get(place));
            if let Some(Piece::Char(c)) = piece {
                waited.push(*c);
                if self.cases && c.is_ascii_alphabetic() {
                    waited.extend([c.to_ascii_lowercase(), c.to_ascii_uppercase()]);
                }
            }
        }
        waited.sort_unstable();
        waited.dedup();
        let mut tried = Vec::new();
        let free = |c: &char| !waited.contains(c);
        tried.push(STAND_INS.chars().find(free)?);
        if self.classes {
            tried.push(OUTSIDERS.chars().find(free)?);
        }
        if matches!(self.domain, Domain::Target(_)) {
            tried.extend(['/', '?'].iter().filter(|c| free(c)));
        } else if self.classes && free(&'/') {
            tried.push('/');
        }
        tried.extend(waited);
        Some(tried)
    }
}

/// Characters that a segment may hold; the first that nobody waits for stands for all such.
const STAND_INS: &str =
    "xzqjkvwyuabcdefghilmnoprst0123456789XZQJKVWYUABCDEFGHILMNOPRST-_~!$&'()*+,;:=@";
/// Characters that no template operator takes.
const OUTSIDERS: &str = "[]\u{e9}\u{e8}\u{fc}\u{f6}";

fn tidy(places: &mut Vec<(usize, usize)>) {
    places.sort_unstable();
    places.dedup();
}

fn spelled(trail: &[(usize, char)], number: usize) -> String {
    let mut text = Vec::new();
    let mut at = number;
    while let Some(&(before, c)) = trail.get(at).filter(|_| at != 0) {
        text.push(c);
        at = before;
    }
    text.iter().rev().collect()
}

const START: u8 = 0;
/// Behind the first slash of a path.
const ROOT: u8 = 1;
const SEGMENT: u8 = 2;
const DOT: u8 = 3;
const DOTS: u8 = 4;
const INSIDE: u8 = 5;
/// The path `//`, which merging leaves.
const SLASHES: u8 = 6;
const QUERY: u8 = 7;

impl Domain {
    /// Where the next character leads; `None` when no string goes on so.
    fn step(self, at: u8, c: char) -> Option<u8> {
        match self {
            Self::Text | Self::Word => Some(INSIDE),
            Self::Part => (c != '/').then_some(INSIDE),
            Self::Target(modes) => target_step(modes, at, c),
        }
    }

    fn ends(self, at: u8) -> bool {
        match self {
            Self::Text => true,
            Self::Word | Self::Part => at != START,
            Self::Target([PathNormalization::None, PathNormalization::None]) => at != START,
            Self::Target(_) => !matches!(at, START | DOT | DOTS),
        }
    }
}

fn target_step(modes: [PathNormalization; 2], at: u8, c: char) -> Option<u8> {
    use PathNormalization::{DecodeAndMergeSlashes, MergeSlashes, None as Nothing};
    if !('!'..='~').contains(&c) || c == '#' {
        return None;
    }
    let normal = modes.iter().any(|m| *m != Nothing);
    let merges = modes
        .iter()
        .any(|m| matches!(m, MergeSlashes | DecodeAndMergeSlashes));
    let dots = normal && matches!(at, DOT | DOTS);
    match (at, c) {
        (START, '/') => Some(ROOT),
        (START, _) => None,
        (QUERY, _) => Some(QUERY),
        (_, '?') => (!dots).then_some(QUERY),
        (_, '/') if dots => None,
        (ROOT, '/') if merges => Some(SLASHES),
        (SEGMENT, '/') if merges => None,
        (SLASHES, _) => None,
        (_, '/') => Some(SEGMENT),
        (_, '\\' | '"' | '<' | '>' | '^' | '`' | '{' | '|' | '}') if normal => None,
        (ROOT | SEGMENT, '.') => Some(DOT),
        (DOT, '.') => Some(DOTS),
        _ => Some(INSIDE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(patterns: &[&str], domain: Domain) -> Vec<(Vec<usize>, String)> {
        let patterns: Vec<Pattern> = patterns.iter().map(|p| Pattern::glob(p)).collect();
        let mut cells: Vec<_> = cells(&patterns, domain)
            .expect("few states")
            .into_iter()
            .map(|c| (c.matches, c.witness))
            .collect();
        cells.sort();
        cells
    }

    /// Every string up to a length, over the letters of the patterns and two more.
    fn tried(patterns: &[&str], letters: &str, length: usize) -> HashSet<Vec<usize>> {
        let patterns: Vec<Pattern> = patterns.iter().map(|p| Pattern::glob(p)).collect();
        let mut strings = vec![String::new()];
        let mut all = strings.clone();
        for _ in 0..length {
            strings = strings
                .iter()
                .flat_map(|s| letters.chars().map(move |c| format!("{s}{c}")))
                .collect();
            all.extend(strings.clone());
        }
        let one = |text: &String| {
            let alone = |(_, p): &(usize, &Pattern)| {
                let pieces: Vec<Piece> = p.pieces.clone();
                naive(&pieces, text)
            };
            patterns
                .iter()
                .enumerate()
                .filter(alone)
                .map(|(n, _)| n)
                .collect()
        };
        all.iter().map(one).collect()
    }

    fn naive(pieces: &[Piece], text: &str) -> bool {
        match (pieces.split_first(), text.chars().next()) {
            (None, c) => c.is_none(),
            (Some((Piece::Many(_), rest)), c) => {
                naive(rest, text) || c.is_some_and(|c| naive(pieces, &text[c.len_utf8()..]))
            }
            (Some((Piece::Char(p), rest)), Some(c)) => {
                *p == c && naive(rest, &text[c.len_utf8()..])
            }
            (Some((Piece::One(_), rest)), Some(c)) => naive(rest, &text[c.len_utf8()..]),
            (Some(_), None) => false,
        }
    }

    #[test]
    fn all_that_strings_can_do_and_nothing_else() {
        for patterns in [
            &["a", "a*", "*a"][..],
            &["ab*", "*ba", "aba"],
            &["a*b", "*ab*", "b"],
            &["*", "a*a"],
            &["aa*", "*aa", "aaa", "*a*a*"],
            &[],
        ] {
            let exact: HashSet<Vec<usize>> = found(patterns, Domain::Text)
                .into_iter()
                .map(|(matches, _)| matches)
                .collect();
            assert_eq!(exact, tried(patterns, "abz", 6), "{patterns:?}");
        }
    }

    #[test]
    fn a_path_is_one_that_normalisation_leaves() {
        use PathNormalization::{Base, MergeSlashes, None as Nothing};
        let first = |mode, pattern: &str| {
            found(&[pattern], Domain::Target([mode; 2]))
                .into_iter()
                .find(|(matches, _)| !matches.is_empty())
                .map(|(_, witness)| witness)
        };
        assert_eq!(first(Base, "/a*").as_deref(), Some("/a"));
        assert_eq!(first(Base, "/a/../b"), None);
        assert_eq!(first(Nothing, "/a/../b").as_deref(), Some("/a/../b"));
        assert_eq!(first(Base, "//a").as_deref(), Some("//a"));
        assert_eq!(first(MergeSlashes, "//a"), None);
        assert_eq!(first(MergeSlashes, "//").as_deref(), Some("//"));
        assert_eq!(first(Base, "a*"), None);
    }
}
