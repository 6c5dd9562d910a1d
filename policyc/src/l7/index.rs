//! Which rules of a stage can match at all: exact values by hash, prefixes and suffixes by radix
//! tree, address blocks by length. A rule found here is a candidate and still judged in full, so a
//! collision costs time and never a verdict.

use std::{
    collections::BTreeMap,
    hash::BuildHasher,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::matcher::{Bytes, Facts};

/// Where an atom is entered: a pattern on one attribute.
pub(super) enum Key<'a> {
    Path(&'a Bytes),
    PathPrefix(&'a [u8]),
    Host(&'a Bytes),
    Method(&'a Bytes),
    Header(&'a str, &'a Bytes),
    Claim(&'a [String], &'a Bytes),
    Issuer(&'a Bytes),
    Subject(&'a Bytes),
    Sni(&'a Bytes),
    Remote(IpNet),
    Source(IpNet),
    /// True for so many values that looking it up would not help.
    Nothing,
    /// True for no value.
    Never,
}

impl<'a> Key<'a> {
    /// A pattern that every value matches is no key.
    pub fn of(pattern: &'a Bytes, key: impl FnOnce(&'a Bytes) -> Self) -> Self {
        match pattern {
            Bytes::NotEmpty | Bytes::Any => Self::Nothing,
            _ => key(pattern),
        }
    }

    /// How dear it is to find the key, and how much it lets through: less is better.
    pub fn weight(&self) -> u64 {
        match self {
            Self::Path(Bytes::Exact(_)) | Self::Host(Bytes::Exact(_)) => 1,
            Self::Header(_, Bytes::Exact(_)) | Self::Claim(_, Bytes::Exact(_)) => 2,
            Self::Issuer(Bytes::Exact(_)) | Self::Subject(Bytes::Exact(_)) => 2,
            Self::Remote(_) | Self::Source(_) => 3,
            Self::Method(_) => 6,
            _ => 4,
        }
    }
}

/// The index of one stage.
#[derive(Debug, Default)]
pub(super) struct Index {
    paths: Strings,
    hosts: Strings,
    methods: Strings,
    headers: BTreeMap<String, Strings>,
    claims: BTreeMap<Vec<String>, Strings>,
    issuers: Strings,
    subjects: Strings,
    snis: Strings,
    remotes: Blocks,
    sources: Blocks,
}

/// More distinct header names than this are found from the request's lines instead.
const NAMES_MAX: usize = 8;

impl Index {
    pub fn is_empty(&self) -> bool {
        let strings = [
            &self.paths,
            &self.hosts,
            &self.methods,
            &self.issuers,
            &self.subjects,
            &self.snis,
        ];
        strings.iter().all(|s| s.is_empty())
            && self.headers.is_empty()
            && self.claims.is_empty()
            && self.remotes.is_empty()
            && self.sources.is_empty()
    }

    /// Enters a rule under a key. Rules come in rising order.
    pub fn add(&mut self, key: Key<'_>, rule: u32) {
        match key {
            Key::Path(p) => self.paths.add(p, rule),
            Key::PathPrefix(prefix) => self.paths.prefixes.add(prefix, rule),
            Key::Host(p) => self.hosts.add(p, rule),
            Key::Method(p) => self.methods.add(p, rule),
            Key::Header(name, p) => self.headers.entry(name.into()).or_default().add(p, rule),
            Key::Claim(path, p) => self.claims.entry(path.into()).or_default().add(p, rule),
            Key::Issuer(p) => self.issuers.add(p, rule),
            Key::Subject(p) => self.subjects.add(p, rule),
            Key::Sni(p) => self.snis.add(p, rule),
            Key::Remote(net) => self.remotes.add(net, rule),
            Key::Source(net) => self.sources.add(net, rule),
            Key::Nothing | Key::Never => {}
        }
    }

    /// Builds what lookups read, once every rule is entered.
    pub fn finish(&mut self) {
        for strings in [
            &mut self.paths,
            &mut self.hosts,
            &mut self.methods,
            &mut self.issuers,
            &mut self.subjects,
            &mut self.snis,
        ] {
            strings.finish();
        }
        self.headers.values_mut().for_each(Strings::finish);
        self.claims.values_mut().for_each(Strings::finish);
        self.remotes.finish();
        self.sources.finish();
    }

    /// Calls `visit` with the rules, in rising order, of every key that the facts hold.
    pub fn candidates(&self, facts: &Facts<'_>, visit: &mut dyn FnMut(&[u32])) {
        if let Some(sni) = facts.connection.sni {
            self.snis.find(sni.as_bytes(), visit);
        }
        if !self.sources.is_empty() {
            self.sources.find(facts.connection.peer, visit);
        }
        if !self.remotes.is_empty() {
            self.remotes.find(facts.remote(), visit);
        }
        let Some(http) = &facts.http else { return };
        self.paths.find(http.path.as_bytes(), visit);
        self.methods.find(http.request.method.as_bytes(), visit);
        if let Some(host) = &http.host {
            self.hosts.find(host.as_bytes(), visit);
        }
        self.header_candidates(facts, visit);
        if http.claims.is_none() {
            return;
        }
        for (name, strings) in [("iss", &self.issuers), ("sub", &self.subjects)] {
            if let Some(text) = facts.claim_text(name) {
                strings.find(text.as_bytes(), visit);
            }
        }
        for (path, strings) in &self.claims {
            facts.claim(path, &mut |text| {
                strings.find(text, visit);
                false
            });
        }
    }

    fn header_candidates(&self, facts: &Facts<'_>, visit: &mut dyn FnMut(&[u32])) {
        let mut look = |name: &str, strings: &Strings| {
            facts.header(name, &mut |line| {
                strings.find(line, visit);
                false
            });
        };
        if self.headers.len() <= NAMES_MAX {
            for (name, strings) in &self.headers {
                look(name, strings);
            }
            return;
        }
        // The names that the request can answer to: its own lines, what the JWT stage set, and the
        // pseudo-headers.
        let Some(http) = &facts.http else { return };
        let mut names: Vec<String> = [":path", ":method", ":scheme", ":authority", "host"]
            .map(String::from)
            .into();
        names.extend(http.added.iter().map(|(name, _)| name.clone()));
        let lines = &mut |name: &str, _: &[u8]| names.push(name.to_ascii_lowercase());
        http.request.headers.visit(lines);
        names.sort_unstable();
        names.dedup();
        for name in names {
            if let Some(strings) = self.headers.get(&name) {
                look(&name, strings);
            }
        }
    }
}

/// Rules by the value of one string.
#[derive(Debug, Default)]
struct Strings {
    exact: Exact,
    prefixes: Radix,
    /// Suffixes, written backwards.
    suffixes: Radix,
}

impl Strings {
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty() && self.suffixes.is_empty()
    }

    fn add(&mut self, pattern: &Bytes, rule: u32) {
        match pattern {
            Bytes::Exact(value) => self.exact.add(value, rule),
            Bytes::Prefix(value) => self.prefixes.add(value, rule),
            Bytes::Suffix(value) => {
                let backwards: Vec<u8> = value.iter().rev().copied().collect();
                self.suffixes.add(&backwards, rule);
            }
            Bytes::NotEmpty | Bytes::Any => {}
        }
    }

    fn finish(&mut self) {
        self.exact.finish();
        self.prefixes.finish();
        self.suffixes.finish();
    }

    fn find(&self, value: &[u8], visit: &mut dyn FnMut(&[u32])) {
        self.exact.find(value, visit);
        self.prefixes.find(|at| value.get(at).copied(), visit);
        let last = value.len().wrapping_sub(1);
        let backwards = |at: usize| value.get(last.wrapping_sub(at)).copied();
        self.suffixes.find(backwards, visit);
    }
}

/// A run of rules in a flat list.
#[derive(Clone, Copy, Debug, Default)]
struct Posting {
    start: u32,
    length: u32,
}

#[derive(Debug, Default)]
struct Postings {
    rules: Vec<u32>,
}

impl Postings {
    /// INVARIANT: no stage has 2^31 rules, and each enters a key once, so both numbers fit.
    fn push(&mut self, rules: &[u32]) -> Posting {
        let start = u32::try_from(self.rules.len()).unwrap_or(u32::MAX);
        self.rules.extend_from_slice(rules);
        let length = u32::try_from(rules.len()).unwrap_or(0);
        Posting { start, length }
    }

    fn get(&self, posting: Posting) -> &[u32] {
        let start = posting.start as usize;
        &self.rules[start..start + posting.length as usize]
    }
}

/// Values by hash. The value itself is not kept: whoever is found is judged in full. A slot is eight
/// bytes, so that ten thousand values fit the nearer caches.
#[derive(Debug, Default)]
struct Exact {
    building: BTreeMap<u64, Vec<u32>>,
    /// Open addressing, at most half full.
    slots: Vec<Slot>,
    postings: Postings,
    /// The rules of slots that refer to several.
    several: Vec<Posting>,
}

/// The upper half of the hash, and a rule plus one, or [`SEVERAL`] and an index; 0: nothing here.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    fingerprint: u32,
    rules: u32,
}

/// Marks a slot that refers to several rules. No rule begins so far into the code.
const SEVERAL: u32 = 1 << 31;

impl Exact {
    fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.building.is_empty()
    }

    fn add(&mut self, value: &[u8], rule: u32) {
        let rules = self.building.entry(hash(value)).or_default();
        if rules.last() != Some(&rule) {
            rules.push(rule);
        }
    }

    fn finish(&mut self) {
        let building = std::mem::take(&mut self.building);
        if building.is_empty() {
            return;
        }
        self.slots = vec![Slot::default(); (building.len() * 2).next_power_of_two()];
        for (hash, rules) in building {
            let reference = match rules[..] {
                [one] => one + 1,
                _ => {
                    self.several.push(self.postings.push(&rules));
                    let index = u32::try_from(self.several.len() - 1).unwrap_or(0);
                    SEVERAL | index
                }
            };
            let mut at = self.first_slot(hash);
            while self.slots[at].rules != 0 {
                at = (at + 1) & (self.slots.len() - 1);
            }
            self.slots[at] = Slot {
                fingerprint: upper(hash),
                rules: reference,
            };
        }
    }

    fn first_slot(&self, hash: u64) -> usize {
        let low = usize::try_from(hash & 0xffff_ffff).unwrap_or(0);
        low & (self.slots.len() - 1)
    }

    fn find(&self, value: &[u8], visit: &mut dyn FnMut(&[u32])) {
        if self.slots.is_empty() {
            return;
        }
        let hash = hash(value);
        let mut at = self.first_slot(hash);
        // Two values may share a fingerprint, so the search goes on to the first empty slot.
        while self.slots[at].rules != 0 {
            let slot = self.slots[at];
            if slot.fingerprint == upper(hash) {
                match slot.rules & SEVERAL {
                    0 => visit(&[slot.rules - 1]),
                    _ => {
                        let posting = self.several[(slot.rules & !SEVERAL) as usize];
                        visit(self.postings.get(posting));
                    }
                }
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }
}

fn upper(hash: u64) -> u32 {
    u32::try_from(hash >> 32).unwrap_or(0)
}

fn hash(value: &[u8]) -> u64 {
    foldhash::fast::FixedState::default().hash_one(value)
}

/// All keys that a value begins with.
#[derive(Debug, Default)]
struct Radix {
    building: BTreeMap<Vec<u8>, Vec<u32>>,
    nodes: Vec<Node>,
    /// The first byte of each node's label, for the choice among siblings.
    firsts: Vec<u8>,
    labels: Vec<u8>,
    postings: Postings,
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    label: Posting,
    children: Posting,
    rules: Posting,
}

impl Radix {
    fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.building.is_empty()
    }

    fn add(&mut self, key: &[u8], rule: u32) {
        let rules = self.building.entry(key.into()).or_default();
        if rules.last() != Some(&rule) {
            rules.push(rule);
        }
    }

    /// Lays the tree out level by level, so that siblings lie side by side.
    fn finish(&mut self) {
        let building = std::mem::take(&mut self.building);
        if building.is_empty() {
            return;
        }
        let keys: Vec<(Vec<u8>, Vec<u32>)> = building.into_iter().collect();
        self.nodes.push(Node::default());
        self.firsts.push(0);
        let mut open = std::collections::VecDeque::from([(0usize, 0..keys.len(), 0usize)]);
        while let Some((node, mut range, depth)) = open.pop_front() {
            let (first, last) = (&keys[range.start].0, &keys[range.end - 1].0);
            let shared = depth
                + first[depth..]
                    .iter()
                    .zip(&last[depth..])
                    .take_while(|(a, b)| a == b)
                    .count();
            let start = u32::try_from(self.labels.len()).unwrap_or(u32::MAX);
            self.labels.extend_from_slice(&first[depth..shared]);
            self.nodes[node].label = Posting {
                start,
                length: u32::try_from(shared - depth).unwrap_or(0),
            };
            if first.len() == shared {
                self.nodes[node].rules = self.postings.push(&keys[range.start].1);
                range.start += 1;
            }
            let children = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
            while range.start < range.end {
                let byte = keys[range.start].0[shared];
                let same = keys[range.clone()].partition_point(|(k, _)| k[shared] == byte);
                open.push_back((self.nodes.len(), range.start..range.start + same, shared));
                self.nodes.push(Node::default());
                self.firsts.push(byte);
                range.start += same;
            }
            let length = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX) - children;
            self.nodes[node].children = Posting {
                start: children,
                length,
            };
        }
    }

    fn find(&self, byte: impl Fn(usize) -> Option<u8>, visit: &mut dyn FnMut(&[u32])) {
        let (mut node, mut at) = (0usize, 0usize);
        while let Some(here) = self.nodes.get(node) {
            let label = here.label.start as usize..(here.label.start + here.label.length) as usize;
            for expected in &self.labels[label] {
                if byte(at) != Some(*expected) {
                    return;
                }
                at += 1;
            }
            if here.rules.length != 0 {
                visit(self.postings.get(here.rules));
            }
            let Some(next) = byte(at) else { return };
            let start = here.children.start as usize;
            let siblings = &self.firsts[start..start + here.children.length as usize];
            match siblings.binary_search(&next) {
                Ok(child) => node = start + child,
                Err(_) => return,
            }
        }
    }
}

/// Rules by address block: one hash for each length of block in use.
#[derive(Debug, Default)]
struct Blocks {
    lengths: Vec<(bool, u8)>,
    blocks: Exact,
}

impl Blocks {
    fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    fn add(&mut self, net: IpNet, rule: u32) {
        let length = (net.addr().is_ipv4(), net.prefix_len());
        if !self.lengths.contains(&length) {
            self.lengths.push(length);
        }
        let (bytes, count) = block(net.addr(), net.prefix_len());
        self.blocks.add(&bytes[..count], rule);
    }

    fn finish(&mut self) {
        self.lengths.sort_unstable();
        self.blocks.finish();
    }

    fn find(&self, address: Option<IpAddr>, visit: &mut dyn FnMut(&[u32])) {
        let Some(address) = address else { return };
        for (_, length) in self.lengths.iter().filter(|l| l.0 == address.is_ipv4()) {
            let (bytes, count) = block(address, *length);
            self.blocks.find(&bytes[..count], visit);
        }
    }
}

/// The block of that length around an address, as the bytes of a key.
fn block(address: IpAddr, length: u8) -> ([u8; 17], usize) {
    let mut key = [0; 17];
    key[0] = length;
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            let masked = Ipv4Addr::from_bits(ip.to_bits() & mask);
            key[1..5].copy_from_slice(&masked.octets());
            (key, 5)
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            let masked = Ipv6Addr::from_bits(ip.to_bits() & mask);
            key[1..17].copy_from_slice(&masked.octets());
            (key, 17)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(strings: &Strings, value: &str) -> Vec<u32> {
        let mut rules = Vec::new();
        strings.find(value.as_bytes(), &mut |posting| {
            rules.extend_from_slice(posting)
        });
        rules.sort_unstable();
        rules
    }

    #[test]
    fn every_pattern_that_holds_is_found_and_no_other_but_by_collision() {
        let patterns = [
            "/a", "/a*", "/ab*", "*b", "*ab", "/abc*", "", "x*", "/a/b/c*", "*",
        ];
        let mut strings = Strings::default();
        for (rule, text) in patterns.iter().enumerate() {
            let pattern = crate::ir::Pattern::parse(text);
            let pattern = Bytes::new(&pattern, Bytes::NotEmpty);
            strings.add(&pattern, u32::try_from(rule).expect("few patterns"));
        }
        strings.finish();
        for value in [
            "/a", "/ab", "/abc", "b", "", "x", "/a/b/c/d", "zz", "/b", "ab",
        ] {
            let expected: Vec<u32> = (0u32..)
                .zip(patterns)
                .filter(|(_, p)| *p != "*" && crate::ir::Pattern::parse(p).matches(value))
                .map(|(rule, _)| rule)
                .collect();
            assert_eq!(found(&strings, value), expected, "value {value:?}");
        }
    }

    #[test]
    fn blocks_of_every_length() {
        let mut blocks = Blocks::default();
        let nets = [
            "0.0.0.0/0",
            "10.0.0.7/24",
            "10.0.0.5/32",
            "::/0",
            "fd00::/8",
            "fd00::1/128",
        ];
        for (rule, net) in (0u32..).zip(nets) {
            blocks.add(net.parse().expect("a block"), rule);
        }
        blocks.finish();
        for (address, expected) in [
            ("10.0.0.5", &[0, 1, 2][..]),
            ("10.0.1.5", &[0]),
            ("fd00::1", &[3, 4, 5]),
            ("fe00::1", &[3]),
        ] {
            let mut rules = Vec::new();
            let address = Some(address.parse().expect("an address"));
            blocks.find(address, &mut |posting| rules.extend_from_slice(posting));
            rules.sort_unstable();
            assert_eq!(rules, expected, "{address:?}");
        }
    }
}
