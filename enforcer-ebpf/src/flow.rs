//! Keys and values of the maps that remember what the table cannot know.
//!
//! Addresses are four words, most significant first, each in host order; IPv4 is `::ffff:a.b.c.d`.
//! Ports are in host order. No type has padding: the kernel compares keys as bytes.

/// A TCP connection as the pod sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct FlowKey {
    pub pod: [u32; 4],
    pub remote: [u32; 4],
    pub pod_port: u16,
    pub remote_port: u16,
}

/// A connection that the pod opened: made by its own SYN only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct OutValue {
    /// Slot of the pod, whose quota the entry counts against.
    pub slot: u32,
    /// Seconds since boot, of the opening segment that made the entry. Whether the connection still
    /// lives is asked of the pod's sockets; this only spares entries too young to have one.
    pub made_seconds: u32,
}

/// A flow that began through the proxy, or the proxy's own leg to a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct ProxyValue {
    /// Slot of the pod.
    pub slot: u32,
    /// Seconds since boot, of the entry's making.
    pub made_seconds: u32,
}

/// Hits of one record: opening segments, and packets. Per CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Hits {
    pub opened: u64,
    pub packets: u64,
}

/// Identifies the fragments of one datagram at one hook.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct FragmentKey {
    pub source: [u32; 4],
    pub destination: [u32; 4],
    /// In host order; 16 bits of it in IPv4.
    pub id: u32,
    /// Host interface of the pod in bits 0 to 23, number of the [`crate::event::Hook`] above: what
    /// one hook said about a datagram means nothing at another.
    pub place: u32,
}

/// What the first fragment of a datagram met; the later ones meet the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct FragmentValue {
    /// Number of a [`crate::judge::Action`] in bits 0 to 7, of a [`crate::reason::Reason`] in bits 8
    /// to 15.
    pub verdict: u32,
    /// The cell, or 0.
    pub cell: u32,
}

/// A flow of datagrams as a pod sees it. Of an echo both ports are its identifier; protocols without
/// ports have 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct DatagramKey {
    pub flow: FlowKey,
    /// IP protocol.
    pub protocol: u32,
}

/// A flow of datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct DatagramValue {
    /// Of one that a pod began: its slot, whose quota the entry counts against. Of one that another
    /// began: who, as in MASQUERADED.
    pub maker: u32,
    /// Seconds since boot, of its last datagram.
    pub seen_seconds: u32,
}

/// Value of MASQUERADED for a flow that the node itself began; any other is the slot of a local pod.
pub const MADE_BY_NODE: u32 = u32::MAX;
/// Value of MASQUERADED for a flow that neither a local pod nor the node is known to have begun.
pub const MADE_BY_NOBODY: u32 = u32::MAX - 1;

/// Connections that one pod may hold open towards others.
pub const OUT_PER_POD_MAX: u32 = 16_384;
/// Connections that the pods of a node may hold open towards others.
pub const OUT_MAX: u32 = 262_144;
/// Flows of datagrams that one pod may have begun.
pub const DATAGRAMS_PER_POD_MAX: u32 = 32_768;
/// Flows of datagrams that the pods of a node may have begun.
pub const DATAGRAMS_OUT_MAX: u32 = 262_144;
/// Flows of datagrams remembered that others began; the least recently used one is forgotten first.
pub const DATAGRAMS_IN_MAX: u32 = 16_384;
/// A flow of datagrams without a datagram for so long is over.
pub const DATAGRAM_IDLE_SECONDS: u32 = 60;
/// Connections that the proxy may hold.
pub const PROXY_MAX: u32 = 65_536;
/// Switched connections remembered; the least recently used one is forgotten first.
pub const SWITCHED_MAX: u32 = 16_384;
/// Fragmented datagrams remembered; the least recently used one is forgotten first.
pub const FRAGMENTS_MAX: u32 = 8_192;
