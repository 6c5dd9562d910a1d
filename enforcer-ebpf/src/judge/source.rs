//! Who sent a packet: its source class, or the reason why it cannot be who it says.

use super::{LocalPod, Place, address_of, features};
use crate::{
    decide::{equal, pod_by_interface, pod_by_slot},
    flow::{MADE_BY_NOBODY, MADE_BY_NODE},
    packet::Packet,
    reason::Reason,
    words::{Holder, UPLINKS_MAX, Words, header, pod, pod_flags},
};

/// The sender of a packet to a pod.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub class: u32,
    /// False for an address within the pods' ranges that no pod is known to hold.
    pub known: bool,
    /// The node itself sent it.
    pub node: bool,
    /// Who sent it from an address that is not its own: a local pod's slot, [`MADE_BY_NODE`] or
    /// [`MADE_BY_NOBODY`].
    pub maker: u32,
    /// The address does not tell who sent it: it is the node's, or one that the node has put in the
    /// place of a local pod's.
    pub hidden: bool,
    /// It came through a bridge from the node's address, so the sender is lost.
    pub lost: bool,
    /// It came in through a port of the bridge that the destination is a port of.
    pub same_bridge: bool,
}

/// Judges the source of a packet to `to`.
#[inline(always)]
pub(crate) fn of<W: Words + ?Sized>(
    words: &W,
    packet: &Packet,
    place: &Place,
    to: &LocalPod,
) -> Result<Source, Reason> {
    let address = address_of(words, packet.v6, &packet.source);
    let sender = pod_by_interface(words, place.ingress);
    let bridge = words.at(to.at + pod::BRIDGE);
    let mut source = Source {
        class: address.class(),
        known: true,
        node: false,
        maker: MADE_BY_NOBODY,
        hidden: false,
        lost: false,
        same_bridge: sender != 0 && bridge != 0 && words.at(sender + pod::BRIDGE) == bridge,
    };
    if let Holder::LocalPod(slot) = address.holder() {
        let owner = pod_by_slot(words, slot);
        // Same-bridge traffic that the node routes shows the bridge as its way in.
        let own = owner != 0
            && (place.has(features::INSIDE)
                || sender == owner
                || (place.ingress != 0 && words.at(owner + pod::BRIDGE) == place.ingress));
        return if own {
            Ok(source)
        } else {
            Err(Reason::SpoofedLocalSource)
        };
    }
    if sender != 0 && words.at(sender + pod::FLAGS) & pod_flags::GATEWAY == 0 {
        // What came in through a pod's interface was guarded there, so an address that is not the
        // pod's is the node's translation. The identity is the interface's.
        let sender = LocalPod::at(words, sender);
        source.class = words.at(sender.at
            + if packet.v6 {
                pod::CLASS_V6
            } else {
                pod::CLASS_V4
            })
            & 0xffff;
        source.maker = sender.slot;
        source.hidden = true;
        return Ok(source);
    }
    match address.holder() {
        Holder::Node => {
            source.node = place.ingress == 0;
            source.lost = bridge != 0 && place.ingress == bridge;
            source.hidden = true;
            if source.node {
                source.maker = MADE_BY_NODE;
            }
        }
        Holder::RemotePod if place.has(features::UPLINKS) && !trusted(words, place) => {
            return Err(Reason::UntrustedPath);
        }
        Holder::Unknown => source.known = false,
        _ => {}
    }
    Ok(source)
}

/// Whether a packet came in where pods of other nodes are believed to be who they say.
#[inline(always)]
fn trusted<W: Words + ?Sized>(words: &W, place: &Place) -> bool {
    let mut found = 0;
    let mut i = 0;
    while i < UPLINKS_MAX {
        found |= equal(words.at(header::UPLINKS + i), place.ingress);
        i += 1;
    }
    // An empty word is no interface, and 0 is the node itself.
    place.ingress != 0 && found != 0
}
