//! Break-glass: a pod, or every pod, is judged and reported and not refused, for a time that only
//! the table knows. No agent is needed to end it.

use super::LocalPod;
use crate::{
    reason::Reason,
    words::{Words, header, options, pod, pod_flags},
};

/// Whether what was judged must not be hindered. `options` are the table's.
// Asked only of what would be hindered, so that it costs an allowed packet nothing.
#[inline(always)]
pub(super) fn holds<W: Words + ?Sized>(
    words: &W,
    pod: &LocalPod,
    options: u32,
    reason: Reason,
) -> bool {
    let flags = pod.flags & (pod_flags::PAUSED | pod_flags::SEEDING);
    let everybody = options & options::PAUSED;
    // Other pods' verdicts, here and on other nodes, rest on the addresses that this one sends from.
    if flags | everybody == 0 || matches!(reason, Reason::SpoofedPodSource) {
        return false;
    }
    let now = words.seconds();
    (everybody != 0 && now <= words.at(header::PAUSED_UNTIL))
        || (flags & pod_flags::PAUSED != 0 && now <= words.at(pod.at + pod::PAUSED_UNTIL))
        || (flags & pod_flags::SEEDING != 0 && now <= words.at(pod.at + pod::SEEDING_UNTIL))
}
