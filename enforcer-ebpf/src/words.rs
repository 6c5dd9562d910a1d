//! The table's layout: one flat array of 32-bit words in host byte order.
//!
//! The table is the single value of a one-element array map, so the kernel reads it with plain
//! bounds-checked loads. Every offset below is an index into the words. Word 0 of memory that was
//! never written is 0, and 0 always means "nothing here, deny": an out-of-range or missing word can
//! only refuse.
//!
//! ```text
//! header   64 words, indices in [`header`]
//! address map (the identity map): source address -> Address word
//!   v4     65 536-word root at [`V4_ROOT`], then 256-word blocks: a 16-8-8 trie
//!   v6     hosts: two-choice buckets of four 5-word entries; ranges: sorted 5-word entries
//! scopes   4 words each, indices in [`scope`]
//! pods     16 words (one cache line) each, indices in [`pod`]
//! interfaces  buckets of four 2-word entries: host interface index -> offset of the local pod
//! indexes  (the port map and the class map of a scope) buckets of four words: u16 key << 16 | u16 value
//! cells    (the decision map) one word each: [`Cell`]
//! ```

/// Marks word 0 of a table: `PTBL` in ASCII.
pub const MAGIC: u32 = 0x5054_424c;
/// Version of everything in this module. A table of another version is never read.
pub const ABI: u32 = 1;

/// Largest number of words that one slot may hold: 64 MB.
pub const CAPACITY_MAX: u32 = 16 << 20;
/// Local pods on one node.
pub const LOCAL_PODS_MAX: u32 = 8_192;
/// Distinct scopes on one node.
pub const LOCAL_SCOPES_MAX: u32 = 4_096;
/// Source classes, class 0 ("nothing is known") included.
pub const CLASSES_MAX: u32 = 65_536;
/// Source addresses: pods, IP blocks and the pieces they cut each other into.
pub const ADDRESSES_MAX: u32 = 1_000_000;
/// Distinct IP blocks that policies may name.
pub const IP_BLOCKS_MAX: u32 = 4_096;
/// Attribution records of one node; also the size of one generation's hit counters.
pub const RECORDS_MAX: u32 = 65_536;
/// Table slots: two to swap between, one for a shadow generation.
pub const SLOTS: u32 = 3;

/// Read access to the words of one table. A missing word reads as 0.
pub trait Words {
    /// The word at `index`, or 0 outside the table.
    fn at(&self, index: u32) -> u32;

    /// Whether the table may have so many words from `index` on. Reads check each for itself; a reader
    /// whose checker remembers the answer spares it the rest.
    #[inline(always)]
    fn within(&self, _index: u32, _count: u32) -> bool {
        true
    }

    /// The same number. To be overridden only by a reader whose checker had better know nothing of it:
    /// what it cannot tell apart it need not walk twice.
    #[inline(always)]
    fn opaque(&self, number: u32) -> u32 {
        number
    }

    /// Four words from `index` on, as one read: all zero when one of them is outside the table.
    // VERIFIER: one comparison. Of four it would foresee the later ones, and keep apart for ever all
    // that led to them.
    #[inline(always)]
    fn four(&self, index: u32) -> [u32; 4] {
        [
            self.at(index),
            self.at(index.wrapping_add(1)),
            self.at(index.wrapping_add(2)),
            self.at(index.wrapping_add(3)),
        ]
    }

    /// Seconds since boot by the clock of whoever reads the table. Without a clock it is the end of
    /// time: whatever may end has ended.
    #[inline(always)]
    fn seconds(&self) -> u32 {
        u32::MAX
    }

    /// What the table knows about an IPv6 address, most significant word first. To be overridden
    /// only by a reader that must call [`crate::decide::address_v6`] in its own way.
    #[inline(always)]
    fn address_v6(&self, address: &[u32; 4]) -> Address {
        crate::decide::address_v6(self, address)
    }

    /// One step of the search among the IPv6 ranges; as above, of [`crate::decide::narrow_v6`].
    #[inline(always)]
    fn narrow_v6(&self, address: &[u32; 4], low: u32, step: u32) -> u32 {
        crate::decide::narrow_v6(self, address, low, step)
    }
}

