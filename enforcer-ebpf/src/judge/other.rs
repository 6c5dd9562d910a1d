//! What is not TCP: errors about flows, datagrams, and what keeps the link working.
//!
//! **ICMP errors** are judged always, because TCP needs them: one that quotes a packet of a proxied
//! flow goes to the proxy, whose socket it is about; one about a flow that the pod began or that policy
//! allows passes; any other is dropped.
//!
//! **Datagrams** pass, unless the node runs with `--non-tcp=enforce`. Then the L4 part of the policies
//! applies to them: source and port for UDP, UDP-Lite, SCTP and DCCP; all others, ICMP among them, are
//! judged by source, as for a port that no rule names. What userspace would have to judge is refused.
//! A flow is judged by who began it, which for datagrams must be remembered on both sides: what a pod
//! sends first makes the flow its own, unless another was allowed to begin it; and in another's flow
//! the pod sends only as long as that one may. A flow of which nothing was sent for a minute is over.

use super::{
    Action, Finding, Flows, Judgement, LocalPod, Place, features, found,
    from_pod::spoofed,
    inherit, nobody, pod_behind, reply, source,
    to_pod::{cell_for, from_the_proxy, own},
};
use crate::{
    event::Hook,
    flow::{DatagramKey, FlowKey, MADE_BY_NOBODY},
    packet::{Kind, Packet, Part, protocol},
    reason::Reason,
    words::{Cell, Verdict, Words, pod_flags},
};

/// Finds the verdict for a packet that is not TCP, or that cannot be read, at one of a pod's hooks.
#[inline(always)]
pub fn find_other<W: Words + ?Sized, F: Flows>(
    packet: &Packet,
    words: &W,
    flows: &F,
    place: &Place,
    hook: Hook,
) -> Finding {
    let outgoing = matches!(hook, Hook::FromPod);
    let link = matches!(packet.kind, Kind::Arp | Kind::NotIp) || link_control(packet);
    let pod = match pod_behind(words, place) {
        Ok(pod) => pod,
        Err(finding) if outgoing && !link => return nobody::from(packet, words, place, finding),
        Err(finding) => return finding,
    };
    let enrolled = pod.is(pod_flags::ENROLLED);
    // Every pod's source addresses are guarded.
    if outgoing && packet.reject.is_none() && !link && spoofed(words, &pod, packet) {
        return found(words, &pod, Judgement::drop(Reason::SpoofedPodSource));
    }
    if !enrolled {
        return found(words, &pod, Judgement::pass(Reason::NotEnrolled));
    }
    if !outgoing && is_self_test(packet, place) {
        let mut judgement = Judgement::drop(Reason::SelfTest);
        judgement.slot = pod.slot;
        return Finding {
            judgement,
            options: 0,
            enrolled: false,
            paused: false,
        };
    }
    let judgement = if let Some(reason) = packet.reject {
        Judgement::drop(reason)
    } else if matches!(packet.kind, Kind::Arp | Kind::Neighbour) || link_control(packet) {
        Judgement::pass(Reason::LinkControl)
    } else if matches!(packet.kind, Kind::Error) {
        let key = key(packet, outgoing);
        if !own(words, &pod, packet.v6, &key.flow.pod) {
            Judgement::drop(Reason::ForeignError)
        } else if key.protocol == u32::from(protocol::TCP) {
            error(words, flows, place, &pod, packet.v6, outgoing, &key.flow)
        } else {
            error_about_datagram(words, flows, place, &pod, packet.v6, &key)
        }
    } else if !place.has(features::NON_TCP) {
        Judgement::pass(Reason::NonTcp)
    } else if matches!(packet.kind, Kind::NotIp) {
        // Policies have no words for it.
        Judgement::drop(Reason::Denied)
    } else if matches!(packet.part, Part::Later) {
        inherit(packet, flows, place, hook)
    } else if outgoing {
        datagram_out(words, flows, &pod, packet, &key(packet, true))
    } else {
        datagram_in(words, flows, place, &pod, packet, &key(packet, false))
    };
    found(words, &pod, judgement)
}

/// The node asks whether this hook is on the pod's path. Inside, where the way in is not seen, others
/// can ask as well: what they learn to the node's mind is that the hook is on theirs.
#[inline(always)]
fn is_self_test(packet: &Packet, place: &Place) -> bool {
    packet.protocol == protocol::SELF_TEST && place.ingress == 0
}

