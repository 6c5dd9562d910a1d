//! The identity map: every address of the inventory, and every range that policies or the pods'
//! ranges cut out, with who holds it and its class.

use std::{collections::BTreeMap, net::IpAddr};

use enforcer_ebpf::words::{
    self, ADDRESSES_MAX, Address, BUCKET, Holder, LEAF, V4_ROOT, V4_ROOT_WORDS, V6_ENTRY,
    V6_RANGES_MAX, header, v6_buckets,
};
use ipnet::IpNet;

use super::{
    LinkError, NodeView, Slotted,
    classes::{Classes, Identity, Source},
    qualified,
};
use crate::cluster::{Cluster, Pod};

/// Addresses as numbers, with their words. Ranges are by first address and end where the next
/// starts; hosts are single addresses and come before ranges.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    v4_ranges: Vec<(u128, Address)>,
    v6_ranges: Vec<(u128, Address)>,
    v4_hosts: BTreeMap<u32, Address>,
    v6_hosts: BTreeMap<u128, Address>,
}

impl Book {
    pub fn len(&self) -> usize {
        self.v4_ranges.len() + self.v6_ranges.len() + self.v4_hosts.len() + self.v6_hosts.len()
    }
}

/// Reads the inventory.
pub(crate) fn book(
    cluster: &Cluster,
    node: &NodeView,
    local: &[Slotted<'_>],
    classes: &mut Classes<'_>,
) -> Result<Book, LinkError> {
    let mut cidrs: Vec<IpNet> = node.pod_cidrs.clone();
    cidrs.extend(
        cluster
            .nodes
            .iter()
            .flat_map(|n| n.pod_cidrs.iter().copied()),
    );
    let mut book = Book {
        v4_ranges: ranges(classes, &cidrs, false)?,
        v6_ranges: ranges(classes, &cidrs, true)?,
        ..Book::default()
    };
    for &address in own_addresses(cluster, node).iter() {
        let class = classes.class(&Source {
            identity: None,
            address: Some(address),
        })?;
        book.insert(address, Address::new(Holder::Node, class));
    }
    let slots: BTreeMap<(&str, &str), u32> = local
        .iter()
        .map(|s| ((s.pod.namespace.as_str(), s.pod.name.as_str()), s.slot))
        .collect();
    let mut holders: BTreeMap<IpAddr, &Pod> = BTreeMap::new();
    // A pod on the host's network has the node's address, which says nothing about who speaks.
    for pod in cluster
        .pods
        .iter()
        .filter(|p| !p.finished && !p.template.host_network)
    {
        for &address in &pod.ips {
            if let Some(other) = holders.insert(address, pod) {
                return Err(LinkError::AddressTwice(
                    qualified(other),
                    qualified(pod),
                    address,
                ));
            }
            let identity = Some(Identity {
                trust_domain: cluster.mesh.trust_domain.clone(),
                namespace: pod.namespace.clone(),
                service_account: pod.template.service_account.clone(),
            });
            let class = classes.class(&Source {
                identity,
                address: Some(address),
            })?;
            let holder = match slots.get(&(pod.namespace.as_str(), pod.name.as_str())) {
                Some(&slot) => Holder::LocalPod(slot),
                None => Holder::RemotePod,
            };
            book.insert(address, Address::new(holder, class));
        }
    }
    LinkError::capacity(
        "source addresses",
        book.len(),
        ADDRESSES_MAX,
        "name fewer IP blocks, or split the cluster",
    )?;
    LinkError::capacity(
        "IPv6 ranges",
        book.v6_ranges.len(),
        V6_RANGES_MAX,
        "merge neighbouring IP blocks",
    )?;
    Ok(book)
}

fn own_addresses(cluster: &Cluster, node: &NodeView) -> Vec<IpAddr> {
    let mut own = node.addresses.clone();
    if let super::Local::Node(name) = &node.local {
        own.extend(
            cluster
                .nodes
                .iter()
                .filter(|n| n.name == *name)
                .flat_map(|n| &n.addresses),
        );
    }
    own
}

impl Book {
    fn insert(&mut self, address: IpAddr, word: Address) {
        match address {
            IpAddr::V4(a) => self.v4_hosts.insert(u32::from(a), word),
            IpAddr::V6(a) => self.v6_hosts.insert(u128::from(a), word),
        };
    }

    /// Appends the sections to the words and fills in the header.
    pub fn write(&self, words: &mut Vec<u32>) -> Result<(), LinkError> {
        self.write_v4(words)?;
        self.write_v6_hosts(words)?;
        let at = offset(words)?;
        for (start, address) in &self.v6_ranges {
            words.extend(parts(*start));
            words.push(address.0);
        }
        set(words, header::V6_RANGES, at);
        set(words, header::V6_RANGES_COUNT, count(self.v6_ranges.len()));
        Ok(())
    }

    fn write_v4(&self, words: &mut Vec<u32>) -> Result<(), LinkError> {
        let root = words.len();
        debug_assert_eq!(
            root, V4_ROOT as usize,
            "only the header stands before the root"
        );
        words.resize(
            root + V4_ROOT_WORDS as usize,
            Address::new(Holder::Outside, 0).0,
        );
        for (i, (start, address)) in self.v4_ranges.iter().enumerate() {
            let end = self.v4_ranges.get(i + 1).map_or(1 << 32, |(next, _)| *next) - 1;
            fill(words, root, (*start, end), *address)?;
        }
        for (host, address) in &self.v4_hosts {
            let host = u128::from(*host);
            fill(words, root, (host, host), *address)?;
        }
        Ok(())
    }

    /// Two-choice buckets: each host stands in one of two buckets; where both are full, one that
    /// stands there moves to its other bucket. Half-full buckets nearly always take everything; if
    /// not, they are doubled.
    fn write_v6_hosts(&self, words: &mut Vec<u32>) -> Result<(), LinkError> {
        if self.v6_hosts.is_empty() {
            return Ok(());
        }
        let mut bits = 0u32;
        while (BUCKET as usize) << bits < self.v6_hosts.len() * 2 {
            bits += 1;
        }
        let buckets = loop {
            if let Some(buckets) = self.place(bits) {
                break buckets;
            }
            bits += 1;
            LinkError::capacity(
                "doublings of the IPv6 hosts",
                bits as usize,
                24,
                "split the cluster",
            )?;
        };
        let at = offset(words)?;
        set(words, header::V6_HOSTS, at);
        set(words, header::V6_HOSTS_BITS, bits);
        for entry in buckets.into_iter().flatten() {
            match entry {
                Some((host, address)) => {
                    words.extend(parts(host));
                    words.push(address.0);
                }
                None => words.extend([0; V6_ENTRY as usize]),
            }
        }
        Ok(())
    }

    fn place(&self, bits: u32) -> Option<Vec<Bucket>> {
        let mut buckets: Vec<Bucket> = vec![[None; BUCKET as usize]; 1 << bits];
        for (&host, &address) in &self.v6_hosts {
            let mut homeless = (host, address);
            let mut round = 0usize;
            'placing: loop {
                let choices = v6_buckets(&parts(homeless.0), bits);
                for choice in choices {
                    let bucket = buckets.get_mut(choice as usize)?;
                    if let Some(free) = bucket.iter_mut().find(|e| e.is_none()) {
                        *free = Some(homeless);
                        break 'placing;
                    }
                }
                // Which entry moves must not depend on chance: the same input gives the same bytes.
                let bucket = buckets.get_mut(choices[round & 1] as usize)?;
                let victim = bucket.get_mut((round >> 1) % BUCKET as usize)?;
                homeless = victim.replace(homeless)?;
                round += 1;
                if round > 1_000 {
                    return None;
                }
            }
        }
        Some(buckets)
    }
}