impl Words for [u32] {
    fn at(&self, index: u32) -> u32 {
        self.get(index as usize).copied().unwrap_or(0)
    }
    fn four(&self, index: u32) -> [u32; 4] {
        self.get(index as usize..)
            .and_then(|words| words.first_chunk().copied())
            .unwrap_or([0; 4])
    }
}

/// Indices of the header's words.
pub mod header {
    pub const MAGIC: u32 = 0;
    pub const ABI: u32 = 1;
    /// Words in use, header included.
    pub const LENGTH: u32 = 2;
    /// Node-local number of this activation, carried by every event.
    pub const EPOCH: u32 = 3;
    /// Offset of the IPv6 host buckets, and log2 of their number.
    pub const V6_HOSTS: u32 = 5;
    pub const V6_HOSTS_BITS: u32 = 6;
    /// Offset of the IPv6 ranges, and their number.
    pub const V6_RANGES: u32 = 7;
    pub const V6_RANGES_COUNT: u32 = 8;
    /// Offset of the interface buckets, and log2 of their number.
    pub const INTERFACES: u32 = 9;
    pub const INTERFACES_BITS: u32 = 10;
    /// Offset of the pods, and their number.
    pub const PODS: u32 = 11;
    pub const PODS_COUNT: u32 = 12;
    /// Bits of [`super::options`].
    pub const OPTIONS: u32 = 13;
    /// Records that cells refer to; never more than [`super::RECORDS_MAX`].
    pub const RECORDS_COUNT: u32 = 14;
    /// Last second since boot in which [`super::options::PAUSED`] holds.
    pub const PAUSED_UNTIL: u32 = 15;
    /// First of [`super::UPLINKS_MAX`] words: indices of the interfaces whose packets may speak for
    /// pods of other nodes, where that is limited; 0 for none. Userspace stores them anew as devices
    /// come and go.
    pub const UPLINKS: u32 = 48;
    /// Words the header takes.
    pub const WORDS: u32 = 64;
}

/// Interfaces of `--trusted-uplink`.
pub const UPLINKS_MAX: u32 = 16;
const _: () = assert!(header::UPLINKS + UPLINKS_MAX <= header::WORDS);

/// Offset of the IPv4 root: where the header ends, so that finding it costs no read.
pub const V4_ROOT: u32 = header::WORDS;
/// Words of the IPv4 root: one for each upper half of an address.
pub const V4_ROOT_WORDS: u32 = 65_536;

/// Bits of the header's OPTIONS word: how a node enforces, swapped together with what it enforces.
pub mod options {
    /// `--refuse=drop`: refused packets vanish. Otherwise the kernel answers with a reset.
    pub const REFUSE_DROP: u32 = 1 << 0;
    /// `--mode=audit`: nothing is refused or steered, verdicts are only reported.
    pub const AUDIT_MODE: u32 = 1 << 1;
    /// Events for allowed opening packets, not only for refused and steered ones.
    pub const EVENTS_ALLOWED: u32 = 1 << 3;
    /// Break-glass for every pod, as [`super::pod_flags::PAUSED`] is for one.
    pub const PAUSED: u32 = 1 << 16;
}

/// Indices of one pod's words.
pub mod pod {
    /// Offset of the scope for IPv4 destinations, and for IPv6 ones. They differ only where a
    /// policy asks for `destination.ip`.
    pub const SCOPE_V4: u32 = 0;
    pub const SCOPE_V6: u32 = 1;
    /// Bits of [`super::pod_flags`].
    pub const FLAGS: u32 = 2;
    /// Index of the bridge that the pod's host interface is a port of, or 0.
    pub const BRIDGE: u32 = 3;
    /// Namespace id of the pod as the node sees it (RTM_GETNSID) plus one, or 0 when unknown.
    pub const NETNS_ID: u32 = 4;
    /// The value of [`NETNS_ID`] for a pod whose hook is in its own namespace: less one, and taken for
    /// signed, it is negative, by which the kernel means the namespace of the packet's device.
    pub const NETNS_OWN: u32 = u32::MAX;
    /// Offset of the scope asked first for packets that the node itself made, or 0.
    pub const HOST_SCOPE: u32 = 5;
    /// Index of the pod's host interface, or 0 when unknown.
    pub const INTERFACE: u32 = 6;
    /// Source class of the pod's IPv4 address, and of its IPv6 one: what a packet is judged by that
    /// came in through the pod's own interface but lost its source address to masquerading.
    pub const CLASS_V4: u32 = 7;
    pub const CLASS_V6: u32 = 8;
    /// Last second since boot in which [`super::pod_flags::SEEDING`] holds.
    pub const SEEDING_UNTIL: u32 = 14;
    /// Last second since boot in which [`super::pod_flags::PAUSED`] holds.
    pub const PAUSED_UNTIL: u32 = 15;
    /// Words a pod takes.
    pub const WORDS: u32 = 16;
}

