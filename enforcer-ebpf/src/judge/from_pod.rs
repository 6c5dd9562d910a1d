//! Packets away from a pod.

use super::{
    Action, Finding, Flows, Judgement, LocalPod, Place, address_of, found, inherit, outward,
    pod_behind, reply,
};
use crate::{
    event::Hook,
    flow::FlowKey,
    packet::{Packet, Part},
    reason::Reason,
    words::{Cell, Holder, Verdict, Words, pod_flags},
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
        Err(finding) => return finding,
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
    Judgement::new(Action::Refuse, answer.reason, cell)
}