/// Neighbour discovery, router and multicast listener messages, address configuration, under addresses
/// that are good for the link alone. Pods of a bridge find their neighbours from their own addresses, too:
/// that is [`Kind::Neighbour`], of which the source is guarded.
#[inline(always)]
pub(super) fn link_control(packet: &Packet) -> bool {
    if !matches!(packet.kind, Kind::Datagram | Kind::Error | Kind::Neighbour) {
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

/// The flow that a packet belongs to, or that an error is about.
#[inline(always)]
fn key(packet: &Packet, outgoing: bool) -> DatagramKey {
    let error = matches!(packet.kind, Kind::Error);
    // An error goes back to who sent the packet that it quotes.
    let from = if error { packet.quoted } else { packet.source };
    let flow = if outgoing {
        FlowKey {
            pod: from,
            remote: packet.destination,
            pod_port: packet.source_port,
            remote_port: packet.destination_port,
        }
    } else {
        FlowKey {
            pod: packet.destination,
            remote: from,
            pod_port: packet.destination_port,
            remote_port: packet.source_port,
        }
    };
    let protocol = if error {
        packet.quoted_protocol
    } else {
        packet.protocol
    };
    DatagramKey {
        flow,
        protocol: protocol as u32,
    }
}

/// The port that policies are asked for. What has none is asked about as for one that no rule names.
#[inline(always)]
fn port(key: &DatagramKey) -> u32 {
    if protocol::has_ports((key.protocol & 0xff) as u8) {
        key.flow.pod_port as u32
    } else {
        0
    }
}

/// An error goes where the flow is that it is about, and nowhere if that is none: told to the pod, an
/// error about the proxy's connection would leave the proxy sending segments too large for the path.
/// Who sends it does not matter; any router may.
#[inline(always)]
fn error<W: Words + ?Sized, F: Flows>(
    words: &W,
    flows: &F,
    place: &Place,
    pod: &LocalPod,
    v6: bool,
    outgoing: bool,
    key: &FlowKey,
) -> Judgement {
    if !outgoing && from_the_proxy(place) {
        return match flows.is_upstream(key) || flows.is_out(key) {
            true => Judgement::pass(Reason::Upstream),
            false => Judgement::drop(Reason::ForeignProxyPacket),
        };
    }
    if pod.is(pod_flags::PROXIED) && (flows.is_proxied(key) || flows.is_upstream(key)) {
        let action = match outgoing {
            true => Action::ToProxy,
            false => Action::Steer,
        };
        return Judgement::new(action, Reason::Proxied, Cell::NOTHING);
    }
    if flows.is_out(key) {
        return Judgement::pass(Reason::Outbound);
    }
    let cell = reply::judge(words, flows, pod, v6, key, key.pod_port as u32).cell;
    match cell.verdict() {
        Verdict::Allow => Judgement::new(Action::Pass, Reason::Allowed, cell),
        // The proxy answers for the pod before it has accepted.
        Verdict::Ask if !outgoing => Judgement::new(Action::Steer, Reason::Steered, cell),
        _ => Judgement::new(Action::Drop, Reason::ForeignError, cell),
    }
}

#[inline(always)]
fn error_about_datagram<W: Words + ?Sized, F: Flows>(
    words: &W,
    flows: &F,
    place: &Place,
    pod: &LocalPod,
    v6: bool,
    key: &DatagramKey,
) -> Judgement {
    if key.protocol == 0 {
        return Judgement::drop(Reason::ForeignError);
    }
    if !place.has(features::NON_TCP) {
        return Judgement::pass(Reason::NonTcp);
    }
    if flows.is_datagram_out(key) {
        return Judgement::pass(Reason::Outbound);
    }
    let cell = reply::judge(words, flows, pod, v6, &key.flow, port(key)).cell;
    match cell.verdict() {
        Verdict::Allow => Judgement::new(Action::Pass, Reason::Allowed, cell),
        _ => Judgement::new(Action::Drop, Reason::ForeignError, cell),
    }
}

#[inline(always)]
fn datagram_in<W: Words + ?Sized, F: Flows>(
    words: &W,
    flows: &F,
    place: &Place,
    to: &LocalPod,
    packet: &Packet,
    key: &DatagramKey,
) -> Judgement {
    if !own(words, to, packet.v6, &packet.destination) {
        return Judgement::drop(Reason::ForeignDestination);
    }
    if from_the_proxy(place) {
        return Judgement::drop(Reason::ForeignProxyPacket);
    }
    let source = match source::of(words, packet, place, to) {
        Ok(source) => source,
        Err(reason) => return Judgement::drop(reason),
    };
    let mut judgement = if flows.is_datagram_out(key) {
        Judgement::pass(Reason::Outbound)
    } else {
        let (cell, allowed) = cell_for(words, to, packet, &source);
        match cell.verdict() {
            Verdict::Allow => {
                flows.note_datagram_in(key, source.maker);
                Judgement::new(Action::Pass, allowed, cell)
            }
            Verdict::Deny if !source.known() => Judgement::drop(Reason::UnknownIdentity),
            Verdict::Ask => Judgement::new(Action::Drop, Reason::DatagramNeedsProxy, cell),
            Verdict::Deny => Judgement::new(Action::Drop, Reason::Denied, cell),
        }
    };
    judgement.masqueraded = source.lost();
    judgement
}

#[inline(always)]
fn datagram_out<W: Words + ?Sized, F: Flows>(
    words: &W,
    flows: &F,
    from: &LocalPod,
    packet: &Packet,
    key: &DatagramKey,
) -> Judgement {
    if flows.is_datagram_out(key) {
        return Judgement::pass(Reason::Outbound);
    }
    let began = flows.datagram_in(key);
    // An answer begins nothing.
    let begins = began.is_none() && !packet.answers;
    if begins && flows.open_datagram(key, from.slot) {
        return Judgement::pass(Reason::OutboundOpened);
    }
    let maker = began.unwrap_or(MADE_BY_NOBODY);
    let answer = if maker < MADE_BY_NOBODY {
        let class = reply::class_of_maker(words, packet.v6, maker, 0);
        reply::by_class(words, from, packet.v6, class, port(key))
    } else {
        reply::judge(words, flows, from, packet.v6, &key.flow, port(key))
    };
    let cell = answer.cell;
    if matches!(cell.verdict(), Verdict::Allow) {
        if began.is_some() {
            flows.note_datagram_in(key, maker);
        }
        return Judgement::new(Action::Pass, answer.reason, cell);
    }
    let reason = if begins {
        Reason::OutboundQuota
    } else {
        answer.reason
    };
    Judgement::new(Action::Drop, reason, cell)
}
