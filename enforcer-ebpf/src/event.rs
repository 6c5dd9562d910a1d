//! What the kernel reports: one fixed record, in host byte order.

/// A verdict, as it leaves the kernel through the ring buffer. 72 bytes, no padding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Event {
    /// Activation of the table that judged, from its header.
    pub epoch: u32,
    /// The cell, or 0 when the table was not asked. See [`crate::words::Cell`].
    pub cell: u32,
    /// Host interface of the pod.
    pub ifindex: u32,
    /// Number of a [`crate::reason::Reason`].
    pub reason: u8,
    /// Number of a [`Hook`].
    pub hook: u8,
    /// IP protocol.
    pub protocol: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// Most significant word first, each in host order; IPv4 is `::ffff:a.b.c.d`.
    pub source: [u32; 4],
    pub destination: [u32; 4],
    /// In host order.
    pub source_port: u16,
    pub destination_port: u16,
    /// Nanoseconds since boot, low and high word.
    pub time_low: u32,
    pub time_high: u32,
    /// Slot of the pod.
    pub slot: u32,
    /// Where the shadow table disagrees: its activation and its cell. Otherwise 0 and 0.
    pub shadow_epoch: u32,
    pub shadow_cell: u32,
}

const _: () = assert!(size_of::<Event>() == 72);

/// Events or resets that a CPU has sent within one window of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct EventBudget {
    /// Number of the window: nanoseconds since boot, shifted right by [`WINDOW_BITS`].
    pub window: u64,
    pub sent: u64,
}

/// A window is 2^30 nanoseconds: a little more than a second.
pub const WINDOW_BITS: u32 = 30;
/// Events that one CPU sends in a window. What comes after is counted, not sent.
pub const EVENTS_PER_WINDOW: u64 = 1_024;

/// Resets that one CPU sends in a window under `--refuse=reset`. What is to be refused beyond that is
/// dropped: a flood of refused packets must not become a flood of answers.
pub const RESETS_PER_WINDOW: u64 = 1_024;

/// Where a packet was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Hook {
    /// Towards the pod.
    ToPod = 0,
    /// Away from the pod.
    FromPod = 1,
    /// From the proxy.
    FromL7 = 2,
    /// A request judged in userspace: the event was made by the proxy.
    Proxy = 3,
}
