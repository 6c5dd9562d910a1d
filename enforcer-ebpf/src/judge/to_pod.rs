//! Packets towards a pod.

use super::{
    Action, Finding, Flows, Judgement, LocalPod, Namespace, Place, Socket, Way, address_of,
    features, found, inherit, inward, outward, pod_behind,
    source::{self, Source},
};
use crate::{
    decide::decide,
    event::Hook,
    flow::{FlowKey, MADE_BY_NOBODY},
    packet::{Packet, Part},
    reason::Reason,
    words::{Cell, Holder, Verdict, Words, pod, pod_flags},
};

/// Finds the verdict for TCP that leaves the node through a pod's host interface.
#[inline(always)]
pub fn find_to_pod<W: Words + ?Sized, F: Flows>(
    packet: &Packet,
    words: &W,
    flows: &F,
    place: &Place,
) -> Finding {
    let to = match pod_behind(words, place) {
        Ok(pod) => pod,
        Err(finding) => return finding,
    };
    // VERIFIER: one place to conclude at.
    let judgement = if !to.is(pod_flags::ENROLLED) {
        Judgement::pass(Reason::NotEnrolled)
    } else if matches!(packet.part, Part::Later) {
        inherit(packet, flows, place, Hook::ToPod)
    } else {
        tcp(words, flows, place, &to, packet)
    };
    found(words, &spared(to, packet, place), judgement)
}

/// The pod, as far as it is not to be hindered while the connections that it has open are being found:
/// one that is opened now is none of these. Nobody gets in between unknown and policed.
#[inline(always)]
fn spared(mut to: LocalPod, packet: &Packet, place: &Place) -> LocalPod {
    if place.has(features::UNKNOWN_PODS) && packet.opens() {
        to.flags &= !pod_flags::SEEDING;
    }
    to
}

#[inline(always)]
fn tcp<W: Words + ?Sized, F: Flows>(
    words: &W,
    flows: &F,
    place: &Place,
    to: &LocalPod,
    packet: &Packet,
) -> Judgement {
    if !own(words, to, packet.v6, &packet.destination) {
        return Judgement::drop(Reason::ForeignDestination);
    }
    let key = inward(packet);
    if from_the_proxy(place) {
        return from_proxy(flows, packet, &key);
    }
    let source = match source::of(words, packet, place, to) {
        Ok(source) => source,
        Err(reason) => return Judgement::drop(reason),
    };
    let opens = packet.opens();
    let known = if opens {
        before_opening(words, flows, to, packet, &key)
    } else {
        before_following(flows, to, &key)
    };
    let mut judgement = match known {
        Err(judgement) => judgement,
        // VERIFIER: the table is asked at one place, and not in another way for each that leads there.
        Ok(held) => {
            let (opens, held) = (opaque(words, opens), opaque(words, held));
            let (cell, allowed) = cell_for(words, to, packet, &source);
            if opens {
                opening(flows, to, &key, &source, held, cell, allowed)
            } else {
                following(flows, packet, &key, &source, cell, allowed)
            }
        }
    };
    if matches!(judgement.action, Action::Refuse) {
        note_switched(flows, to, &key, &source);
    }
    judgement.masqueraded = source.lost();
    judgement
}

#[inline(always)]
fn opaque<W: Words + ?Sized>(words: &W, is: bool) -> bool {
    words.opaque(u32::from(is)) != 0
}

/// Whether an address is one of the pod's; a gateway forwards for any.
#[inline(always)]
pub(super) fn own<W: Words + ?Sized>(
    words: &W,
    pod: &LocalPod,
    v6: bool,
    address: &[u32; 4],
) -> bool {
    let own = match address_of(words, v6, address).holder() {
        Holder::LocalPod(slot) => slot == pod.slot,
        _ => false,
    };
    own || pod.is(pod_flags::GATEWAY)
}

