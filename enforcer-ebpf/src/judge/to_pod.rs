//! Packets towards a pod.

use super::{
    Action, Flows, Judgement, LocalPod, Namespace, Place, Socket, address_of, bequeath, enforce,
    inherit, inward, outward, readable,
    source::{self, Source},
};
use crate::{
    decide::{decide, pod_by_interface},
    event::Hook,
    flow::{FlowKey, MADE_BY_NOBODY},
    packet::{Kind, Packet, Part, protocol},
    reason::Reason,
    words::{Cell, Holder, Verdict, Words, header, options, pod, pod_flags},
};

/// Judges what leaves the node through a pod's host interface.
#[inline(always)]
pub fn judge_to_pod<W: Words + ?Sized, F: Flows>(
    packet: &Packet,
    words: &W,
    flows: &F,
    place: &Place,
) -> Judgement {
    if !readable(words) {
        return Judgement::drop(Reason::NoTable);
    }
    // The pod is found by its interface: a destination address may be anybody's choice.
    let at = pod_by_interface(words, place.interface);
    if at == 0 {
        return Judgement::pass(Reason::NotEnrolled);
    }
    let to = LocalPod::at(words, at);
    if !to.is(pod_flags::ENROLLED) {
        let mut judgement = Judgement::pass(Reason::NotEnrolled);
        judgement.slot = to.slot;
        return judgement;
    }
    if let Some(reason) = packet.reject {
        return enforce(words, &to, place, Judgement::drop(reason));
    }
    if !matches!(packet.kind, Kind::Tcp) {
        if packet.protocol == protocol::SELF_TEST && is_self_test(words, packet, place) {
            let mut judgement = Judgement::drop(Reason::SelfTest);
            judgement.slot = to.slot;
            return judgement;
        }
        return enforce(words, &to, place, not_tcp(words, packet));
    }
    if matches!(packet.part, Part::Later) {
        let inherited = inherit(packet, flows, place, Hook::ToPod);
        return enforce(words, &to, place, inherited);
    }
    let judgement = enforce(words, &to, place, tcp(words, flows, place, &to, packet));
    bequeath(packet, flows, place, Hook::ToPod, &judgement);
    judgement
}

/// The node asks whether this hook is on the pod's path. Nobody else may: an answer would mean nothing.
#[inline(always)]
fn is_self_test<W: Words + ?Sized>(words: &W, packet: &Packet, place: &Place) -> bool {
    let source = address_of(words, packet.v6, &packet.source);
    place.ingress == 0 && matches!(source.holder(), Holder::Node)
}

/// Policies speak of TCP. `--non-tcp=enforce` needs memory of who began a datagram flow, which does
/// not exist yet: until then it refuses them all but what keeps the link working.
#[inline(always)]
pub(super) fn not_tcp<W: Words + ?Sized>(words: &W, packet: &Packet) -> Judgement {
    if matches!(packet.kind, Kind::Arp) || link_control(packet) {
        return Judgement::pass(Reason::LinkControl);
    }
    if words.at(header::OPTIONS) & options::NON_TCP_ENFORCE != 0 {
        return Judgement::drop(Reason::Denied);
    }
    Judgement::pass(Reason::NonTcp)
}

/// Neighbour discovery, router and multicast listener messages, address configuration.
#[inline(always)]
pub(super) fn link_control(packet: &Packet) -> bool {
    if !matches!(packet.kind, Kind::Datagram) {
        return false;
    }
    if packet.v6 {
        let multicast = packet.destination[0] >> 24 == 0xff;
        let local = link_local(&packet.source) && (multicast || link_local(&packet.destination));
        let solicited = packet.protocol == protocol::ICMPV6 && unspecified(&packet.source);
        local || (solicited && multicast)
    } else {
        packet.source[3] == 0 && (packet.destination[3] >> 28 == 14 || packet.destination[3] == !0)
    }
}

