//! The kernel contract's types as aya wants them: plain bytes.

use aya::Pod;
use enforcer_ebpf::flow::{DatagramKey, DatagramValue, FlowKey, Hits, OutValue, ProxyValue};

/// A type of the kernel contract, in a map.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Plain<T>(pub T);

macro_rules! plain {
    ($($name:ty),+) => { $(
        // SAFETY: repr(C) without padding (the sizes are checked below), and any bits are a value.
        #[expect(unsafe_code, reason = "aya takes a type's word for it")]
        unsafe impl Pod for Plain<$name> {}
    )+ };
}

plain!(
    FlowKey,
    OutValue,
    ProxyValue,
    Hits,
    DatagramKey,
    DatagramValue
);

const _: () = assert!(size_of::<FlowKey>() == 36);
const _: () = assert!(size_of::<OutValue>() == 8);
const _: () = assert!(size_of::<ProxyValue>() == 8);
const _: () = assert!(size_of::<Hits>() == 16);
const _: () = assert!(size_of::<DatagramKey>() == 40);
const _: () = assert!(size_of::<DatagramValue>() == 8);
