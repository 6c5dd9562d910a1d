//! A table written down directly, without policies: the plainest possible linker, for tests of what
//! reads tables. It shares the layout's constants with the real one, and nothing else.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use enforcer_ebpf::words::{
    ABI, Address, BUCKET, Cell, Holder, INDEX_BITS_MAX, INTERFACE_ENTRY, LEAF, MAGIC, V4_ROOT,
    V6_ENTRY, header, index_reference, interface_bucket, pod, pod_flags, scope, v6_buckets,
};

/// The contents of a table.
#[derive(Clone, Debug, Default)]
pub struct TableBuilder {
    pub epoch: u32,
    /// Bits of `words::options`.
    pub options: u32,
    /// Prefixes in the order in which they are laid over each other.
    pub v4: Vec<(Ipv4Addr, u8, Address)>,
    pub v6_hosts: Vec<(Ipv6Addr, Address)>,
    /// Starts of ranges. `::` is added as outside where it is absent.
    pub v6_ranges: BTreeMap<Ipv6Addr, Address>,
    pub pods: Vec<Pod>,
    /// Indices of interfaces.
    pub uplinks: Vec<u32>,
    pub scopes: Vec<Scope>,
}

/// A local pod; its slot is its place in [`TableBuilder::pods`]. Scopes are places in
/// [`TableBuilder::scopes`].
#[derive(Clone, Debug, Default)]
pub struct Pod {
    pub interface: u32,
    pub flags: u32,
    pub bridge: u32,
    pub netns_id: u32,
    pub scope_v4: Option<usize>,
    pub scope_v6: Option<usize>,
    pub host_scope: Option<usize>,
    pub class_v4: u16,
    pub class_v6: u16,
}

/// Cells of a scope, row by row; row 0 and column 0 are the defaults.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Port to column.
    pub ports: BTreeMap<u16, u16>,
    /// Source class to row.
    pub classes: BTreeMap<u16, u16>,
    pub width: usize,
    pub cells: Vec<Cell>,
}

impl TableBuilder {
    /// The table's words.
    ///
    /// # Panics
    /// When it names a scope that is not there, or does not fit the layout.
    #[must_use]
    pub fn build(&self) -> Vec<u32> {
        let mut words = vec![0; header::WORDS as usize];
        set(&mut words, header::MAGIC, MAGIC);
        set(&mut words, header::ABI, ABI);
        set(&mut words, header::EPOCH, self.epoch);
        set(&mut words, header::OPTIONS, self.options);
        for (at, index) in (header::UPLINKS..).zip(&self.uplinks) {
            set(&mut words, at, *index);
        }
        self.lay_v4(&mut words);
        self.lay_v6_hosts(&mut words);
        self.lay_v6_ranges(&mut words);
        let scopes: Vec<u32> = self
            .scopes
            .iter()
            .map(|scope| lay_scope(&mut words, scope))
            .collect();
        let pods = self.lay_pods(&mut words, &scopes);
        self.lay_interfaces(&mut words, pods);
        let records = self
            .scopes
            .iter()
            .flat_map(|scope| &scope.cells)
            .map(|cell| cell.record() + 1)
            .max();
        set(&mut words, header::RECORDS_COUNT, records.unwrap_or(0));
        let length = end(&words);
        set(&mut words, header::LENGTH, length);
        words
    }

    fn lay_v4(&self, words: &mut Vec<u32>) {
        let root = end(words);
        assert_eq!(root, V4_ROOT, "nothing stands between header and root");
        words.resize(words.len() + 65_536, Address::new(Holder::Outside, 0).0);
        for (base, length, address) in &self.v4 {
            let base = u32::from(*base);
            match length {
                0..=16 => {
                    for i in 0..1u32 << (16 - length) {
                        set(words, root + (base >> 16) + i, address.0);
                    }
                }
                17..=24 => {
                    let block = block(words, root + (base >> 16));
                    for i in 0..1u32 << (24 - length) {
                        set(words, block + ((base >> 8) & 0xff) + i, address.0);
                    }
                }
                _ => {
                    let first = block(words, root + (base >> 16));
                    let second = block(words, first + ((base >> 8) & 0xff));
                    for i in 0..1u32 << (32 - length) {
                        set(words, second + (base & 0xff) + i, address.0);
                    }
                }
            }
        }
    }

    fn lay_v6_hosts(&self, words: &mut Vec<u32>) {
        if self.v6_hosts.is_empty() {
            return;
        }
        let at = end(words);
        for bits in 0..24 {
            if let Some(section) = v6_section(&self.v6_hosts, bits) {
                set(words, header::V6_HOSTS, at);
                set(words, header::V6_HOSTS_BITS, bits);
                words.extend(section);
                return;
            }
        }
        panic!("no number of buckets holds the IPv6 hosts");
    }

    fn lay_v6_ranges(&self, words: &mut Vec<u32>) {
        let mut ranges = self.v6_ranges.clone();
        ranges
            .entry(Ipv6Addr::UNSPECIFIED)
            .or_insert(Address::new(Holder::Outside, 0));
        let (at, count) = (end(words), u32::try_from(ranges.len()));
        set(words, header::V6_RANGES, at);
        set(words, header::V6_RANGES_COUNT, count.expect("few ranges"));
        for (start, address) in ranges {
            words.extend(v6_words(start));
            words.push(address.0);
        }
    }

