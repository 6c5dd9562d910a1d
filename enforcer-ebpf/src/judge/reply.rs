//! What a pod answers within a flow that another began: judged by the verdict for the other's
//! packets. After a DENY the pod must not go on sending.

use super::{Flows, LocalPod, address_of, source::class_of};
use crate::{
    decide::{decide, pod_by_slot},
    flow::FlowKey,
    reason::Reason,
    words::{Cell, Holder, Verdict, Words, pod},
};

/// The verdict for the flow's packets towards the pod.
#[derive(Clone, Copy)]
pub(crate) struct Reply {
    pub cell: Cell,
    /// Why the answer passes, if the cell allows; else why it is refused.
    pub reason: Reason,
}

/// Judges a flow by who is at its other end. `port` is what policies are asked for: the pod's, or 0.
#[inline(always)]
pub(crate) fn judge<W: Words + ?Sized, F: Flows>(
    words: &W,
    flows: &F,
    pod_: &LocalPod,
    v6: bool,
    key: &FlowKey,
    port: u32,
) -> Reply {
    let remote = address_of(words, v6, &key.remote);
    let mut class = words.opaque(remote.class());
    match remote.holder() {
        Holder::Unknown => {
            return Reply {
                cell: Cell::NOTHING,
                reason: Reason::UnknownIdentity,
            };
        }
        Holder::Node => {
            let host = decide(words, words.at(pod_.at + pod::HOST_SCOPE), class, port);
            if matches!(host.verdict(), Verdict::Allow) {
                return Reply {
                    cell: host,
                    reason: Reason::HostProbe,
                };
            }
            // The request may have been a local pod's, under the node's address.
            if let Some(slot) = flows.masqueraded_by(key) {
                class = class_of_maker(words, v6, slot, class);
            }
        }
        _ => {}
    }
    by_class(words, pod_, v6, class, port)
}

/// Judges a flow by the class of who began it.
#[inline(always)]
pub(crate) fn by_class<W: Words + ?Sized>(
    words: &W,
    pod: &LocalPod,
    v6: bool,
    class: u32,
    port: u32,
) -> Reply {
    let cell = decide(words, pod.scope(words, v6), words.opaque(class), port);
    let reason = match cell.verdict() {
        Verdict::Allow => Reason::Allowed,
        _ => Reason::ReplyRefused,
    };
    Reply { cell, reason }
}

/// The class of the local pod in `slot`, or `other` when there is none.
#[inline(always)]
pub(crate) fn class_of_maker<W: Words + ?Sized>(words: &W, v6: bool, slot: u32, other: u32) -> u32 {
    match pod_by_slot(words, slot) {
        0 => other,
        maker => class_of(words, maker, v6),
    }
}
