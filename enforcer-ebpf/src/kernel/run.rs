//! One run of a program, as functions that the verifier checks each by itself.
//!
//! Checked as one, the ways through parsing, judging and reporting would multiply; as global
//! functions they add up, and each starts from one state: memory of which nothing is known.
#![expect(unsafe_code, reason = "global functions take pointers")]

use core::{
    mem::MaybeUninit,
    ptr::{null_mut, read_volatile},
};

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use enforcer_ebpf::{
    event::Hook,
    judge::{
        Action, Finding, conclude, find_from_pod, find_other, find_to_pod, judge_from_l7,
        straight_from_pod, straight_to_pod,
    },
    packet::{Packet, Rest, parse_extended, parse_far, parse_first, parse_icmp, parse_plain},
    reason::Reason,
    words::{SLOTS, Words as _, header},
};

use super::{
    flows::KernelFlows,
    frame::{Far, Linear, Skb, place},
    report,
    table::Table,
};

/// What the parts of a run hand on.
pub struct Run {
    pub packet: Packet,
    /// What of it is still to be read.
    pub rest: Rest,
    pub finding: Finding,
    /// Slot of the table that judged; 255 where there is none.
    pub slot: u8,
    /// Worth an event.
    pub news: bool,
    /// Activation and cell of the shadow table where it disagrees; otherwise 0.
    pub shadow_epoch: u32,
    pub shadow_cell: u32,
    /// Always 0. Read from memory of which the verifier knows nothing, it makes what it is combined with just
    /// as unknown; so paths that differ in nothing but a constant become one.
    blank: u32,
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
    /// See the field.
    #[inline(always)]
    pub fn blank(&self) -> u32 {
        // SAFETY: a field of ours; volatile, so that the compiler does not know it either.
        unsafe { read_volatile(&raw const self.blank) }
    }

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

/// A slot in one byte.
// VERIFIER: a run takes 120 bytes, and no more: with that of the programs, of `read_frame` and of what
// it calls, the stack is as large as Linux 6.1 allows.
#[inline(always)]
fn byte(slot: u32) -> u8 {
    const { assert!(size_of::<Run>() <= 120) };
    (slot & 0xff) as u8
}

/// Parses the frame.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_frame(skb: *mut __sk_buff, run: *mut Run) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(run) = (unsafe { run.as_mut() }) else {
        return 0;
    };
    let ctx = TcContext::new(skb);
    let frame = Skb::new(&ctx, run);
    run.rest = parse_first(&frame, &mut run.packet);
    0
}

/// Parses a frame with VLAN tags or IPv4 options.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_far(skb: *mut __sk_buff, run: *mut Run) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(run) = (unsafe { run.as_mut() }) else {
        return 0;
    };
    let ctx = TcContext::new(skb);
    let frame = Far::new(&ctx, run);
    run.rest = parse_far(&frame, &mut run.packet);
    0
}

/// Parses what follows the IPv6 header, where that is an extension header.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_extended(skb: *mut __sk_buff, run: *mut Run) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(run) = (unsafe { run.as_mut() }) else {
        return 0;
    };
    let ctx = TcContext::new(skb);
    let frame = Far::new(&ctx, run);
    run.rest = parse_extended(&frame, &mut run.packet, run.rest);
    0
}

/// Parses an ICMP message.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_icmp(skb: *mut __sk_buff, run: *mut Run) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(run) = (unsafe { run.as_mut() }) else {
        return 0;
    };
    let ctx = TcContext::new(skb);
    let frame = Far::new(&ctx, run);
    parse_icmp(&frame, &mut run.packet, run.rest);
    0
}

/// Finds the verdict for TCP towards a pod.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn decide_to_pod(skb: *mut __sk_buff, run: *mut Run) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(run) = (unsafe { run.as_mut() }) else {
        return 0;
    };
    let table = Table::of_run(run);
    run.slot = byte(table.slot);
    let place = place(&TcContext::new(skb));
    run.finding = find_to_pod(&run.packet, &table, &KernelFlows::new(skb), &place);
    0
}