/// Bits of a pod's FLAGS word.
pub mod pod_flags {
    /// Policies are enforced on the pod. Without it only its source addresses are guarded.
    pub const ENROLLED: u32 = 1 << 0;
    /// The pod forwards for others (annotation `enforcer/gateway`): packets to it may have other
    /// destinations than its own addresses, and packets from it other sources, but those of other
    /// local pods and of the node. Who sends through it is judged by address, not as the gateway.
    pub const GATEWAY: u32 = 1 << 1;
    /// The pod has, or may have, flows that began through the proxy. They stay there even when the
    /// table now allows them: the pod holds another connection on the same tuple.
    pub const PROXIED: u32 = 1 << 2;
    /// Same-bridge frames are switched past the host's connection tracking.
    pub const SWITCHED: u32 = 1 << 3;
    /// Break-glass: judged and reported, not refused. It ends by itself, whatever becomes of the
    /// agent: the time is in the pod's words.
    pub const PAUSED: u32 = 1 << 4;
    /// As [`PAUSED`], and not an operator's wish: the connections that the pod has open are being
    /// found.
    pub const SEEDING: u32 = 1 << 8;
}

/// Indices of one scope's words.
pub mod scope {
    /// Reference to the port map: destination port -> port class. See [`super::index_reference`].
    pub const PORTS: u32 = 0;
    /// Reference to the class map: source class -> row.
    pub const CLASSES: u32 = 1;
    /// Offset of the scope's first cell. Row 0 is the default row, port class 0 the default column.
    pub const CELLS: u32 = 2;
    /// Cells in a row: the number of port classes.
    pub const WIDTH: u32 = 3;
    /// Words a scope takes.
    pub const WORDS: u32 = 4;
}

/// Entries in a bucket, of every bucketed section.
pub const BUCKET: u32 = 4;
/// Most buckets of a u16 index: with the low 14 bits of the key, four keys share one bucket at most,
/// so an index that large never overflows.
pub const INDEX_BITS_MAX: u32 = 14;
/// Words of an IPv6 host or range entry: four of the address, most significant first, one [`Address`].
pub const V6_ENTRY: u32 = 5;
/// Words of an interface entry: interface index, offset of the pod.
pub const INTERFACE_ENTRY: u32 = 2;
/// Most IPv6 ranges: sixteen halvings find one.
pub const V6_RANGES_MAX: u32 = 65_535;

/// Steps of the search among the ranges.
pub const V6_RANGE_STEPS: u32 = 16;

/// One word that refers to a u16 index: log2 of the number of buckets above, the offset below.
/// The offset is never 0 for an index that exists; reference 0 is the empty index.
pub const fn index_reference(offset: u32, bits: u32) -> u32 {
    (bits << 27) | offset
}
/// The offset of an index reference.
pub const fn index_offset(reference: u32) -> u32 {
    reference & ((1 << 27) - 1)
}
/// log2 of the number of buckets of an index reference.
pub const fn index_bits(reference: u32) -> u32 {
    reference >> 27
}

/// What the table knows about an address. Bit 31 is always set in a leaf of the trie; bits 16 to 30
/// say who holds the address, bits 0 to 15 are its source class.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Address(pub u32);

/// Bit 31 of a trie word: the word is an [`Address`], not the offset of a block.
pub const LEAF: u32 = 1 << 31;

