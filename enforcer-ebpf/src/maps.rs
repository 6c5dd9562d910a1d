//! The names and sizes by which userspace and the kernel programs find each other's maps and
//! globals. A pin path carries [`crate::words::ABI`], so that no layout meets another's pins.

use crate::words::{RECORDS_MAX, SLOTS};

/// Array of [`SLOTS`] tables, each an array map of one element whose value is the whole table:
/// CAPACITY words.
pub const TABLES: &str = "TABLES";
/// Array of [`ACTIVE_WORDS`] words, indices in [`active`]; may be mapped into memory.
pub const ACTIVE: &str = "ACTIVE";
/// Hash of `FlowKey` to `OutValue`: the connections that pods opened.
pub const OUT: &str = "OUT";
/// Array of `LOCAL_PODS_MAX` u64: how many entries of OUT a pod slot holds; may be mapped into
/// memory. The kernel adds, userspace subtracts what it deletes, both atomically.
pub const OUT_COUNT: &str = "OUT_COUNT";
/// Hash of `FlowKey` to `ProxyValue`: the flows that began through the proxy. Made by the proxy when
/// it accepts a connection.
pub const PROXY: &str = "PROXY";
/// Hash of `FlowKey` to `ProxyValue`: the proxy's own legs towards pods.
pub const UPSTREAM: &str = "UPSTREAM";
/// Hash of `FlowKey` to u32: steered clients whose frames are switched past the node's stack.
pub const SWITCHED: &str = "SWITCHED";
/// Hash of `FlowKey` to u32: who began a flow under an address that does not tell. A slot of a local
/// pod, [`crate::flow::MADE_BY_NODE`] or [`crate::flow::MADE_BY_NOBODY`].
pub const MASQUERADED: &str = "MASQUERADED";
/// Hash of `FragmentKey` to `FragmentValue`.
pub const FRAGMENTS: &str = "FRAGMENTS";
/// Hash of `DatagramKey` to `DatagramValue`: flows that pods began; used under `--non-tcp=enforce`.
pub const DATAGRAMS_OUT: &str = "DATAGRAMS_OUT";
/// As OUT_COUNT, of DATAGRAMS_OUT.
pub const DATAGRAMS_COUNT: &str = "DATAGRAMS_COUNT";
/// Hash of `DatagramKey` to `DatagramValue`: flows that others were allowed to begin.
pub const DATAGRAMS_IN: &str = "DATAGRAMS_IN";
/// Per-CPU array of one `EventBudget`: the resets that were sent.
pub const RESET_BUDGET: &str = "RESET_BUDGET";
/// Per-CPU array of u64 by the number of a `Reason`.
pub const REASONS: &str = "REASONS";
/// Per-CPU array of `Hits` by [`hits_index`]. Of a shadow table, `packets` are the opening segments
/// that it was asked about, and `opened` those of them on which it disagreed.
pub const HITS: &str = "HITS";
/// Ring buffer of `Event`.
pub const EVENTS: &str = "EVENTS";
/// Per-CPU array of one `EventBudget`.
pub const EVENT_BUDGET: &str = "EVENT_BUDGET";
/// Socket map: element 0 is the proxy's transparent listener.
pub const LISTENERS: &str = "LISTENERS";

/// Every map that must outlive the agent, in the order in which it is pinned.
pub const PINNED: [&str; 18] = [
    TABLES,
    ACTIVE,
    OUT,
    OUT_COUNT,
    PROXY,
    UPSTREAM,
    SWITCHED,
    MASQUERADED,
    FRAGMENTS,
    DATAGRAMS_OUT,
    DATAGRAMS_COUNT,
    DATAGRAMS_IN,
    REASONS,
    HITS,
    EVENTS,
    EVENT_BUDGET,
    RESET_BUDGET,
    LISTENERS,
];

/// Names of the programs.
pub mod program {
    /// Egress of a pod's host interface.
    pub const TO_POD: &str = "to_pod";
    /// Ingress of a pod's host interface.
    pub const FROM_POD: &str = "from_pod";
    /// Ingress of the node's ends of the proxy's interfaces.
    pub const FROM_L7: &str = "from_l7";
    /// Socket lookup in the proxy's network namespace.
    pub const PROXY_LOOKUP: &str = "proxy_lookup";
}

/// Names of the read-only globals that are set before loading. An interface index of 0 means that
/// there is no such interface.
pub mod global {
    /// u32: words in one table.
    pub const CAPACITY: &str = "CAPACITY";
    /// u32: node's end of the interface into the proxy's namespace, for what is to be judged.
    pub const L7_IFINDEX: &str = "L7_IFINDEX";
    /// u32: node's end of the interface into the proxy's namespace, for what is to be reset.
    pub const REJ_IFINDEX: &str = "REJ_IFINDEX";
    /// `[u8; 8]`: link address of the far end of the first; the last two bytes are 0.
    pub const L7_MAC: &str = "L7_MAC";
    /// `[u8; 8]`: link address of the far end of the second; the last two bytes are 0.
    pub const REJ_MAC: &str = "REJ_MAC";
    /// u32: index of the far end of the first, as the proxy's namespace numbers it.
    pub const L7_PEER_IFINDEX: &str = "L7_PEER_IFINDEX";
    /// u32: namespace id of the proxy as the node sees it (RTM_GETNSID) plus one, or 0.
    pub const L7_NETNS_ID: &str = "L7_NETNS_ID";
    /// u32: bits of [`crate::judge::features`].
    pub const FEATURES: &str = "FEATURES";
    /// u32: index by which the table knows the interface that the programs are attached to, where they
    /// are in a pod's namespace, whose own indices mean nothing elsewhere; 0: the interface's own.
    pub const INTERFACE: &str = "INTERFACE";
    /// u8: level of the debugging log, 0 for none. Must be set: without it everything is logged.
    pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
}

/// Indices of the words of [`ACTIVE`].
pub mod active {
    /// Slot of the table that judges, or `u32::MAX` while there is none.
    pub const TABLE: u32 = 0;
    /// Slot of the table that is only evaluated beside it. The active slot or none: there is no such
    /// table.
    pub const SHADOW: u32 = 1;
    /// Reserved for switches that must not wait for a swap; 0.
    pub const FLAGS: u32 = 2;
}

/// Words of [`ACTIVE`].
pub const ACTIVE_WORDS: u32 = 8;
/// Bytes of the ring buffer.
pub const EVENTS_BYTES: u32 = 1 << 20;
/// Most elements of [`HITS`], which is what the object is compiled with; the loader makes it as large
/// as the bundle needs: [`hits_entries`].
pub const HITS_MAX: u32 = hits_entries(RECORDS_MAX);
/// Words that the object is compiled with; the loader writes the node's own number over it.
pub const CAPACITY_COMPILED: u32 = crate::words::CAPACITY_MAX;

/// Elements of [`HITS`] for tables of that many records.
pub const fn hits_entries(records: u32) -> u32 {
    SLOTS * records
}

/// Where the hits of a record are counted while its table lies in `slot`: whatever the size of the
/// map, whose last elements belong to the highest records.
#[inline(always)]
pub const fn hits_index(slot: u32, record: u32) -> u32 {
    record.wrapping_mul(SLOTS).wrapping_add(slot)
}
