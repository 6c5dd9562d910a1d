//! One run of a program, as three functions that the verifier checks each by itself.
//!
//! Checked as one, the ways through parsing, judging and reporting would multiply; as global
//! functions they add up, and each starts from one state: memory of which nothing is known.
#![expect(unsafe_code, reason = "global functions take pointers")]

use core::{mem::MaybeUninit, ptr::null_mut};

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use enforcer_ebpf::{
    judge::{Judgement, judge_from_l7, judge_from_pod, judge_to_pod},
    packet::{Packet, parse},
};

use super::{
    flows::KernelFlows,
    frame::{Skb, place},
    table::Table,
};

/// What the parts of a run hand on.
pub struct Run {
    pub packet: Packet,
    pub judgement: Judgement,
    /// Slot of the table that judged.
    pub slot: u32,
    /// Worth an event.
    pub news: bool,
    /// Activation and cell of the shadow table where it disagrees; otherwise 0.
    pub shadow_epoch: u32,
    pub shadow_cell: u32,
}

/// Memory for a run, in units of eight bytes.
pub struct Memory(MaybeUninit<[u64; UNITS]>);

const UNITS: usize = size_of::<Run>().div_ceil(8);

impl Memory {
    #[inline(always)]
    pub const fn new() -> Self {
        Self(MaybeUninit::uninit())
    }
}

impl Run {
    /// A run that knows nothing yet.
    // VERIFIER: every byte handed to a global function must have been written, so the compiler, who
    // can see that the callees overwrite them, must keep the stores: they are volatile. Written as
    // an array of zeros they would become a call that stores byte after byte, which takes longer
    // than the whole decision.
    #[inline(always)]
    pub fn begin(memory: &mut Memory) -> &mut Self {
        let units = memory.0.as_mut_ptr().cast::<u64>();
        let mut i = 0;
        while i < UNITS {
            // SAFETY: within the array.
            unsafe { units.add(i).write_volatile(0) };
            i += 1;
        }
        // SAFETY: large and aligned enough, and all-zero bytes are a run: each enum in it has a
        // variant of number 0.
        unsafe { &mut *units.cast() }
    }
}

/// Parses the frame.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_frame(skb: *mut __sk_buff, run: *mut Run) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(run) = (unsafe { run.as_mut() }) else {
        return 0;
    };
    run.packet = parse(&Skb::new(&TcContext::new(skb)));
    0
}

/// Judges the packet as one towards a pod.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn decide_to_pod(skb: *mut __sk_buff, run: *mut Run) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(run) = (unsafe { run.as_mut() }) else {
        return 0;
    };
    let ctx = TcContext::new(skb);
    let table = Table::active();
    run.slot = table.slot;
    run.judgement = judge_to_pod(&run.packet, &table, &KernelFlows::new(skb), &place(&ctx));
    run.news = run.judgement.is_news(&table, run.packet.opens());
    0
}

/// Judges the packet as one from a pod.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn decide_from_pod(skb: *mut __sk_buff, run: *mut Run) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(run) = (unsafe { run.as_mut() }) else {
        return 0;
    };
    let ctx = TcContext::new(skb);
    let table = Table::active();
    run.slot = table.slot;
    run.judgement = judge_from_pod(&run.packet, &table, &KernelFlows::new(skb), &place(&ctx));
    run.news = run.judgement.is_news(&table, run.packet.opens());
    0
}

/// Judges the packet as one from the proxy.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn decide_from_l7(run: *mut Run) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(run) = (unsafe { run.as_mut() }) else {
        return 0;
    };
    // Nothing that is decided here asks a socket.
    let table = Table::active();
    run.slot = table.slot;
    run.judgement = judge_from_l7(&run.packet, &table, &KernelFlows::new(null_mut()));
    run.news = run.judgement.is_news(&table, run.packet.opens());
    0
}
