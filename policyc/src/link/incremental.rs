//! Sources that come and go in a table that is linked already: which of its words change.
//!
//! A pod of another node is a source and nothing else. It changes the words of its addresses, each by
//! one store, or by one store that links a block or an entry which nobody could see before. Readers
//! meanwhile see an address as it was or as it is. What is not one of these words is a whole link's:
//! a source that the table's classes do not know, a pod of this node, room that is used up.
//!
//! An address that nobody holds any more is what the range around it is, in the words of IPv4 and in
//! an IPv6 entry alike: an entry is never another address's later, since a reader may be between its
//! words. Blocks and entries that are not needed any more stay until the next whole link.
//!
//! An address that changes hands gets one word, so that nobody inherits anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Range,
};

use enforcer_ebpf::words::{
    ADDRESSES_MAX, Address, BUCKET, Holder, LEAF, V4_ROOT, V6_ENTRY, Words, header, v6_buckets,
};

use ipnet::IpNet;

use super::{
    Disputes, Local, PodName, Source,
    addresses::{Book, identity, is_source, number, parts},
    classes::Partition,
};
use crate::{
    cluster::{Cluster, Pod},
    ir::Program,
};

/// Words that are written while others read them. What is stored first is seen first.
pub trait Table: Words {
    fn store(&mut self, index: u32, word: u32);

    /// Words that it may have at most.
    fn room(&self) -> u32;
}

/// A pod as it was and as it is.
#[derive(Clone, Copy, Debug)]
pub struct PodChange<'a> {
    pub name: &'a PodName,
    pub before: Option<&'a Pod>,
    pub now: Option<&'a Pod>,
}

/// What it takes to follow the sources of a linked table.
#[derive(Clone, Debug)]
pub struct Sources {
    pub(super) partition: Partition,
    /// By family: IPv4, IPv6.
    ranges: [Vec<(u128, Address)>; 2],
    own: BTreeMap<IpAddr, Address>,
    pub(super) disputed: BTreeSet<IpAddr>,
    local: Local,
    /// Addresses and ranges, an upper bound.
    pub(super) count: usize,
    pub(super) ground: Ground,
    /// The cluster's pods stand by namespace and name, and are to stay so.
    pub(super) sorted: bool,
    /// Where everything lies that is not about addresses, as it was linked.
    pub(super) scopes: Range<usize>,
    /// Words that nothing leads to any more.
    pub(super) unused: usize,
}

/// What the words of addresses rest on, besides pods and policies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Ground {
    pub trust_domain: String,
    pub pod_cidrs: Vec<IpNet>,
    pub own: Vec<IpAddr>,
    pub disputes: Disputes,
    /// The node's own pods, each in its slot.
    pub locals: Vec<(PodName, u32)>,
}

/// What has become of changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Followed {
    /// The table knows of them, by so many words of addresses.
    Done(usize),
    /// A whole link is needed, and no address has changed its word.
    Whole(Why),
}

/// Why a table cannot follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// A pod of this node is among the changed.
    Local,
    /// No source so far was like a new one.
    NewClass,
    /// Several pods claim an address.
    Dispute,
    /// There is no room for a block or an entry.
    Full,
}

impl Sources {
    pub(super) fn new(partition: Partition, book: &Book, local: &Local, ground: Ground) -> Self {
        Self {
            partition,
            ranges: [book.v4_ranges.clone(), book.v6_ranges.clone()],
            own: book.own.clone(),
            disputed: book.disputed.clone(),
            local: local.clone(),
            count: book.len(),
            ground,
            sorted: false,
            scopes: 0..0,
            unused: 0,
        }
    }

    /// Names of the node's own pods, where it was told them.
    pub(super) fn local_names(&self) -> Option<&BTreeSet<PodName>> {
        match &self.local {
            Local::Only(names) => Some(names),
            Local::All | Local::Node(_) => None,
        }
    }

    /// The same sources in a table of other classes, in which no word of a range has changed.
    pub(super) fn with(&self, partition: Partition) -> Self {
        Self {
            partition,
            ranges: self.ranges.clone(),
            own: self.own.clone(),
            disputed: self.disputed.clone(),
            local: self.local.clone(),
            count: self.count,
            ground: self.ground.clone(),
            sorted: self.sorted,
            scopes: self.scopes.clone(),
            unused: self.unused,
        }
    }

