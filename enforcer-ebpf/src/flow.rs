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
    /// Seconds since boot, of the last packet; written at most once a second.
    pub seen_seconds: u32,
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

/// Identifies the fragments of one IPv4 datagram. The id is in host order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C)]
pub struct FragmentKey {
    pub source: [u32; 4],
    pub destination: [u32; 4],
    pub id: u32,
    pub protocol: u32,
}

/// Connections that one pod may hold open towards others.
pub const OUT_PER_POD_MAX: u32 = 16_384;
/// Connections that the pods of a node may hold open towards others.
pub const OUT_MAX: u32 = 262_144;
/// Connections that the proxy may hold.
pub const PROXY_MAX: u32 = 65_536;