/// Finds the verdict for TCP from a pod.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn decide_from_pod(skb: *mut __sk_buff, run: *mut Run) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(run) = (unsafe { run.as_mut() }) else {
        return 0;
    };
    let table = Table::of_run(run);
    run.slot = byte(table.slot);
    let place = place(&TcContext::new(skb));
    run.finding = find_from_pod(&run.packet, &table, &KernelFlows::new(skb), &place);
    0
}

/// Finds the verdict for what is not TCP, towards a pod.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn decide_other_to_pod(skb: *mut __sk_buff, run: *mut Run) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(run) = (unsafe { run.as_mut() }) else {
        return 0;
    };
    let table = Table::of_run(run);
    run.slot = byte(table.slot);
    let place = place(&TcContext::new(skb));
    let flows = KernelFlows::new(skb);
    run.finding = find_other(&run.packet, &table, &flows, &place, Hook::ToPod);
    0
}

/// Finds the verdict for what is not TCP, away from a pod.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn decide_other_from_pod(skb: *mut __sk_buff, run: *mut Run) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(run) = (unsafe { run.as_mut() }) else {
        return 0;
    };
    let table = Table::of_run(run);
    run.slot = byte(table.slot);
    let place = place(&TcContext::new(skb));
    let flows = KernelFlows::new(skb);
    run.finding = find_other(&run.packet, &table, &flows, &place, Hook::FromPod);
    0
}

/// What becomes of a segment that goes no straight way; not the number of an [`Action`].
pub const NOT_STRAIGHT: u32 = u32::MAX;

/// The [`Action`] for a segment towards a pod that goes the straight way; it has been counted then.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn straight_into_pod(skb: *mut __sk_buff) -> u32 {
    let ctx = TcContext::new(skb);
    let Some(packet) = parse_plain(&Linear::new(&ctx)) else {
        return NOT_STRAIGHT;
    };
    let table = Table::active();
    let flows = KernelFlows::new(skb);
    let Some(judgement) = straight_to_pod(&packet, &table, &flows, &place(&ctx)) else {
        return NOT_STRAIGHT;
    };
    // Another table's opinion is asked of opening segments, and who waits for events gets them.
    let shadow = Table::shadow_slot();
    let asked = packet.opens() && shadow < SLOTS && shadow != table.slot;
    let drops = matches!(judgement.action, Action::Drop);
    if asked || (drops && !report::events_are_spent()) {
        return NOT_STRAIGHT;
    }
    if drops {
        report::count(Reason::EventDropped);
    }
    report::judged(&judgement, table.slot, packet.opens());
    judgement.action as u32
}

/// The same for one from a pod.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn straight_out_of_pod(skb: *mut __sk_buff) -> u32 {
    let ctx = TcContext::new(skb);
    let Some(packet) = parse_plain(&Linear::new(&ctx)) else {
        return NOT_STRAIGHT;
    };
    let table = Table::active();
    let flows = KernelFlows::new(skb);
    let Some(judgement) = straight_from_pod(&packet, &table, &flows, &place(&ctx)) else {
        return NOT_STRAIGHT;
    };
    report::judged(&judgement, table.slot, false);
    judgement.action as u32
}

/// Concludes what was found. `hook` is the number of a `Hook`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn conclude_run(skb: *mut __sk_buff, run: *mut Run, hook: u32) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(run) = (unsafe { run.as_mut() }) else {
        return 0;
    };
    let place = place(&TcContext::new(skb));
    let flows = KernelFlows::new(skb);
    let judgement = conclude(run.finding, &run.packet, &flows, &place, hook_of(hook));
    run.finding.judgement = judgement;
    run.news = judgement.is_news(run.finding.options, run.packet.opens());
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
    let table = Table::of_run(run);
    run.slot = byte(table.slot);
    let judgement = judge_from_l7(&run.packet, &table, &KernelFlows::new(null_mut()));
    run.news = judgement.is_news(table.at(header::OPTIONS), run.packet.opens());
    run.finding.judgement = judgement;
    0
}

#[inline(always)]
fn hook_of(number: u32) -> Hook {
    if number == Hook::ToPod as u32 {
        Hook::ToPod
    } else {
        Hook::FromPod
    }
}
