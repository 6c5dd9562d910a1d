//! Behind an interface of which the table knows no pod.
//!
//! With `--unknown-pod=deny` the programs sit there from the moment at which it looks like a pod's. Nobody
//! begins anything with that pod before it is known who it is; what it begins itself goes on, answers
//! included, and is found among its sockets when it becomes known. It does not speak for others meanwhile.
//! The pause of all pods is for those that are known.

use super::{Finding, Judgement, Place, address_of, features};
use crate::{
    event::Hook,
    packet::{Kind, Packet},
    reason::Reason,
    words::{Holder, Words},
};

/// What a packet to such an interface meets, where that is something else than was found.
// VERIFIER: asked where a verdict is concluded. Where one is found it would be one way more for each that
// leads there, in nodes without unknown pods as well.
#[inline(always)]
pub(super) fn to(
    finding: &Finding,
    packet: &Packet,
    place: &Place,
    hook: Hook,
) -> Option<Judgement> {
    if !is_unknown(place, finding) || !matches!(hook, Hook::ToPod) {
        return None;
    }
    // In silence: whoever asks will ask again, and the pod is known by then.
    match packet.reject {
        // It may hide an opening segment.
        Some(reason) => Some(Judgement::drop(reason)),
        None => begins(packet, place).then_some(Judgement::drop(Reason::UnknownPod)),
    }
}

/// What a packet from such an interface meets, which has met `finding` so far.
#[inline(always)]
pub(super) fn from<W: Words + ?Sized>(
    packet: &Packet,
    words: &W,
    place: &Place,
    mut finding: Finding,
) -> Finding {
    if is_unknown(place, &finding) && packet.reject.is_none() {
        match address_of(words, packet.v6, &packet.source).holder() {
            Holder::LocalPod(_) | Holder::RemotePod | Holder::Node => {
                finding.judgement = Judgement::drop(Reason::SpoofedPodSource);
            }
            Holder::Unknown | Holder::Outside => {}
        }
    }
    finding
}

#[inline(always)]
fn is_unknown(place: &Place, finding: &Finding) -> bool {
    // A pod that is known and not policed has a slot.
    place.has(features::UNKNOWN_PODS)
        && matches!(finding.judgement.reason, Reason::NotEnrolled)
        && finding.judgement.slot == super::NO_SLOT
}

/// Whether somebody else begins something with the pod, as far as the packet alone tells. Who began a
/// flow of datagrams it does not tell, so that where they are judged none come in.
#[inline(always)]
fn begins(packet: &Packet, place: &Place) -> bool {
    match packet.kind {
        Kind::Tcp => packet.opens(),
        Kind::Datagram => place.has(features::NON_TCP) && !super::other::link_control(packet),
        _ => false,
    }
}