#[inline(always)]
fn link_local(address: &[u32; 4]) -> bool {
    address[0] >> 22 == 0xfe80 >> 6
}

#[inline(always)]
fn unspecified(address: &[u32; 4]) -> bool {
    address[0] | address[1] | address[2] | address[3] == 0
}

#[inline(always)]
fn tcp<W: Words + ?Sized, F: Flows>(
    words: &W,
    flows: &F,
    place: &Place,
    to: &LocalPod,
    packet: &Packet,
) -> Judgement {
    let own = match address_of(words, packet.v6, &packet.destination).holder() {
        Holder::LocalPod(slot) => slot == to.slot,
        _ => false,
    };
    if !own && !to.is(pod_flags::GATEWAY) {
        return Judgement::drop(Reason::ForeignDestination);
    }
    let key = inward(packet);
    if place.ingress != 0 && (place.ingress == place.l7 || place.ingress == place.rejects) {
        return from_proxy(flows, packet, &key);
    }
    let source = match source::of(words, packet, place, to) {
        Ok(source) => source,
        Err(reason) => return Judgement::drop(reason),
    };
    let mut judgement = if packet.opens() {
        opening(words, flows, to, packet, &key, &source)
    } else {
        following(words, flows, to, packet, &key, &source)
    };
    judgement.masqueraded = source.lost;
    judgement
}

/// From one of the proxy's interfaces: only what belongs to a flow of the proxy, and the answers to
/// a policed local client of it. A reset is how refusals are told.
#[inline(always)]
fn from_proxy<F: Flows>(flows: &F, packet: &Packet, key: &FlowKey) -> Judgement {
    if packet.bare_reset() {
        return Judgement::pass(Reason::BareReset);
    }
    if flows.is_upstream(key) {
        return Judgement::pass(Reason::Upstream);
    }
    if flows.is_proxied(&outward(packet)) {
        return Judgement::pass(Reason::Proxied);
    }
    // A client that asked for a service address gets its answers from there.
    if flows.is_out(key) {
        return Judgement::pass(Reason::Outbound);
    }
    Judgement::drop(Reason::ForeignProxyPacket)
}

/// An opening segment is judged anew, unless it falls on a connection that is alive: a stale entry
/// must not capture a new flow, and a forged segment must not end a living one.
#[inline(always)]
fn opening<W: Words + ?Sized, F: Flows>(
    words: &W,
    flows: &F,
    to: &LocalPod,
    packet: &Packet,
    key: &FlowKey,
    source: &Source,
) -> Judgement {
    let mut held = false;
    if to.is(pod_flags::PROXIED) {
        let (proxied, upstream) = (flows.is_proxied(key), flows.is_upstream(key));
        if proxied && lives(flows, packet) {
            return Judgement::new(Action::Steer, Reason::Proxied, Cell::NOTHING);
        }
        // The leg to the pod may outlive the client's, and its socket is at the other end.
        held = upstream && lives(flows, &packet.reversed());
        if (proxied || upstream) && !held {
            flows.forget_proxied(key);
        }
    }
    if flows.is_out(key) {
        let namespace = Namespace::Pod(words.at(to.at + pod::NETNS_ID));
        match flows.socket(namespace, packet) {
            Socket::Dead => flows.forget_out(key),
            // Both sides open at once.
            Socket::Opening => return Judgement::pass(Reason::Outbound),
            Socket::Live => return Judgement::drop(Reason::SynOnLiveFlow),
        }
    }
    let (cell, allowed) = cell_for(words, to, packet, source);
    match cell.verdict() {
        // The pod would take it for a segment of the connection that the proxy holds. The proxy
        // opens another one for it, from another port.
        Verdict::Allow if held => {
            note_client(flows, to, key, source);
            Judgement::new(Action::Steer, Reason::Proxied, Cell::NOTHING)
        }
        Verdict::Allow => {
            note_maker(flows, key, source, false);
            Judgement::new(Action::Pass, allowed, cell)
        }
        Verdict::Ask => {
            note_client(flows, to, key, source);
            Judgement::new(Action::Steer, Reason::Steered, cell)
        }
        // The pod may be too new for the table: its next attempt will meet a newer one.
        Verdict::Deny if !source.known => Judgement::drop(Reason::UnknownIdentity),
        Verdict::Deny => Judgement::new(Action::Refuse, Reason::Denied, cell),
    }
}