type Bucket = [Option<(u128, Address)>; BUCKET as usize];

/// Cuts one family's address space at the ends of IP blocks and of the pods' ranges.
fn ranges(
    classes: &mut Classes<'_>,
    pod_cidrs: &[IpNet],
    v6: bool,
) -> Result<Vec<(u128, Address)>, LinkError> {
    let pieces = classes.blocks().pieces_of(v6).to_vec();
    let mut pods: Vec<(u128, u128)> = pod_cidrs
        .iter()
        .filter(|net| matches!(net, IpNet::V6(_)) == v6)
        .map(|net| (number(net.network()), number(net.broadcast())))
        .collect();
    pods.sort_unstable();
    let mut starts: Vec<u128> = pieces.iter().map(|p| p.start).collect();
    starts.extend(pods.iter().map(|(first, _)| *first));
    let last = if v6 { u128::MAX } else { u128::from(u32::MAX) };
    starts.extend(
        pods.iter()
            .filter(|(_, end)| *end < last)
            .map(|(_, end)| end + 1),
    );
    starts.sort_unstable();
    starts.dedup();
    let mut out = Vec::with_capacity(starts.len());
    let mut piece = pieces.iter().copied().peekable();
    let mut current = None;
    for start in starts {
        while let Some(next) = piece.next_if(|p| p.start <= start) {
            current = Some(next);
        }
        let Some(current) = current else { continue };
        // Nested ranges are few; the last one that starts before decides only if it reaches so far.
        let within = pods
            .iter()
            .take_while(|(first, _)| *first <= start)
            .any(|(_, end)| *end >= start);
        let holder = if within {
            Holder::Unknown
        } else {
            Holder::Outside
        };
        out.push((start, Address::new(holder, classes.anonymous(current)?)));
    }
    out.dedup_by(|next, before| next.1 == before.1);
    Ok(out)
}

