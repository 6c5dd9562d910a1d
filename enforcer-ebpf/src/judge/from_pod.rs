//! Packets away from a pod.

use super::{
    Action, Flows, Judgement, LocalPod, Place, address_of, bequeath, enforce, inherit, outward,
    readable,
    to_pod::{link_control, not_tcp},
};
use crate::{
    decide::{decide, pod_by_interface, pod_by_slot},
    event::Hook,
    flow::FlowKey,
    packet::{Kind, Packet, Part},
    reason::Reason,
    words::{Cell, Holder, Verdict, Words, pod, pod_flags},
};

/// Judges what enters the node through a pod's host interface. Every local pod's source addresses
/// are guarded, also those of a pod without policies: other pods' verdicts rest on them.
#[inline(always)]
pub fn judge_from_pod<W: Words + ?Sized, F: Flows>(
    packet: &Packet,
    words: &W,
    flows: &F,
    place: &Place,
) -> Judgement {
    if !readable(words) {
        return Judgement::drop(Reason::NoTable);
    }
    let at = pod_by_interface(words, place.interface);
    if at == 0 {
        return Judgement::pass(Reason::NotEnrolled);
    }
    let from = LocalPod::at(words, at);
    let enrolled = from.is(pod_flags::ENROLLED);
    let mut judgement = Judgement::pass(Reason::NotEnrolled);
    judgement.slot = from.slot;
    if let Some(reason) = packet.reject {
        return if enrolled {
            enforce(words, &from, place, Judgement::drop(reason))
        } else {
            judgement
        };
    }
    if spoofed(words, &from, packet) {
        let spoofed = Judgement::drop(Reason::SpoofedPodSource);
        return enforce(words, &from, place, spoofed);
    }
    if !enrolled {
        return judgement;
    }
    if !matches!(packet.kind, Kind::Tcp) {
        return enforce(words, &from, place, not_tcp(words, packet));
    }
    if matches!(packet.part, Part::Later) {
        let inherited = inherit(packet, flows, place, Hook::FromPod);
        return enforce(words, &from, place, inherited);
    }
    let judgement = enforce(words, &from, place, tcp(words, flows, &from, packet));
    bequeath(packet, flows, place, Hook::FromPod, &judgement);
    judgement
}

/// The pod sends from an address that is not its own. A link-local address is as good as any other
/// to forge: only what keeps the link working may use it.
#[inline(always)]
fn spoofed<W: Words + ?Sized>(words: &W, from: &LocalPod, packet: &Packet) -> bool {
    if matches!(packet.kind, Kind::Arp | Kind::NotIp) || link_control(packet) {
        return false;
    }
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
    if flows.is_out(&key) {
        return Judgement::pass(Reason::Outbound);
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
    let remote = address_of(words, packet.v6, &packet.destination);
    let holder = remote.holder();
    let port = u32::from(packet.source_port);
    let mut class = remote.class();
    let mut cell = Cell::NOTHING;
    if matches!(holder, Holder::Node) {
        let host = decide(words, words.at(from.at + pod::HOST_SCOPE), class, port);
        if matches!(host.verdict(), Verdict::Allow) {
            return Judgement::new(Action::Pass, Reason::HostProbe, host);
        }
        // The request may have been a local pod's, under the node's address.
        if let Some(slot) = flows.masqueraded_by(key) {
            let sender = pod_by_slot(words, slot);
            if sender != 0 {
                let word = if packet.v6 {
                    pod::CLASS_V6
                } else {
                    pod::CLASS_V4
                };
                class = words.at(sender + word) & 0xffff;
            }
        }
    }
    if !matches!(holder, Holder::Unknown) {
        cell = decide(words, from.scope(words, packet), class, port);
    }
    if matches!(cell.verdict(), Verdict::Allow) {
        return Judgement::new(Action::Pass, Reason::Allowed, cell);
    }
    if packet.bare_reset() {
        return Judgement::pass(Reason::BareReset);
    }
    let reason = if matches!(holder, Holder::Unknown) {
        Reason::UnknownIdentity
    } else {
        Reason::ReplyRefused
    };
    Judgement::new(Action::Refuse, reason, cell)
}
