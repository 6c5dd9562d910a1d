//! What another table would say: asked beside the one that judges, with no effect on anything.

use super::{LocalPod, Place, readable, source, to_pod::cell_for};
use crate::{
    decide::pod_by_interface,
    packet::Packet,
    words::{Cell, Words, pod_flags},
};

/// The cell that a table holds for a TCP segment to the pod behind `place.interface`, or `None`
/// where it does not police that pod or would not come to ask its cells.
#[inline(always)]
pub fn cell_to_pod<W: Words + ?Sized>(packet: &Packet, words: &W, place: &Place) -> Option<Cell> {
    if !readable(words) {
        return None;
    }
    let at = pod_by_interface(words, place.interface);
    if at == 0 {
        return None;
    }
    let to = LocalPod::at(words, at);
    if !to.is(pod_flags::ENROLLED) {
        return None;
    }
    let source = source::of(words, packet, place, &to).ok()?;
    Some(cell_for(words, &to, packet, &source).0)
}
