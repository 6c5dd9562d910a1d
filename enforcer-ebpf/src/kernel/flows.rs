//! The flow maps and the kernel's socket tables as [`Flows`].
#![expect(unsafe_code, reason = "map values and sockets are raw pointers")]

use core::{arch::asm, mem::zeroed, ptr::read_volatile};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST, bpf_sock_tuple},
    helpers::{bpf_ktime_get_boot_ns, bpf_sk_release, bpf_skc_lookup_tcp},
};
use enforcer_ebpf::{
    flow::{FlowKey, FragmentKey, FragmentValue, OUT_PER_POD_MAX, OutValue},
    judge::{Flows, Namespace, Socket},
    packet::{Packet, WireTuple},
};

use super::{
    globals::L7_NETNS_ID,
    maps::{FRAGMENTS, MASQUERADED, OUT, OUT_COUNT, PROXY, SWITCHED, UPSTREAM},
};

const EEXIST: i32 = -17;
const NANOSECONDS: u64 = 1_000_000_000;

/// The maps, on behalf of one packet.
pub struct KernelFlows {
    /// The context, for who asks the sockets.
    skb: *mut __sk_buff,
}

impl KernelFlows {
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }
}

impl Flows for KernelFlows {
    #[inline(always)]
    fn is_out(&self, key: &FlowKey) -> bool {
        OUT.get_ptr(key).is_some()
    }
    #[inline(always)]
    fn is_proxied(&self, key: &FlowKey) -> bool {
        PROXY.get_ptr(key).is_some()
    }
    #[inline(always)]
    fn is_upstream(&self, key: &FlowKey) -> bool {
        UPSTREAM.get_ptr(key).is_some()
    }
    #[inline(always)]
    fn is_switched(&self, key: &FlowKey) -> bool {
        SWITCHED.get_ptr(key).is_some()
    }
    #[inline(always)]
    fn masqueraded_by(&self, key: &FlowKey) -> Option<u32> {
        // SAFETY: the value is copied at once; a concurrent store is of one whole word.
        MASQUERADED.get_ptr(key).map(|slot| unsafe { slot.read() })
    }
    #[inline(always)]
    fn open_out(&self, key: &FlowKey, slot: u32) -> bool {
        if OUT.get_ptr(key).is_some() {
            return true;
        }
        let Some(count) = counter(slot) else {
            return false;
        };
        // SAFETY: an array map value; others change it, hence volatile.
        if unsafe { read_volatile(count) } >= u64::from(OUT_PER_POD_MAX) {
            return false;
        }
        let value = OutValue {
            slot,
            made_seconds: now_seconds(),
        };
        match OUT.insert(key, value, u64::from(BPF_NOEXIST)) {
            Ok(()) => {
                add(count, 1);
                true
            }
            Err(error) => error == EEXIST,
        }
    }
    #[inline(always)]
    fn note_switched(&self, key: &FlowKey) {
        // A lost entry costs a connection, never a verdict; so does one that could not be made.
        let _ = SWITCHED.insert(key, 1u32, 0);
    }
    #[inline(always)]
    fn note_masqueraded(&self, key: &FlowKey, slot: u32) {
        // As above: the answers are then judged by the node's address.
        let _ = MASQUERADED.insert(key, slot, 0);
    }
    #[inline(always)]
    fn forget_out(&self, key: &FlowKey) {
        let Some(value) = OUT.get_ptr(key) else {
            return;
        };
        // SAFETY: the slot of an entry never changes.
        let slot = unsafe { (*value).slot };
        // Only who removes the entry gives its place back.
        if OUT.remove(key).is_ok()
            && let Some(count) = counter(slot)
        {
            add(count, -1);
        }
    }
    #[inline(always)]
    fn forget_proxied(&self, key: &FlowKey) {
        // Either may be absent already.
        let _ = PROXY.remove(key);
        let _ = UPSTREAM.remove(key);
    }
    #[inline(always)]
    fn socket(&self, namespace: Namespace, packet: &Packet) -> Socket {
        let id = match namespace {
            Namespace::Proxy => L7_NETNS_ID.load(),
            Namespace::Pod(id) => id,
        };
        if id == 0 {
            return Socket::Live;
        }
        let tuple = packet.wire_tuple();
        match socket_state(self.skb, &tuple, packet.v6, id.wrapping_sub(1)) {
            state::NONE | state::TIME_WAIT | state::CLOSE | state::LISTEN => Socket::Dead,
            state::SYN_SENT => Socket::Opening,
            _ => Socket::Live,
        }
    }
    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        // SAFETY: the value is copied at once. Torn, it is another fragment's: the key names them.
        FRAGMENTS.get_ptr(key).map(|value| unsafe { value.read() })
    }
    #[inline(always)]
    fn note_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        // Later fragments of a datagram that is not remembered are dropped.
        let _ = FRAGMENTS.insert(key, value, 0);
    }
}

/// States of a TCP socket as the kernel numbers them; 0 stands for no socket.
mod state {
    pub const NONE: u32 = 0;
    pub const SYN_SENT: u32 = 2;
    pub const TIME_WAIT: u32 = 6;
    pub const CLOSE: u32 = 7;
    pub const LISTEN: u32 = 10;
}

/// State of the socket that a packet with this tuple would meet in a namespace.
// VERIFIER: one body for all callers, so that the helper and the release of what it returns are
// walked once.
#[inline(never)]
fn socket_state(skb: *mut __sk_buff, wire: &WireTuple, v6: bool, namespace: u32) -> u32 {
    // SAFETY: all-zero is a valid tuple.
    let mut tuple: bpf_sock_tuple = unsafe { zeroed() };
    let length = if v6 {
        tuple.__bindgen_anon_1.ipv6.saddr = wire.source;
        tuple.__bindgen_anon_1.ipv6.daddr = wire.destination;
        tuple.__bindgen_anon_1.ipv6.sport = wire.source_port;
        tuple.__bindgen_anon_1.ipv6.dport = wire.destination_port;
        36
    } else {
        tuple.__bindgen_anon_1.ipv4.saddr = wire.source[3];
        tuple.__bindgen_anon_1.ipv4.daddr = wire.destination[3];
        tuple.__bindgen_anon_1.ipv4.sport = wire.source_port;
        tuple.__bindgen_anon_1.ipv4.dport = wire.destination_port;
        12
    };
    // SAFETY: the context and the tuple live through the call.
    let socket =
        unsafe { bpf_skc_lookup_tcp(skb.cast(), &mut tuple, length, u64::from(namespace), 0) };
    if socket.is_null() {
        return state::NONE;
    }
    // SAFETY: a socket that the helper returned, released below on the only path.
    let state = unsafe { (*socket).state };
    // SAFETY: as above.
    unsafe { bpf_sk_release(socket.cast()) };
    state
}

#[inline(always)]
fn counter(slot: u32) -> Option<*mut u64> {
    OUT_COUNT.get_ptr_mut(slot)
}

/// Adds to a counter that other CPUs and userspace change too.
// The target has no read-modify-write atomics in `core`, but the kernel has the instruction.
#[inline(always)]
fn add(counter: *mut u64, amount: i64) {
    // SAFETY: an array map value, which lives as long as the program and is aligned.
    unsafe {
        asm!(
            "lock *(u64 *)({counter} + 0) += {amount}",
            counter = in(reg) counter,
            amount = in(reg) amount,
            options(nostack)
        );
    }
}

#[inline(always)]
fn now_seconds() -> u32 {
    // SAFETY: a plain helper call.
    let seconds = unsafe { bpf_ktime_get_boot_ns() } / NANOSECONDS;
    (seconds & 0xffff_ffff) as u32
}
