//! Packets out of the proxy's namespace.

use super::{Action, Flows, Judgement, address_of, inward, outward, readable};
use crate::{
    decide::pod_by_slot,
    packet::{Kind, Packet, Part},
    reason::Reason,
    words::{Cell, Holder, Words, pod},
};

/// Judges what enters the node through its ends of the proxy's interfaces. Nothing is enforced here:
/// the proxy is ours, and [`judge_to_pod`](super::judge_to_pod) admits its packets only to flows it
/// is known for. What is done is to short-cut the legs whose answers bypass the node's stack too.
///
/// Nothing is remembered here. An entry for each SYN-ACK would be one for each SYN, made by whoever
/// sends them: a flood would fill the map and lock everybody out. The proxy makes the entry of a
/// client's flow when it accepts the connection, so that an entry costs a whole handshake (also one
/// by SYN cookies, of which there is no trace before) and a seat within the proxy's limits. Until
/// then the table's "ask" steers each segment; a policy that ceases to ask in between costs the
/// client a connection, never a verdict. The SYN-ACK reaches a policed local client because the
/// client opened the connection.
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
    // A refusal of what the pod has sent, which the node's stack may not have seen.
    if receiver != 0 && packet.bare_reset() && flows.is_switched(&inward) {
        return towards(words, receiver, Reason::BareReset);
    }
    let sender = local_pod(words, packet.v6, &packet.source);
    if sender == 0 {
        return Judgement::pass(Reason::NotEnrolled);
    }
    // The client leg: the proxy, or the kernel that refuses, answers in the pod's name.
    let key = outward(packet);
    let reason = if packet.bare_reset() {
        Reason::BareReset
    } else {
        Reason::Proxied
    };
    // Through the node's stack, for its connection tracking and the undoing of service translation,
    // unless the client's frames are switched past that stack as well.
    if receiver != 0 && flows.is_switched(&key) {
        return towards(words, receiver, reason);
    }
    Judgement::pass(reason)
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
