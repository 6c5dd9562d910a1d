//! The flow maps and the kernel's socket tables as [`Flows`].
#![expect(unsafe_code, reason = "map values and sockets are raw pointers")]

use core::{arch::asm, mem::MaybeUninit, ptr::read_volatile};

use aya_ebpf::{
    bindings::{__sk_buff, BPF_NOEXIST},
    helpers::{bpf_ktime_get_boot_ns, bpf_sk_release, bpf_skc_lookup_tcp},
};
use enforcer_ebpf::{
    flow::{
        DATAGRAM_IDLE_SECONDS, DATAGRAMS_PER_POD_MAX, DatagramKey, DatagramValue, FlowKey,
        FragmentKey, FragmentValue, OUT_PER_POD_MAX, OutValue,
    },
    judge::{Flows, Namespace, Socket, Way},
};

use super::{
    globals::L7_NETNS_ID,
    maps::{
        DATAGRAMS_COUNT, DATAGRAMS_IN, DATAGRAMS_OUT, FRAGMENTS, MASQUERADED, OUT, OUT_COUNT,
        PROXY, SWITCHED, UPSTREAM,
    },
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
    fn may_be_out(&self, key: &FlowKey, slot: u32) -> bool {
        // SAFETY: an array map value; others change it, hence volatile.
        let none = counter(slot).is_some_and(|count| unsafe { read_volatile(count) } == 0);
        !none && self.is_out(key)
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
        let Some(count) = counter(slot) else {
            return false;
        };
        // SAFETY: an array map value; others change it, hence volatile.
        if unsafe { read_volatile(count) } >= u64::from(OUT_PER_POD_MAX) {
            return self.is_out(key);
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
    fn socket(&self, namespace: Namespace, key: &FlowKey, v6: bool, way: Way) -> Socket {
        let id = match namespace {
            Namespace::Proxy => L7_NETNS_ID.load(),
            Namespace::Pod(id) => id,
        };
        if id == 0 {
            return Socket::Live;
        }
        let how = u32::from(v6) * V6 + u32::from(matches!(way, Way::FromPod)) * FROM_POD;
        match socket_state(self.skb, key, how, id.wrapping_sub(1)) {
            state::NONE | state::TIME_WAIT | state::CLOSE | state::LISTEN => Socket::Dead,
            state::SYN_SENT => Socket::Opening,
            _ => Socket::Live,
        }
    }
    #[inline(always)]
    fn is_datagram_out(&self, key: &DatagramKey) -> bool {
        DATAGRAMS_OUT
            .get_ptr_mut(key)
            .is_some_and(|value| is_fresh(value) && renew(value))
    }
    #[inline(always)]
    fn open_datagram(&self, key: &DatagramKey, slot: u32) -> bool {
        if let Some(value) = DATAGRAMS_OUT.get_ptr_mut(key) {
            return renew(value);
        }
        let Some(count) = DATAGRAMS_COUNT.get_ptr_mut(slot) else {
            return false;
        };
        // SAFETY: an array map value; others change it, hence volatile.
        if unsafe { read_volatile(count) } >= u64::from(DATAGRAMS_PER_POD_MAX) {
            return false;
        }
        let value = DatagramValue {
            maker: slot,
            seen_seconds: now_seconds(),
        };
        match DATAGRAMS_OUT.insert(key, value, u64::from(BPF_NOEXIST)) {
            Ok(()) => {
                add(count, 1);
                true
            }
            Err(error) => error == EEXIST,
        }
    }
    #[inline(always)]
    fn datagram_in(&self, key: &DatagramKey) -> Option<u32> {
        let value = DATAGRAMS_IN.get_ptr_mut(key)?;
        if is_fresh(value) {
            // SAFETY: one whole word of a map value.
            Some(unsafe { read_volatile(&raw const (*value).maker) })
        } else {
            None
        }
    }
    #[inline(always)]
    fn note_datagram_in(&self, key: &DatagramKey, maker: u32) {
        if let Some(value) = DATAGRAMS_IN.get_ptr_mut(key) {
            // SAFETY: one whole word of a map value.
            unsafe { (&raw mut (*value).maker).write_volatile(maker) };
            renew(value);
            return;
        }
        let value = DatagramValue {
            maker,
            seen_seconds: now_seconds(),
        };
        // A lost entry lets the pod's next datagram begin a flow of its own.
        let _ = DATAGRAMS_IN.insert(key, value, 0);
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

/// Bits that say how the flow is to be looked up.
const V6: u32 = 1;
const FROM_POD: u32 = 2;

/// State of the socket that a packet of the flow would meet in a namespace.
// VERIFIER: one body for all callers, so that the helper and the release of what it returns are
// walked once.
#[inline(never)]
fn socket_state(skb: *mut __sk_buff, key: &FlowKey, how: u32, namespace: u32) -> u32 {
    let (mut source, mut source_port) = (&key.remote, key.remote_port);
    let (mut destination, mut destination_port) = (&key.pod, key.pod_port);
    if how & FROM_POD != 0 {
        (source, source_port) = (&key.pod, key.pod_port);
        (destination, destination_port) = (&key.remote, key.remote_port);
    }
    // As `bpf_sock_tuple` has them: addresses, then both ports.
    let ports = u32::from(source_port.to_be()) | u32::from(destination_port.to_be()) << 16;
    let mut tuple = MaybeUninit::<[u32; 9]>::uninit();
    let words = tuple.as_mut_ptr().cast::<u32>();
    // SAFETY: within the array; the kernel reads no more than has been written, 12 bytes of IPv4 and
    // all 36 of IPv6. The context and the tuple live through the call.
    let socket = unsafe {
        let length = if how & V6 != 0 {
            let mut i = 0;
            while i < 4 {
                words.add(i).write(source[i].to_be());
                words.add(4 + i).write(destination[i].to_be());
                i += 1;
            }
            words.add(8).write(ports);
            36
        } else {
            words.write(source[3].to_be());
            words.add(1).write(destination[3].to_be());
            words.add(2).write(ports);
            12
        };
        bpf_skc_lookup_tcp(skb.cast(), words.cast(), length, u64::from(namespace), 0)
    };
    if socket.is_null() {
        return state::NONE;
    }
    // SAFETY: a socket that the helper returned, released below on the only path.
    let state = unsafe { (*socket).state };
    // SAFETY: as above.
    unsafe { bpf_sk_release(socket.cast()) };
    state
}

/// The flow of datagrams is not over.
#[inline(always)]
fn is_fresh(value: *mut DatagramValue) -> bool {
    // SAFETY: one whole word of a map value; others store to it, hence volatile.
    let seen = unsafe { read_volatile(&raw const (*value).seen_seconds) };
    now_seconds().wrapping_sub(seen) < DATAGRAM_IDLE_SECONDS
}

/// Something was sent within the flow. True, always.
#[inline(always)]
fn renew(value: *mut DatagramValue) -> bool {
    // SAFETY: as above.
    unsafe { (&raw mut (*value).seen_seconds).write_volatile(now_seconds()) };
    true
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
