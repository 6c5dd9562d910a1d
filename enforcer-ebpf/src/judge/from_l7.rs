//! Packets out of the proxy's namespace.

use super::{Action, Flows, Judgement, address_of, inward, outward, readable};
use crate::{
    decide::pod_by_slot,
    packet::{Kind, Packet, Part},
    reason::Reason,
    words::{Cell, Holder, Words, pod},
};

/// Judges what enters the node through its end of the proxy's interface. Nothing is enforced here:
/// the proxy is ours, and [`judge_to_pod`](super::judge_to_pod) admits its packets only to flows it
/// is known for. What is done is to short-cut the legs whose answers bypass the node's stack too.
#[inline(always)]
pub fn judge_from_l7<W: Words + ?Sized, F: Flows>(
    packet: &Packet,
    words: &W,
    flows: &F,
) -> Judgement {
    if !readable(words) {
        return Judgement::drop(Reason::NoTable);
    }
    if let Some(reason) = packet.reject {
        return Judgement::drop(reason);
    }
    if !matches!(packet.kind, Kind::Tcp) || matches!(packet.part, Part::Later) {
        return Judgement::pass(Reason::NonTcp);
    }
    let inward = inward(packet);
    let receiver = local_pod(words, packet.v6, &packet.destination);
    if receiver != 0 && flows.is_upstream(&inward) {
        return towards(words, receiver, Reason::Upstream);
    }
    let sender = local_pod(words, packet.v6, &packet.source);
    if sender == 0 {
        return Judgement::pass(Reason::NotEnrolled);
    }
    // The client leg: the proxy answers in the pod's name.
    let key = outward(packet);
    if packet.accepts() {
        let slot = sender.wrapping_sub(words.at(crate::words::header::PODS)) / pod::WORDS;
        if !flows.begin_proxied(&key, slot) {
            return Judgement::drop(Reason::RedirectUnavailable);
        }
    }
    // Through the node's stack, for its connection tracking and the undoing of service translation,
    // unless the client's frames are switched past that stack as well.
    if receiver != 0 && flows.is_switched(&key) {
        return towards(words, receiver, Reason::Proxied);
    }
    Judgement::pass(Reason::Proxied)
}

#[inline(always)]
fn towards<W: Words + ?Sized>(words: &W, receiver: u32, reason: Reason) -> Judgement {
    let target = words.at(receiver + pod::INTERFACE);
    if target == 0 {
        return Judgement::pass(reason);
    }
    let mut judgement = Judgement::new(Action::ToPod, reason, Cell::NOTHING);
    judgement.target = target;
    judgement
}

#[inline(always)]
fn local_pod<W: Words + ?Sized>(words: &W, v6: bool, address: &[u32; 4]) -> u32 {
    match address_of(words, v6, address).holder() {
        Holder::LocalPod(slot) => pod_by_slot(words, slot),
        _ => 0,
    }
}