/// The proxy has a socket that the packet would meet.
#[inline(always)]
fn lives<F: Flows>(flows: &F, packet: &Packet) -> bool {
    !matches!(flows.socket(Namespace::Proxy, packet), Socket::Dead)
}

/// Remembers of a client what the proxy, and its answers, need to know.
#[inline(always)]
fn note_client<F: Flows>(flows: &F, to: &LocalPod, key: &FlowKey, source: &Source) {
    note_maker(flows, key, source, true);
    if source.same_bridge && to.is(pod_flags::SWITCHED) {
        flows.note_switched(key);
    }
}

/// Remembers who begins a flow under an address that does not tell. The answers to a local pod are
/// judged by it, and the proxy knows its client by it: by the same identity as was judged here. The
/// node's own flows are remembered for the proxy alone, or their number would push out the pods'.
/// What was remembered of an earlier flow on the same tuple must not speak for this one.
#[inline(always)]
fn note_maker<F: Flows>(flows: &F, key: &FlowKey, source: &Source, asks: bool) {
    let by_pod = source.hidden && source.maker < MADE_BY_NOBODY;
    let stale = (asks || source.hidden) && flows.masqueraded_by(key).is_some();
    if by_pod || (asks && source.hidden) || stale {
        flows.note_masqueraded(key, source.maker);
    }
}

#[inline(always)]
fn following<W: Words + ?Sized, F: Flows>(
    words: &W,
    flows: &F,
    to: &LocalPod,
    packet: &Packet,
    key: &FlowKey,
    source: &Source,
) -> Judgement {
    // Before the table: it may allow by now what began through the proxy.
    if to.is(pod_flags::PROXIED) && (flows.is_proxied(key) || flows.is_upstream(key)) {
        return Judgement::new(Action::Steer, Reason::Proxied, Cell::NOTHING);
    }
    let (cell, allowed) = cell_for(words, to, packet, source);
    let verdict = cell.verdict();
    if matches!(verdict, Verdict::Allow) {
        return Judgement::new(Action::Pass, allowed, cell);
    }
    // Before "ask": rules without a port would catch the answers to the pod's own connections.
    if flows.is_out(key) {
        return Judgement::pass(Reason::Outbound);
    }
    if packet.bare_reset() {
        return Judgement::pass(Reason::BareReset);
    }
    if matches!(verdict, Verdict::Ask) {
        return Judgement::new(Action::Steer, Reason::Steered, cell);
    }
    let reason = if source.known {
        Reason::Denied
    } else {
        Reason::UnknownIdentity
    };
    Judgement::new(Action::Refuse, reason, cell)
}

/// The cell for the packet, and the reason if it allows. What the node itself sends is asked of the
/// pod's host scope first; it is not exempt.
#[inline(always)]
pub(super) fn cell_for<W: Words + ?Sized>(
    words: &W,
    to: &LocalPod,
    packet: &Packet,
    source: &Source,
) -> (Cell, Reason) {
    if !source.known {
        return (Cell::NOTHING, Reason::UnknownIdentity);
    }
    let port = u32::from(packet.destination_port);
    if source.node {
        let cell = decide(words, words.at(to.at + pod::HOST_SCOPE), source.class, port);
        if matches!(cell.verdict(), Verdict::Allow) {
            return (cell, Reason::HostProbe);
        }
    }
    let cell = decide(words, to.scope(words, packet), source.class, port);
    (cell, Reason::Allowed)
}
