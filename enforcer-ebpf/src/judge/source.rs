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
    /// Who sent it from an address that is not its own: a local pod's slot, [`MADE_BY_NODE`] or
    /// [`MADE_BY_NOBODY`].
    pub maker: u32,
    /// Bits of [`bits`].
    bits: u32,
}

/// What is true of a sender.
mod bits {
    /// The address is within the pods' ranges, and no pod is known to hold it.
    pub const STRANGER: u32 = 1 << 0;
    /// The node itself sent it.
    pub const NODE: u32 = 1 << 1;
    /// The address does not tell who sent it: it is the node's, or one that the node has put in the
    /// place of a local pod's.
    pub const HIDDEN: u32 = 1 << 2;
    /// It came through a bridge from the node's address, so the sender is lost.
    pub const LOST: u32 = 1 << 3;
    /// It came in through a port of the bridge that the destination is a port of.
    pub const SAME_BRIDGE: u32 = 1 << 4;
}

impl Source {
    /// Some pod, or somebody who is none, is known to hold the address.
    #[inline(always)]
    pub fn known(&self) -> bool {
        self.bits & bits::STRANGER == 0
    }
    /// The node itself sent it.
    #[inline(always)]
    pub fn node(&self) -> bool {
        self.bits & bits::NODE != 0
    }
    /// The address does not tell who sent it.
    #[inline(always)]
    pub fn hidden(&self) -> bool {
        self.bits & bits::HIDDEN != 0
    }
    /// It came through a bridge from the node's address, so the sender is lost.
    #[inline(always)]
    pub fn lost(&self) -> bool {
        self.bits & bits::LOST != 0
    }
    /// It came in through a port of the bridge that the destination is a port of.
    #[inline(always)]
    pub fn same_bridge(&self) -> bool {
        self.bits & bits::SAME_BRIDGE != 0
    }
}

/// Judges the source of a packet to `to`.
#[inline(always)]
pub(crate) fn of<W: Words + ?Sized>(
    words: &W,
    packet: &Packet,
    place: &Place,
    to: &LocalPod,
) -> Result<Source, Reason> {
    let found = find(words, packet, place, to)?;
    // VERIFIER: the ways to know a sender must not multiply with the ways to judge it.
    Ok(Source {
        class: words.opaque(found.class),
        maker: words.opaque(found.maker),
        bits: words.opaque(found.bits),
    })
}

#[inline(always)]
fn find<W: Words + ?Sized>(
    words: &W,
    packet: &Packet,
    place: &Place,
    to: &LocalPod,
) -> Result<Source, Reason> {
    let address = address_of(words, packet.v6, &packet.source);
    let sender = pod_by_interface(words, place.ingress);
    let bridge = words.at(to.at + pod::BRIDGE);
    // VERIFIER: without a branch, which would have all that follows walked twice.
    let same_bridge = equal(words.at(sender + pod::BRIDGE), bridge);
    let known = !equal(sender, 0) & !equal(bridge, 0);
    let mut source = Source {
        class: address.class(),
        maker: MADE_BY_NOBODY,
        bits: same_bridge & known & bits::SAME_BRIDGE,
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
        source.class = class_of(words, sender.at, packet.v6);
        source.maker = sender.slot;
        source.bits |= bits::HIDDEN;
        return Ok(source);
    }
    match address.holder() {
        Holder::Node => {
            source.bits |= bits::HIDDEN;
            if bridge != 0 && place.ingress == bridge {
                source.bits |= bits::LOST;
            }
            if place.ingress == 0 {
                source.bits |= bits::NODE;
                source.maker = MADE_BY_NODE;
            }
        }
        Holder::RemotePod if place.has(features::UPLINKS) && !trusted(words, place) => {
            return Err(Reason::UntrustedPath);
        }
        Holder::Unknown => source.bits |= bits::STRANGER,
        _ => {}
    }
    Ok(source)
}

/// The class of the local pod at an offset.
#[inline(always)]
pub(crate) fn class_of<W: Words + ?Sized>(words: &W, pod_at: u32, v6: bool) -> u32 {
    words.at(pod_at + if v6 { pod::CLASS_V6 } else { pod::CLASS_V4 }) & 0xffff
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