    /// Makes changes of pods come true in the table that these sources were linked with. `program` is
    /// the one that was linked, and everything but the pods of `cluster` as it was.
    pub fn follow(
        &mut self,
        program: &Program,
        cluster: &Cluster,
        changes: &[PodChange<'_>],
        table: &mut (impl Table + ?Sized),
    ) -> Followed {
        let words = match self.words(program, cluster, changes, table) {
            Ok(words) => words,
            Err(why) => return Followed::Whole(why),
        };
        let mut stored = 0;
        for (address, word) in words {
            let done = set(table, address, word);
            // Room was made sure of.
            match done {
                Some(changed) => stored += usize::from(changed),
                None => return Followed::Whole(Why::Full),
            }
        }
        Followed::Done(stored)
    }

    /// The addresses that change hands, with their words. There is room for them.
    fn words(
        &mut self,
        program: &Program,
        cluster: &Cluster,
        changes: &[PodChange<'_>],
        table: &(impl Table + ?Sized),
    ) -> Result<BTreeMap<IpAddr, Address>, Why> {
        let changes: Vec<_> = changes.iter().filter(|change| change.matters()).collect();
        if changes.iter().any(|change| self.is_local(change)) {
            return Err(Why::Local);
        }
        let mut words = BTreeMap::new();
        for change in &changes {
            for &address in change
                .before
                .filter(|pod| is_source(pod))
                .map_or(&[][..], |p| &p.ips)
            {
                words.insert(address, self.around(address));
            }
        }
        let released: BTreeSet<IpAddr> = words.keys().copied().collect();
        let mut claimed = BTreeSet::new();
        for change in &changes {
            let Some(pod) = change.now.filter(|pod| is_source(pod)) else {
                continue;
            };
            for &address in &pod.ips {
                let held = !released.contains(&address) && is_held(get(table, address));
                if !claimed.insert(address) || held {
                    return Err(Why::Dispute);
                }
                let source = Source {
                    identity: Some(identity(cluster, pod)),
                    address: Some(address),
                };
                let class = self.partition.class(program, &source);
                let class = class.ok_or(Why::NewClass)?;
                words.insert(address, Address::new(Holder::RemotePod, class));
            }
        }
        if words.keys().any(|address| self.disputed.contains(address)) {
            return Err(Why::Dispute);
        }
        self.make_sure_of_room(&words, table)?;
        Ok(words)
    }

    fn is_local(&self, change: &PodChange<'_>) -> bool {
        match &self.local {
            Local::All => true,
            Local::Only(names) => names.contains(change.name),
            Local::Node(node) => [change.before, change.now]
                .into_iter()
                .flatten()
                .any(|pod| pod.node.as_ref() == Some(node)),
        }
    }

    /// What an address is that no pod holds.
    fn around(&self, address: IpAddr) -> Address {
        if let Some(own) = self.own.get(&address) {
            return *own;
        }
        let ranges = &self.ranges[usize::from(address.is_ipv6())];
        let after = ranges.partition_point(|(start, _)| *start <= number(address));
        let range = after.checked_sub(1).and_then(|at| ranges.get(at));
        range.map_or(Address::new(Holder::Unknown, 0), |(_, word)| *word)
    }

    /// Every address may need its own entry, or two blocks.
    fn make_sure_of_room(
        &mut self,
        words: &BTreeMap<IpAddr, Address>,
        table: &(impl Table + ?Sized),
    ) -> Result<(), Why> {
        let mut blocks = 0;
        let mut entries: BTreeMap<u32, u32> = BTreeMap::new();
        for (address, word) in words {
            match address {
                IpAddr::V4(address) => blocks += blocks_for(table, address.to_bits(), *word),
                IpAddr::V6(address) => {
                    let address = parts(address.to_bits());
                    if entry(table, &address).is_none() && !is_known(table, &address, *word) {
                        let bucket = roomy(table, &address, &entries).ok_or(Why::Full)?;
                        *entries.entry(bucket).or_default() += 1;
                    }
                }
            }
        }
        let count = self.count + words.len();
        let length = u64::from(table.at(header::LENGTH)) + u64::from(blocks) * u64::from(BLOCK);
        if length > u64::from(table.room()) || count > ADDRESSES_MAX as usize {
            return Err(Why::Full);
        }
        self.count = count;
        Ok(())
    }
}

impl PodChange<'_> {
    /// Whether it says anything that linking asks for.
    fn matters(&self) -> bool {
        match (self.before, self.now) {
            (Some(before), Some(now)) => {
                let of = |pod: &Pod| (pod.finished, pod.node.clone());
                before.template != now.template || before.ips != now.ips || of(before) != of(now)
            }
            (before, now) => before.is_some() || now.is_some(),
        }
    }
}

/// The word of an address.
pub(super) fn get(table: &(impl Words + ?Sized), address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => enforcer_ebpf::decide::address_v4(table, address.to_bits()),
        IpAddr::V6(address) => table.address_v6(&parts(address.to_bits())),
    }
}

/// Whether a pod has it.
pub(super) fn is_held(word: Address) -> bool {
    matches!(word.holder(), Holder::RemotePod | Holder::LocalPod(_))
}

/// Words of a block of the IPv4 trie.
const BLOCK: u32 = 256;

