//! The identity map: every address of the inventory, and every range that policies or the pods'
//! ranges cut out, with who holds it and its class.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use enforcer_ebpf::words::{
    self, ADDRESSES_MAX, Address, BUCKET, Holder, LEAF, V4_ROOT, V4_ROOT_WORDS, V6_ENTRY,
    V6_RANGES_MAX, header, v6_buckets,
};
use ipnet::IpNet;

use super::{
    Disputes, LinkError, NodeView, Slotted,
    classes::{Classes, Identity, NOBODY},
    qualified,
};
use crate::cluster::{Cluster, Pod};

/// Addresses as numbers, with their words. Ranges are by first address and end where the next
/// starts; hosts are single addresses and come before ranges.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    pub(super) v4_ranges: Vec<(u128, Address)>,
    pub(super) v6_ranges: Vec<(u128, Address)>,
    /// Sorted, as are those of IPv6.
    v4_hosts: Vec<(u128, Address)>,
    v6_hosts: Vec<(u128, Address)>,
    /// The node's own addresses, whoever else claims them.
    pub(super) own: BTreeMap<IpAddr, Address>,
    /// Addresses that several pods claim.
    pub(super) disputed: BTreeSet<IpAddr>,
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
    let cidrs = pod_cidrs(cluster, node);
    let mut book = Book {
        v4_ranges: ranges(classes, &cidrs, false)?,
        v6_ranges: ranges(classes, &cidrs, true)?,
        ..Book::default()
    };
    let mut hosts = [Vec::new(), Vec::new()];
    for &address in own_addresses(cluster, node).iter() {
        let class = classes.at(NOBODY, Some(address))?;
        let word = Address::new(Holder::Node, class);
        book.own.insert(address, word);
        hosts[usize::from(address.is_ipv6())].push((number(address), None, word));
    }
    let mut local = local.iter().peekable();
    // Pods of a namespace stand together.
    let mut namespace = "";
    let mut identities: HashMap<&str, u32> = HashMap::new();
    for (order, pod) in cluster.pods.iter().enumerate() {
        let slot = local
            .next_if(|slotted| std::ptr::eq(slotted.pod, &raw const **pod))
            .map(|slotted| slotted.slot);
        if !is_source(pod) {
            continue;
        }
        if pod.namespace != namespace {
            namespace = &pod.namespace;
            identities.clear();
        }
        let account = pod.template.service_account.as_str();
        let identity = *identities
            .entry(account)
            .or_insert_with(|| classes.identity(&identity(cluster, pod)));
        let holder = slot.map_or(Holder::RemotePod, Holder::LocalPod);
        for &address in &pod.ips {
            let class = classes.at(identity, Some(address))?;
            let word = Address::new(holder, class);
            hosts[usize::from(address.is_ipv6())].push((number(address), Some(order), word));
        }
    }
    let [v4, v6] = hosts;
    book.v4_hosts = settle(v4, cluster, node, classes, &mut book.disputed)?;
    book.v6_hosts = settle(v6, cluster, node, classes, &mut book.disputed)?;
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

/// Ranges from which pods have their addresses.
pub(super) fn pod_cidrs(cluster: &Cluster, node: &NodeView) -> Vec<IpNet> {
    let nodes = cluster.nodes.iter();
    let of_nodes = nodes.flat_map(|node| node.pod_cidrs.iter());
    node.pod_cidrs.iter().chain(of_nodes).copied().collect()
}

pub(super) fn own_addresses(cluster: &Cluster, node: &NodeView) -> Vec<IpAddr> {
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

/// Whether packets may come from a pod's addresses that are its own. A pod on the host's network has
/// the node's address, which says nothing about who speaks, and those of a finished pod may be
/// another's by now.
pub(super) fn is_source(pod: &Pod) -> bool {
    !pod.finished && !pod.template.host_network
}

/// Who a pod is.
pub(super) fn identity(cluster: &Cluster, pod: &Pod) -> Identity {
    Identity {
        trust_domain: cluster.mesh.trust_domain.clone(),
        namespace: pod.namespace.clone(),
        service_account: pod.template.service_account.clone(),
    }
}

/// One family's addresses in order, each once. What is claimed has, after its number, the place of
/// the pod in the cluster; the node's own addresses have none, and yield to pods.
fn settle(
    mut claimed: Vec<(u128, Option<usize>, Address)>,
    cluster: &Cluster,
    node: &NodeView,
    classes: &mut Classes<'_>,
    disputed: &mut BTreeSet<IpAddr>,
) -> Result<Vec<(u128, Address)>, LinkError> {
    claimed.sort_unstable_by_key(|(address, order, _)| (*address, *order));
    let mut settled: Vec<(u128, Address)> = Vec::with_capacity(claimed.len());
    let mut before: Option<(u128, Option<usize>)> = None;
    for (number, order, mut word) in claimed {
        if let Some((_, first)) = before.filter(|(address, _)| *address == number) {
            settled.pop();
            let pods = [first, order].map(|order| cluster.pods.get(order?));
            if let [Some(one), Some(other)] = pods {
                let held = |address: &&IpAddr| self::number(**address) == number;
                let address = other.ips.iter().find(held).copied();
                let unknown = match (node.disputes, address) {
                    (Disputes::Unknown, Some(address)) => address,
                    (_, address) => {
                        return Err(LinkError::AddressTwice(
                            qualified(one),
                            qualified(other),
                            address.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
                        ));
                    }
                };
                word = Address::new(Holder::Unknown, classes.at(NOBODY, Some(unknown))?);
                disputed.insert(unknown);
            }
        }
        before = Some((number, order));
        settled.push((number, word));
    }
    Ok(settled)
}

impl Book {
    /// The sections, behind a header that names them.
    pub fn write(&self) -> Result<Vec<u32>, LinkError> {
        let mut words = vec![0; header::WORDS as usize];
        self.write_v4(&mut words)?;
        self.write_v6_hosts(&mut words)?;
        let at = offset(&words)?;
        for (start, address) in &self.v6_ranges {
            words.extend(parts(*start));
            words.push(address.0);
        }
        set(&mut words, header::V6_RANGES, at);
        set(
            &mut words,
            header::V6_RANGES_COUNT,
            count(self.v6_ranges.len()),
        );
        Ok(words)
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
        for &(host, address) in &self.v4_hosts {
            fill(words, root, (host, host), address)?;
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
        for &(host, address) in &self.v6_hosts {
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

pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}