    fn lay_interfaces(&self, words: &mut Vec<u32>, pods: u32) {
        let at = end(words);
        for bits in 0..20 {
            let mut section = vec![0; ((BUCKET * INTERFACE_ENTRY) as usize) << bits];
            let fits = self.pods.iter().zip(0u32..).all(|(spec, slot)| {
                let bucket = interface_bucket(spec.interface, bits) * BUCKET;
                let free = (bucket..bucket + BUCKET)
                    .map(|entry| (entry * INTERFACE_ENTRY) as usize)
                    .find(|entry| section[*entry] == 0);
                if let Some(entry) = free {
                    section[entry] = spec.interface;
                    section[entry + 1] = pods + slot * pod::WORDS;
                }
                free.is_some()
            });
            if fits {
                set(words, header::INTERFACES, at);
                set(words, header::INTERFACES_BITS, bits);
                words.extend(section);
                return;
            }
        }
        panic!("no number of buckets holds the interfaces");
    }

    fn lay_pods(&self, words: &mut Vec<u32>, scopes: &[u32]) -> u32 {
        let pods = end(words);
        set(words, header::PODS, pods);
        let count = u32::try_from(self.pods.len()).expect("few pods");
        set(words, header::PODS_COUNT, count);
        for spec in &self.pods {
            let at = end(words);
            let scope = |place: Option<usize>| place.map_or(0, |place| scopes[place]);
            words.resize(words.len() + pod::WORDS as usize, 0);
            set(words, at + pod::SCOPE_V4, scope(spec.scope_v4));
            set(words, at + pod::SCOPE_V6, scope(spec.scope_v6));
            set(words, at + pod::FLAGS, spec.flags);
            set(words, at + pod::BRIDGE, spec.bridge);
            set(words, at + pod::NETNS_ID, spec.netns_id);
            set(words, at + pod::HOST_SCOPE, scope(spec.host_scope));
            if spec.flags & pod_flags::PAUSED != 0 {
                // Until the end of time.
                set(words, at + pod::PAUSED_UNTIL, u32::MAX);
            }
            if spec.flags & pod_flags::SEEDING != 0 {
                set(words, at + pod::SEEDING_UNTIL, u32::MAX);
            }
            set(words, at + pod::INTERFACE, spec.interface);
            set(words, at + pod::CLASS_V4, spec.class_v4.into());
            set(words, at + pod::CLASS_V6, spec.class_v6.into());
        }
        pods
    }
}

/// The four words of an IPv6 address, most significant first.
#[must_use]
pub fn v6_words(address: Ipv6Addr) -> [u32; 4] {
    let bits = address.to_bits();
    [96, 64, 32, 0].map(|shift| u32::try_from(bits >> shift & 0xffff_ffff).expect("masked"))
}

fn lay_scope(words: &mut Vec<u32>, spec: &Scope) -> u32 {
    let ports = lay_index(words, &spec.ports);
    let classes = lay_index(words, &spec.classes);
    let cells = end(words);
    words.extend(spec.cells.iter().map(|cell| cell.0));
    let at = end(words);
    words.resize(words.len() + scope::WORDS as usize, 0);
    set(words, at + scope::PORTS, ports);
    set(words, at + scope::CLASSES, classes);
    set(words, at + scope::CELLS, cells);
    let width = u32::try_from(spec.width).expect("few columns");
    set(words, at + scope::WIDTH, width);
    at
}

fn lay_index(words: &mut Vec<u32>, entries: &BTreeMap<u16, u16>) -> u32 {
    if entries.is_empty() {
        return 0;
    }
    let at = end(words);
    for bits in 0..=INDEX_BITS_MAX {
        let mut section = vec![0; (BUCKET as usize) << bits];
        let fits = entries.iter().all(|(key, value)| {
            let bucket = (usize::from(*key) & ((1 << bits) - 1)) * BUCKET as usize;
            let free = (bucket..bucket + BUCKET as usize).find(|entry| section[*entry] == 0);
            if let Some(entry) = free {
                section[entry] = u32::from(*key) << 16 | u32::from(*value);
            }
            free.is_some()
        });
        if fits {
            words.extend(section);
            return index_reference(at, bits);
        }
    }
    panic!("four keys share a bucket at most when there are 2^{INDEX_BITS_MAX}");
}

fn v6_section(hosts: &[(Ipv6Addr, Address)], bits: u32) -> Option<Vec<u32>> {
    let mut section = vec![0; ((BUCKET * V6_ENTRY) as usize) << bits];
    for (host, address) in hosts {
        let host = v6_words(*host);
        let free = v6_buckets(&host, bits)
            .into_iter()
            .flat_map(|bucket| bucket * BUCKET..(bucket + 1) * BUCKET)
            .map(|entry| (entry * V6_ENTRY) as usize)
            .find(|entry| section[entry + 4] == 0)?;
        section[free..free + 4].copy_from_slice(&host);
        section[free + 4] = address.0;
    }
    Some(section)
}

/// The block that a trie word refers to; made of copies of the leaf where there is none.
fn block(words: &mut Vec<u32>, at: u32) -> u32 {
    let word = words[at as usize];
    if word & LEAF == 0 {
        return word;
    }
    let block = end(words);
    words.resize(words.len() + 256, word);
    set(words, at, block);
    block
}

fn end(words: &[u32]) -> u32 {
    u32::try_from(words.len()).expect("a table is smaller than 2^32 words")
}

fn set(words: &mut [u32], at: u32, word: u32) {
    words[at as usize] = word;
}
