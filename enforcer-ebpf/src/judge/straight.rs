//! The straight way: packets that pass and do nothing else, which are nearly all, and the opening
//! segments that vanish, which are nearly all of a flood.
//!
//! What is asked here is what the whole judgement asks of such a packet, in its order, without what
//! is there for the others: to fetch another's instructions costs more than the decision. Where it
//! does not know the answer the whole judgement is asked; where it does, that would have given the
//! same one, and tests hold the two against each other.

use super::{
    Action, Flows, Judgement, LocalPod, Place, features, readable, to_pod::from_the_proxy,
};
use crate::{
    decide::{address_v4, decide, pod_by_interface},
    flow::FlowKey,
    packet::{MAPPED, Plain},
    reason::Reason,
    words::{Cell, Holder, Verdict, Words, header, options, pod, pod_flags},
};

/// A packet to the pod behind the place's interface, as [`super::judge_to_pod`] judges it.
#[inline(always)]
pub fn straight_to_pod<W: Words + ?Sized, F: Flows>(
    packet: &Plain,
    words: &W,
    flows: &F,
    place: &Place,
) -> Option<Judgement> {
    if place.has(features::UPLINKS) || place.has(features::INSIDE) {
        return None;
    }
    if from_the_proxy(place) {
        return None;
    }
    let to = policed(words, place, packet.destination)?;
    let source = address_v4(words, packet.source);
    let sender = pod_by_interface(words, place.ingress);
    // Who it is must be plain: a local pod behind its own interface, or anybody behind no pod's.
    let expected = match source.holder() {
        Holder::LocalPod(slot) => words
            .at(header::PODS)
            .wrapping_add(slot.wrapping_mul(pod::WORDS)),
        Holder::RemotePod | Holder::Outside => 0,
        Holder::Node | Holder::Unknown => return None,
    };
    if sender != expected {
        return None;
    }
    let key = key(
        (packet.destination, packet.destination_port),
        (packet.source, packet.source_port),
    );
    let cell = cell_of(words, flows, &to, &key, source.class())?;
    if packet.opens() {
        opens(words, flows, place, &to, &key, cell)
    } else {
        follows(flows, &key, cell)
    }
}

/// A packet from the pod behind the place's interface, as [`super::judge_from_pod`] judges it.
#[inline(always)]
pub fn straight_from_pod<W: Words + ?Sized, F: Flows>(
    packet: &Plain,
    words: &W,
    flows: &F,
    place: &Place,
) -> Option<Judgement> {
    if packet.opens() {
        return None;
    }
    let from = policed(words, place, packet.source)?;
    let remote = address_v4(words, packet.destination);
    if matches!(remote.holder(), Holder::Node | Holder::Unknown) {
        return None;
    }
    let key = key(
        (packet.source, packet.source_port),
        (packet.destination, packet.destination_port),
    );
    let cell = cell_of(words, flows, &from, &key, remote.class())?;
    follows(flows, &key, cell)
}

/// The policed pod behind the interface, if the address is its own.
#[inline(always)]
fn policed<W: Words + ?Sized>(words: &W, place: &Place, address: u32) -> Option<LocalPod> {
    if !readable(words) {
        return None;
    }
    let at = pod_by_interface(words, place.interface);
    if at == 0 {
        return None;
    }
    let pod = LocalPod::at(words, at);
    let own =
        matches!(address_v4(words, address).holder(), Holder::LocalPod(slot) if slot == pod.slot);
    (own && pod.is(pod_flags::ENROLLED)).then_some(pod)
}

/// What the table says, as far as nothing else has a say.
#[inline(always)]
fn cell_of<W: Words + ?Sized, F: Flows>(
    words: &W,
    flows: &F,
    pod: &LocalPod,
    key: &FlowKey,
    class: u32,
) -> Option<Cell> {
    // VERIFIER: before anything is looked up in a map. What Linux 6.1 has learnt of an offset it forgets
    // when that is put aside for the call of a helper.
    let cell = decide(words, pod.scope(words, false), class, key.pod_port as u32);
    if pod.is(pod_flags::PROXIED) && (flows.is_proxied(key) || flows.is_upstream(key)) {
        return None;
    }
    Some(cell)
}

/// The table allows the flow, or the pod began it.
#[inline(always)]
fn follows<F: Flows>(flows: &F, key: &FlowKey, cell: Cell) -> Option<Judgement> {
    if matches!(cell.verdict(), Verdict::Allow) {
        return Some(Judgement::new(Action::Pass, Reason::Allowed, cell));
    }
    flows
        .is_out(key)
        .then_some(Judgement::pass(Reason::Outbound))
}

/// The table allows the connection, and nobody is to be told; or it denies it, and refusals are
/// silent.
#[inline(always)]
fn opens<W: Words + ?Sized, F: Flows>(
    words: &W,
    flows: &F,
    place: &Place,
    to: &LocalPod,
    key: &FlowKey,
    cell: Cell,
) -> Option<Judgement> {
    let options = words.at(header::OPTIONS);
    let told = cell.audit() || cell.dry_run() || options & options::EVENTS_ALLOWED != 0;
    // Something else may come of it.
    const LENIENT: u32 = options::AUDIT_MODE | options::PAUSED;
    const OTHERWISE: u32 = pod_flags::PAUSED | pod_flags::SEEDING | pod_flags::SWITCHED;
    let lenient = options & LENIENT != 0 || to.is(OTHERWISE);
    let silent = options & options::REFUSE_DROP != 0 || place.rejects == 0;
    let judgement = match cell.verdict() {
        Verdict::Allow if !told => Judgement::new(Action::Pass, Reason::Allowed, cell),
        Verdict::Deny if silent && !lenient => Judgement::new(Action::Drop, Reason::Denied, cell),
        _ => return None,
    };
    // What is known of its ports is to be asked first.
    (!flows.is_out(key)).then_some(judgement)
}

#[inline(always)]
fn key(pod: (u32, u16), remote: (u32, u16)) -> FlowKey {
    FlowKey {
        pod: [0, 0, MAPPED, pod.0],
        remote: [0, 0, MAPPED, remote.0],
        pod_port: pod.1,
        remote_port: remote.1,
    }
}