/// Whether a packet came in through one of the proxy's interfaces.
#[inline(always)]
pub(super) fn from_the_proxy(place: &Place) -> bool {
    place.ingress != 0 && (place.ingress == place.l7 || place.ingress == place.rejects)
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
/// must not capture a new flow, and a forged segment must not end a living one. Whether the proxy
/// holds a leg of its own on the tuple.
#[inline(always)]
fn before_opening<W: Words + ?Sized, F: Flows>(
    words: &W,
    flows: &F,
    to: &LocalPod,
    packet: &Packet,
    key: &FlowKey,
) -> Result<bool, Judgement> {
    let mut held = false;
    if to.is(pod_flags::PROXIED) {
        let (proxied, upstream) = (flows.is_proxied(key), flows.is_upstream(key));
        if proxied && lives(flows, packet, key, Way::ToPod) {
            let proxied = Judgement::new(Action::Steer, Reason::Proxied, Cell::NOTHING);
            return Err(proxied);
        }
        // The leg to the pod may outlive the client's, and its socket is at the other end.
        held = upstream && lives(flows, packet, key, Way::FromPod);
        if (proxied || upstream) && !held {
            flows.forget_proxied(key);
        }
    }
    if flows.is_out(key) {
        let namespace = Namespace::Pod(words.at(to.at + pod::NETNS_ID));
        match flows.socket(namespace, key, packet.v6, Way::ToPod) {
            Socket::Dead => flows.forget_out(key),
            // Both sides open at once.
            Socket::Opening => return Err(Judgement::pass(Reason::Outbound)),
            Socket::Live => return Err(Judgement::drop(Reason::SynOnLiveFlow)),
        }
    }
    Ok(held)
}

#[inline(always)]
fn opening<F: Flows>(
    flows: &F,
    to: &LocalPod,
    key: &FlowKey,
    source: &Source,
    held: bool,
    cell: Cell,
    allowed: Reason,
) -> Judgement {
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
        Verdict::Deny if !source.known() => Judgement::drop(Reason::UnknownIdentity),
        Verdict::Deny => Judgement::new(Action::Refuse, Reason::Denied, cell),
    }
}

/// The proxy has a socket that the packet would meet.
#[inline(always)]
fn lives<F: Flows>(flows: &F, packet: &Packet, key: &FlowKey, way: Way) -> bool {
    let socket = flows.socket(Namespace::Proxy, key, packet.v6, way);
    !matches!(socket, Socket::Dead)
}

/// Remembers of a client what the proxy, and its answers, need to know.
#[inline(always)]
fn note_client<F: Flows>(flows: &F, to: &LocalPod, key: &FlowKey, source: &Source) {
    note_maker(flows, key, source, true);
    note_switched(flows, to, key, source);
}

/// Remembers that the node's stack knows nothing of a flow, and would take what is answered through
/// it for invalid: the proxy's answers, and the reset of a refusal.
#[inline(always)]
fn note_switched<F: Flows>(flows: &F, to: &LocalPod, key: &FlowKey, source: &Source) {
    if source.same_bridge() && to.is(pod_flags::SWITCHED) {
        flows.note_switched(key);
    }
}

/// Remembers who begins a flow under an address that does not tell. The answers to a local pod are
/// judged by it, and the proxy knows its client by it: by the same identity as was judged here. The
/// node's own flows are remembered for the proxy alone, or their number would push out the pods'.
/// What was remembered of an earlier flow on the same tuple must not speak for this one.
#[inline(always)]
fn note_maker<F: Flows>(flows: &F, key: &FlowKey, source: &Source, asks: bool) {
    let by_pod = source.hidden() && source.maker < MADE_BY_NOBODY;
    let stale = (asks || source.hidden()) && flows.masqueraded_by(key).is_some();
    if by_pod || (asks && source.hidden()) || stale {
        flows.note_masqueraded(key, source.maker);
    }
}

/// Before the table: it may allow by now what began through the proxy.
#[inline(always)]
fn before_following<F: Flows>(flows: &F, to: &LocalPod, key: &FlowKey) -> Result<bool, Judgement> {
    if to.is(pod_flags::PROXIED) && (flows.is_proxied(key) || flows.is_upstream(key)) {
        let proxied = Judgement::new(Action::Steer, Reason::Proxied, Cell::NOTHING);
        return Err(proxied);
    }
    Ok(false)
}

#[inline(always)]
fn following<F: Flows>(
    flows: &F,
    packet: &Packet,
    key: &FlowKey,
    source: &Source,
    cell: Cell,
    allowed: Reason,
) -> Judgement {
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
    let reason = if source.known() {
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
    if !source.known() {
        return (Cell::NOTHING, Reason::UnknownIdentity);
    }
    let port = packet.judged_port();
    if source.node() {
        let cell = decide(words, words.at(to.at + pod::HOST_SCOPE), source.class, port);
        if matches!(cell.verdict(), Verdict::Allow) {
            return (cell, Reason::HostProbe);
        }
    }
    let cell = decide(words, to.scope(words, packet.v6), source.class, port);
    (cell, Reason::Allowed)
}