/// Who holds an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// Nobody that the inventory knows, and outside the pods' ranges: judged without identity.
    Outside,
    /// A pod of another node.
    RemotePod,
    /// This node itself.
    Node,
    /// An address within the pods' ranges that no pod is known to hold: never judged as `Outside`.
    Unknown,
    /// The pod of this node in that slot.
    LocalPod(u32),
}

const LOCAL_POD_BASE: u32 = 16;

impl Address {
    /// The word for an address held by `holder`, of source class `class`.
    pub const fn new(holder: Holder, class: u16) -> Self {
        let holder = match holder {
            Holder::Outside => 0,
            Holder::RemotePod => 1,
            Holder::Node => 2,
            Holder::Unknown => 3,
            Holder::LocalPod(slot) => LOCAL_POD_BASE + (slot & (LOCAL_PODS_MAX - 1)),
        };
        Self(LEAF | (holder << 16) | class as u32)
    }
    /// The source class, to be looked up in a scope's class map.
    #[inline(always)]
    pub const fn class(self) -> u32 {
        self.0 & 0xffff
    }
    /// Who holds the address. A number this version does not know reads as unknown.
    #[inline(always)]
    pub const fn holder(self) -> Holder {
        match (self.0 >> 16) & 0x7fff {
            0 => Holder::Outside,
            1 => Holder::RemotePod,
            2 => Holder::Node,
            n if n >= LOCAL_POD_BASE => Holder::LocalPod(n - LOCAL_POD_BASE),
            _ => Holder::Unknown,
        }
    }
}

/// What a cell tells the datapath to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Verdict {
    /// Refuse. Also what memory that was never written means.
    Deny = 0,
    /// Let through.
    Allow = 1,
    /// The verdict depends on what only userspace sees: steer to the proxy.
    Ask = 2,
}

/// One decision: bits 0 and 1 the verdict, bit 2 an AUDIT rule matched, bit 3 a dry-run rule
/// matched, bits 4 to 31 the index of the record that names the cause. Record 0 is "no record".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, PartialOrd, Ord, Hash)]
pub struct Cell(pub u32);

impl Cell {
    /// The cell of memory that was never written.
    pub const NOTHING: Self = Self(0);

    /// A cell; `record` must be below [`RECORDS_MAX`].
    pub const fn new(verdict: Verdict, audit: bool, dry_run: bool, record: u32) -> Self {
        Self(verdict as u32 | (audit as u32) << 2 | (dry_run as u32) << 3 | record << 4)
    }
    /// The verdict; the fourth, unused value denies.
    #[inline(always)]
    pub const fn verdict(self) -> Verdict {
        match self.0 & 3 {
            1 => Verdict::Allow,
            2 => Verdict::Ask,
            _ => Verdict::Deny,
        }
    }
    /// An AUDIT rule matched.
    #[inline(always)]
    pub const fn audit(self) -> bool {
        self.0 & 4 != 0
    }
    /// A dry-run rule matched.
    #[inline(always)]
    pub const fn dry_run(self) -> bool {
        self.0 & 8 != 0
    }
    /// Index of the record that names the cause.
    #[inline(always)]
    pub const fn record(self) -> u32 {
        self.0 >> 4
    }
}

/// The two bucket numbers of an IPv6 host among `1 << bits` buckets. `address` is most significant
/// word first. Two independent choices let the linker fill buckets without overflow.
#[inline(always)]
pub fn v6_buckets(address: &[u32; 4], bits: u32) -> [u32; 2] {
    let mut h = 0x9e37_79b9u32;
    let mut i = 0;
    while i < 4 {
        h = (h ^ address[i]).wrapping_mul(0x85eb_ca6b);
        h ^= h >> 15;
        i += 1;
    }
    let other = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    let mask = (1u32 << (bits & 31)) - 1;
    [h & mask, (other ^ (other >> 16)) & mask]
}

/// The bucket of a host interface index among `1 << bits` buckets.
#[inline(always)]
pub fn interface_bucket(ifindex: u32, bits: u32) -> u32 {
    let h = ifindex.wrapping_mul(0x9e37_79b1);
    (h ^ (h >> 15)) & ((1u32 << (bits & 31)) - 1)
}
