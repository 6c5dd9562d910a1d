//! What is counted and told about a verdict.
#![expect(
    unsafe_code,
    reason = "map values and the ring buffer are raw pointers"
)]

use core::ptr::null_mut;

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_ktime_get_boot_ns, programs::TcContext};
use aya_log_ebpf::{
    debug,
    macro_support::{Level, level_enabled},
};
use enforcer_ebpf::{
    event::{EVENTS_PER_WINDOW, Event, EventBudget, RESETS_PER_WINDOW, WINDOW_BITS},
    judge::{Judgement, cell_to_pod},
    maps::hits_index,
    reason::Reason,
    words::{Cell, SLOTS, Words as _, header},
};

use super::{
    frame::place,
    maps::{EVENT_BUDGET, EVENTS, HITS, REASONS, RESET_BUDGET},
    run::Run,
    table::Table,
};

/// Counts a verdict and, where it is news, tells of it. `hook` is the number of a `Hook`.
#[inline(always)]
pub fn report(run: &Run, interface: u32, hook: u32) {
    let judgement = &run.finding.judgement;
    count(judgement.reason);
    if judgement.masqueraded {
        count(Reason::MasqueradedSource);
    }
    let opens = run.packet.opens();
    hit(run.slot.into(), judgement.cell, opens);
    // What is not logged must not cost a call.
    if run.news || is_logged() {
        tell(run, interface, hook);
    }
}

/// Every packet is logged.
#[inline(always)]
pub fn is_logged() -> bool {
    level_enabled(Level::Debug)
}

/// Counts a packet that was judged the straight way.
#[inline(always)]
pub fn judged(judgement: &Judgement, slot: u32, opens: bool) {
    count(judgement.reason);
    hit(slot, judgement.cell, opens);
}

/// No event would be sent: this CPU has sent as many as it may by now.
#[inline(always)]
pub fn events_are_spent() -> bool {
    let Some(budget) = EVENT_BUDGET.get_ptr(0) else {
        return false;
    };
    // SAFETY: a plain helper call.
    let window = unsafe { bpf_ktime_get_boot_ns() } >> WINDOW_BITS;
    // SAFETY: the value is this CPU's own.
    unsafe { (*budget).window == window && (*budget).sent >= EVENTS_PER_WINDOW }
}

/// Asks the shadow table for its opinion of an opening segment that the active one has decided, where
/// there is a shadow table. Nothing but counters and events comes of it.
#[inline(always)]
pub fn shadow(skb: *mut __sk_buff, run: &mut Run) {
    if run.finding.judgement.cell == Cell::NOTHING || !run.packet.opens() {
        return;
    }
    let slot = Table::shadow_slot();
    if slot < SLOTS && slot != u32::from(run.slot) {
        ask_shadow(skb, run, slot);
    }
}

// VERIFIER: a global function, checked once and by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ask_shadow(skb: *mut __sk_buff, run: *mut Run, slot: u32) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(run) = (unsafe { run.as_mut() }) else {
        return 0;
    };
    let table = Table::in_slot(slot).on_behalf_of(run);
    let Some(cell) = cell_to_pod(&run.packet, &table, &place(&TcContext::new(skb))) else {
        return 0;
    };
    let disagrees = cell.verdict() as u8 != run.finding.judgement.cell.verdict() as u8;
    if let Some(hits) = HITS.get_ptr_mut(hits_index(slot, cell.record())) {
        // SAFETY: the value is this CPU's own.
        unsafe {
            (*hits).packets += 1;
            (*hits).opened += u64::from(disagrees);
        }
    }
    if disagrees {
        count(Reason::ShadowDisagrees);
        run.news = true;
        run.shadow_epoch = table.at(header::EPOCH);
        run.shadow_cell = cell.0;
    }
    0
}

/// Sends an event, and logs.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell(run: *const Run, interface: u32, hook: u32) -> u32 {
    // SAFETY: null, or the caller's.
    let Some(run) = (unsafe { run.as_ref() }) else {
        return 0;
    };
    if run.news {
        send((hook & 0xff) as u8, run, interface);
    }
    debug!(
        // The macro wants a context and does not use it.
        &TcContext::new(null_mut()),
        "hook {} interface {} reason {} cell {}",
        hook,
        interface,
        run.finding.judgement.reason as u8,
        run.finding.judgement.cell.0
    );
    0
}

/// Counts a reason.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counter) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: the value is this CPU's own.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
fn hit(slot: u32, cell: Cell, opens: bool) {
    let record = cell.record();
    if record == 0 {
        return;
    }
    if let Some(hits) = HITS.get_ptr_mut(hits_index(slot, record)) {
        // SAFETY: the value is this CPU's own.
        unsafe {
            (*hits).packets += 1;
            (*hits).opened += u64::from(opens);
        }
    }
}

#[inline(always)]
fn send(hook: u8, run: &Run, interface: u32) {
    let (packet, judgement) = (&run.packet, &run.finding.judgement);
    // SAFETY: a plain helper call.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if !within_budget(EVENT_BUDGET.get_ptr_mut(0), now, EVENTS_PER_WINDOW) {
        return count(Reason::EventDropped);
    }
    let Some(mut entry) = EVENTS.reserve(0) else {
        return count(Reason::EventDropped);
    };
    entry.write(Event {
        epoch: Table::in_slot(run.slot.into()).at(header::EPOCH),
        cell: judgement.cell.0,
        ifindex: interface,
        reason: judgement.reason as u8,
        hook,
        time_low: (now & 0xffff_ffff) as u32,
        time_high: (now >> 32) as u32,
        slot: judgement.slot,
        protocol: packet.protocol,
        tcp_flags: packet.flags,
        source: packet.source,
        destination: packet.destination,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        shadow_epoch: run.shadow_epoch,
        shadow_cell: run.shadow_cell,
    });
    entry.submit(0);
}

/// Whether this CPU may send one more reset.
#[inline(always)]
pub fn may_reset() -> bool {
    // SAFETY: a plain helper call.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    within_budget(RESET_BUDGET.get_ptr_mut(0), now, RESETS_PER_WINDOW)
}

#[inline(always)]
fn within_budget(budget: Option<*mut EventBudget>, now: u64, most: u64) -> bool {
    let Some(budget) = budget else {
        return false;
    };
    let window = now >> WINDOW_BITS;
    // SAFETY: the value is this CPU's own.
    unsafe {
        if (*budget).window != window {
            (*budget).window = window;
            (*budget).sent = 0;
        }
        (*budget).sent += 1;
        (*budget).sent <= most
    }
}
