//! The straight way: packets that are allowed and do nothing else, which are nearly all.
//!
//! What is asked here is what the whole judgement asks of such a packet, in its order, without what
//! is there for the others: another's instructions in the processor's cache cost more than the
//! decision. It knows one answer, "pass"; where it does not know, the whole judgement is asked, which
//! would have said the same. Tests hold the two against each other.

use super::{Flows, LocalPod, Place, features, readable, to_pod::from_the_proxy};
use crate::{
    decide::{address_v4, decide, pod_by_interface},
    flow::FlowKey,
    packet::{MAPPED, Plain},
    reason::Reason,
    words::{Cell, Holder, Verdict, Words, header, options, pod, pod_flags},
};

/// Why the packet passes, and the cell that allows it, if one was asked.
pub type Straight = Option<(Reason, Cell)>;

/// A packet to the pod behind the place's interface, as [`super::judge_to_pod`] judges it.
#[inline(always)]
pub fn straight_to_pod<W: Words + ?Sized, F: Flows>(
    packet: &Plain,
    words: &W,
    flows: &F,
    place: &Place,
) -> Straight {
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
    passes(words, flows, &to, &key, source.class(), packet)
}

/// A packet from the pod behind the place's interface, as [`super::judge_from_pod`] judges it.
#[inline(always)]
pub fn straight_from_pod<W: Words + ?Sized, F: Flows>(
    packet: &Plain,
    words: &W,
    flows: &F,
    place: &Place,
) -> Straight {
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
    passes(words, flows, &from, &key, remote.class(), packet)
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

/// The table allows the flow, or the pod began it. Of an opening segment nobody is to be told, and
/// nothing is known of its ports.
#[inline(always)]
fn passes<W: Words + ?Sized, F: Flows>(
    words: &W,
    flows: &F,
    pod: &LocalPod,
    key: &FlowKey,
    class: u32,
    packet: &Plain,
) -> Straight {
    if pod.is(pod_flags::PROXIED) && (flows.is_proxied(key) || flows.is_upstream(key)) {
        return None;
    }
    let cell = decide(words, pod.scope(words, false), class, key.pod_port as u32);
    let allowed = matches!(cell.verdict(), Verdict::Allow);
    if allowed && !packet.opens() {
        return Some((Reason::Allowed, cell));
    }
    let out = flows.is_out(key);
    if !packet.opens() {
        return out.then_some((Reason::Outbound, Cell::NOTHING));
    }
    let told =
        cell.audit() || cell.dry_run() || words.at(header::OPTIONS) & options::EVENTS_ALLOWED != 0;
    (allowed && !out && !told).then_some((Reason::Allowed, cell))
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