/// Sets every address from `first` to `last` in the trie at `root`. Blocks are made where only a
/// part of what a word stands for is meant.
fn fill(
    words: &mut Vec<u32>,
    root: usize,
    (first, last): (u128, u128),
    address: Address,
) -> Result<(), LinkError> {
    level(words, root, (first, last), address, 16)
}

/// `shift`: bits of the address below the level's own; 16 at the root, 8, then 0.
fn level(
    words: &mut Vec<u32>,
    at: usize,
    (first, last): (u128, u128),
    address: Address,
    shift: u32,
) -> Result<(), LinkError> {
    let size = 1u128 << shift;
    for slot in (first >> shift)..=(last >> shift) {
        let begin = slot * size;
        let inside = (first.max(begin) - begin, last.min(begin + size - 1) - begin);
        let index = at + usize::try_from(slot).unwrap_or(usize::MAX);
        if inside == (0, size - 1) {
            replace(words, index, address.0);
            continue;
        }
        let word = words.get(index).copied().unwrap_or(0);
        let block = if word & LEAF == 0 {
            word as usize
        } else {
            let block = words.len();
            words.resize(block + 256, word);
            replace(words, index, count(block));
            block
        };
        LinkError::capacity("table words", words.len(), words::CAPACITY_MAX, FULL)?;
        level(words, block, inside, address, shift - 8)?;
    }
    Ok(())
}

pub(crate) const FULL: &str = "raise the table's capacity, or name fewer sources and ports";

fn replace(words: &mut [u32], index: usize, word: u32) {
    if let Some(slot) = words.get_mut(index) {
        *slot = word;
    }
}

/// Sets a word of the header.
pub(crate) fn set(words: &mut [u32], index: u32, word: u32) {
    replace(words, index as usize, word);
}

/// The offset at which the next section starts.
pub(crate) fn offset(words: &[u32]) -> Result<u32, LinkError> {
    LinkError::capacity("table words", words.len(), words::CAPACITY_MAX, FULL)?;
    Ok(count(words.len()))
}

/// A length that was checked against a limit far below 2^32.
pub(crate) fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// Four words, most significant first.
pub(crate) fn parts(address: u128) -> [u32; 4] {
    let bytes = address.to_be_bytes();
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = bytes
            .iter()
            .fold(0, |word, byte| word << 8 | u32::from(*byte));
    }
    words
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}