/// Where the walk to an IPv4 address ends: the word's index, and how many bits of the address are
/// left below it.
fn walk(table: &(impl Words + ?Sized), address: u32) -> (u32, u32) {
    let mut at = V4_ROOT + (address >> 16);
    for below in [16, 8] {
        let word = table.at(at);
        if word & LEAF != 0 {
            return (at, below);
        }
        at = word.wrapping_add((address >> (below - 8)) & 0xff);
    }
    (at, 0)
}

/// Blocks that must be made to give an address a word of its own.
fn blocks_for(table: &(impl Words + ?Sized), address: u32, word: Address) -> u32 {
    let (at, below) = walk(table, address);
    if table.at(at) == word.0 { 0 } else { below / 8 }
}

/// Stores the word of an address. Whether it is another one than before; `None`: no room.
pub(super) fn set(
    table: &mut (impl Table + ?Sized),
    address: IpAddr,
    word: Address,
) -> Option<bool> {
    match address {
        IpAddr::V4(address) => set_v4(table, address.to_bits(), word),
        IpAddr::V6(address) => set_v6(table, &parts(address.to_bits()), word),
    }
}

/// Stores the word of an IPv4 address. Whether it is another one than before; `None`: no room.
fn set_v4(table: &mut (impl Table + ?Sized), address: u32, word: Address) -> Option<bool> {
    let (at, below) = walk(table, address);
    let around = table.at(at);
    if around == word.0 {
        return Some(false);
    }
    // From the address's own word upwards; the last store makes all of it visible.
    let mut own = word.0;
    for shift in (0..below).step_by(8) {
        own = block(table, around, (address >> shift) & 0xff, own)?;
    }
    table.store(at, own);
    Some(true)
}

/// A new block that says the same everywhere but in one place.
fn block(table: &mut (impl Table + ?Sized), around: u32, place: u32, word: u32) -> Option<u32> {
    let start = table.at(header::LENGTH);
    let end = start
        .checked_add(BLOCK)
        .filter(|end| *end <= table.room())?;
    for index in start..end {
        table.store(index, around);
    }
    table.store(start + place, word);
    table.store(header::LENGTH, end);
    Some(start)
}

/// The entries in which an IPv6 host may stand: their buckets and offsets.
fn entries(table: &(impl Words + ?Sized), address: &[u32; 4]) -> Vec<(u32, u32)> {
    let hosts = table.at(header::V6_HOSTS);
    if hosts == 0 {
        return Vec::new();
    }
    let buckets = v6_buckets(address, table.at(header::V6_HOSTS_BITS));
    let of =
        |bucket: u32| (0..BUCKET).map(move |i| (bucket, hosts + (bucket * BUCKET + i) * V6_ENTRY));
    buckets.into_iter().flat_map(of).collect()
}

/// Index of the word in the entry of an IPv6 host.
fn entry(table: &(impl Words + ?Sized), address: &[u32; 4]) -> Option<u32> {
    let mut entries = entries(table, address).into_iter();
    entries
        .find(|(_, at)| table.at(at + 4) != 0 && table.four(*at) == *address)
        .map(|(_, at)| at + 4)
}

/// Whether an IPv6 address has that word already.
fn is_known(table: &(impl Words + ?Sized), address: &[u32; 4], word: Address) -> bool {
    table.address_v6(address) == word
}

/// The bucket in which an IPv6 host finds a free entry, when so many of some buckets are promised.
fn roomy(
    table: &(impl Words + ?Sized),
    address: &[u32; 4],
    promised: &BTreeMap<u32, u32>,
) -> Option<u32> {
    let mut free: BTreeMap<u32, u32> = BTreeMap::new();
    let mut order = Vec::new();
    for (bucket, at) in entries(table, address) {
        order.push(bucket);
        if table.at(at + 4) == 0 {
            *free.entry(bucket).or_default() += 1;
        }
    }
    let promised = |bucket: &u32| promised.get(bucket).copied().unwrap_or(0);
    let left = |bucket: &u32| free.get(bucket).copied().unwrap_or(0) > promised(bucket);
    order.into_iter().find(left)
}

/// Stores the word of an IPv6 address, as [`set_v4`] does.
fn set_v6(table: &mut (impl Table + ?Sized), address: &[u32; 4], word: Address) -> Option<bool> {
    if is_known(table, address, word) {
        return Some(false);
    }
    if let Some(at) = entry(table, address) {
        table.store(at, word.0);
        return Some(true);
    }
    let mut entries = entries(table, address).into_iter();
    let (_, at) = entries.find(|(_, at)| table.at(at + 4) == 0)?;
    for (index, part) in (at..).zip(address) {
        table.store(index, *part);
    }
    // An entry without its word is nobody's.
    table.store(at + 4, word.0);
    Some(true)
}

#[cfg(test)]
mod tests;
