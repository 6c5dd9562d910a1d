//! Packets away from a pod.

use super::{
    Action, Finding, Flows, Judgement, LocalPod, Place, address_of, found, inherit, nobody,
    outward, pod_behind, reply,
};
use crate::{
    decide::pod_by_slot,
    event::Hook,
    flow::FlowKey,
    packet::{Packet, Part},
    reason::Reason,
    words::{Cell, Holder, Verdict, Words, pod, pod_flags},
};

/// Finds the verdict for TCP that enters the node through a pod's host interface. Every local pod's
/// source addresses are guarded, also those of a pod without policies: other pods' verdicts rest on
/// them.
#[inline(always)]
pub fn find_from_pod<W: Words + ?Sized, F: Flows>(
    packet: &Packet,
    words: &W,
    flows: &F,
    place: &Place,
) -> Finding {
    let from = match pod_behind(words, place) {
        Ok(pod) => pod,
        Err(finding) => return nobody::from(packet, words, place, finding),
    };
    // VERIFIER: one place to conclude at.
    let judgement = if spoofed(words, &from, packet) {
        Judgement::drop(Reason::SpoofedPodSource)
    } else if !from.is(pod_flags::ENROLLED) {
        Judgement::pass(Reason::NotEnrolled)
    } else if matches!(packet.part, Part::Later) {
        inherit(packet, flows, place, Hook::FromPod)
    } else {
        tcp(words, flows, &from, packet)
    };
    found(words, &from, judgement)
}

/// The pod sends from an address that is not its own. A link-local address is as good as any other
/// to forge.
#[inline(always)]
pub(super) fn spoofed<W: Words + ?Sized>(words: &W, from: &LocalPod, packet: &Packet) -> bool {
    match address_of(words, packet.v6, &packet.source).holder() {
        Holder::LocalPod(slot) => slot != from.slot,
        Holder::Node => true,
        _ => !from.is(pod_flags::GATEWAY),
    }
}

#[inline(always)]
fn tcp<W: Words + ?Sized, F: Flows>(
    words: &W,
    flows: &F,
    from: &LocalPod,
    packet: &Packet,
) -> Judgement {
    let key = outward(packet);
    if packet.opens() {
        return if flows.open_out(&key, from.slot) {
            Judgement::pass(Reason::OutboundOpened)
        } else {
            // Nobody but this hook has seen the segment, and so nobody else would know its reset.
            flows.note_switched(&key);
            Judgement::new(Action::Refuse, Reason::OutboundQuota, Cell::NOTHING)
        };
    }
    if from.is(pod_flags::PROXIED) {
        if flows.is_proxied(&key) {
            return Judgement::new(Action::ToProxy, Reason::Proxied, Cell::NOTHING);
        }
        if flows.is_upstream(&key) {
            return Judgement::new(Action::ToProxy, Reason::Upstream, Cell::NOTHING);
        }
    }
    reply(words, flows, from, packet, &key)
}

/// An answer within a connection that another opened is judged by the verdict for its requests:
/// after a DENY the pod must not go on sending.
#[inline(always)]
fn reply<W: Words + ?Sized, F: Flows>(
    words: &W,
    flows: &F,
    from: &LocalPod,
    packet: &Packet,
    key: &FlowKey,
) -> Judgement {
    let answer = reply::judge(words, flows, from, packet.v6, key, key.pod_port as u32);
    let cell = answer.cell;
    if matches!(cell.verdict(), Verdict::Allow) {
        return Judgement::new(Action::Pass, answer.reason, cell);
    }
    // After the table, which costs less to ask than the flows.
    if flows.is_out(key) {
        return Judgement::pass(Reason::Outbound);
    }
    if packet.bare_reset() {
        return Judgement::pass(Reason::BareReset);
    }
    if switched(words, from, packet.v6, key) {
        flows.note_switched(key);
    }
    Judgement::new(Action::Refuse, answer.reason, cell)
}

/// Whether the node's stack knows nothing of a flow, because both ends hang on one bridge: it would
/// take the reset that tells the pod of the refusal for invalid.
#[inline(always)]
fn switched<W: Words + ?Sized>(words: &W, from: &LocalPod, v6: bool, key: &FlowKey) -> bool {
    let bridge = words.at(from.at + pod::BRIDGE);
    let remote = match address_of(words, v6, &key.remote).holder() {
        Holder::LocalPod(slot) => pod_by_slot(words, slot),
        _ => 0,
    };
    from.is(pod_flags::SWITCHED)
        && bridge != 0
        && remote != 0
        && words.at(remote + pod::BRIDGE) == bridge
}
