//! What is counted and told about a verdict.
#![expect(
    unsafe_code,
    reason = "map values and the ring buffer are raw pointers"
)]

use aya_ebpf::{helpers::bpf_ktime_get_boot_ns, programs::TcContext};
use aya_log_ebpf::debug;
use enforcer_ebpf::{
    event::{EVENTS_PER_WINDOW, Event, Hook, WINDOW_BITS},
    judge::{Judgement, Place},
    maps::hits_index,
    packet::Packet,
    reason::Reason,
    words::{Words as _, header},
};

use super::{
    maps::{EVENT_BUDGET, EVENTS, HITS, REASONS},
    table::Table,
};

/// Counts a verdict, and sends an event where it is news.
#[inline(always)]
pub fn tell(
    ctx: &TcContext,
    hook: Hook,
    parsed: &Result<Packet, Reason>,
    table: &Table,
    place: &Place,
    judgement: &Judgement,
) {
    count(judgement.reason);
    if judgement.masqueraded {
        count(Reason::MasqueradedSource);
    }
    let opens = match parsed {
        Ok(packet) => packet.opens(),
        Err(_) => false,
    };
    hit(table, judgement, opens);
    if judgement.is_news(table, opens) {
        send(hook, parsed, table, place, judgement);
    }
    debug!(
        ctx,
        "hook {} interface {} reason {} cell {}",
        hook as u8,
        place.interface,
        judgement.reason as u8,
        judgement.cell.0
    );
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
fn hit(table: &Table, judgement: &Judgement, opens: bool) {
    let record = judgement.cell.record();
    if record == 0 {
        return;
    }
    if let Some(hits) = HITS.get_ptr_mut(hits_index(table.slot, record)) {
        // SAFETY: the value is this CPU's own.
        unsafe {
            (*hits).packets += 1;
            (*hits).opened += u64::from(opens);
        }
    }
}

#[inline(always)]
fn send(
    hook: Hook,
    parsed: &Result<Packet, Reason>,
    table: &Table,
    place: &Place,
    judgement: &Judgement,
) {
    // SAFETY: a plain helper call.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if !within_budget(now) {
        return count(Reason::EventDropped);
    }
    let Some(mut entry) = EVENTS.reserve(0) else {
        return count(Reason::EventDropped);
    };
    let mut event = Event {
        epoch: table.at(header::EPOCH),
        cell: judgement.cell.0,
        ifindex: place.interface,
        reason: judgement.reason as u8,
        hook: hook as u8,
        time_low: now as u32,
        time_high: (now >> 32) as u32,
        slot: judgement.slot,
        ..Event::default()
    };
    if let Ok(packet) = parsed {
        event.protocol = packet.protocol;
        event.tcp_flags = packet.flags;
        event.source = packet.source;
        event.destination = packet.destination;
        event.source_port = packet.source_port;
        event.destination_port = packet.destination_port;
    }
    entry.write(event);
    entry.submit(0);
}

#[inline(always)]
fn within_budget(now: u64) -> bool {
    let Some(budget) = EVENT_BUDGET.get_ptr_mut(0) else {
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
        (*budget).sent <= EVENTS_PER_WINDOW
    }
}
