//! Times in which pods are not hindered, as words of a table that is not in force yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use enforcer_ebpf::words::{header, options, pod, pod_flags};

use super::{Before, Prepared};
use crate::inventory::PodName;

/// How long the connections that a pod has open may be looked for, before it is policed without
/// them: so long it is open when the agent is killed just then.
const SEEDING_MAX: Duration = Duration::from_secs(60);

impl Prepared {
    /// Lets the packets of those of these pods that are policed be judged and reported, and none be
    /// refused, until their flags are cleared or [`SEEDING_MAX`] is over. Returns which they are.
    pub fn seed(&mut self, pods: &BTreeSet<PodName>) -> BTreeSet<PodName> {
        let until = until(SEEDING_MAX);
        let mut seeding = BTreeSet::new();
        for (name, at) in self.policed() {
            if pods.contains(&name) {
                self.linked.words[at + pod::SEEDING_UNTIL as usize] = until;
                self.linked.words[at + pod::FLAGS as usize] |= pod_flags::SEEDING;
                seeding.insert(name);
            }
        }
        seeding
    }

    /// Pauses go on, whoever has made them.
    pub(super) fn pause(&mut self, before: &Before, slots: &BTreeMap<PodName, u32>) {
        let paused = before.paused(slots);
        for (name, at) in self.policed() {
            if let Some(until) = paused.get(&name) {
                self.linked.words[at + pod::PAUSED_UNTIL as usize] = *until;
                self.linked.words[at + pod::FLAGS as usize] |= pod_flags::PAUSED;
            }
        }
        if let Some(until) = before.all_paused_until() {
            self.linked.words[header::PAUSED_UNTIL as usize] = until;
            self.linked.words[header::OPTIONS as usize] |= options::PAUSED;
        }
    }

    /// The policed pods, and where their words begin.
    fn policed(&self) -> Vec<(PodName, usize)> {
        let first = self.linked.words[header::PODS as usize];
        let policed = self.linked.pods.iter().filter(|pod| pod.enrolled);
        policed
            .map(|pod| {
                let at = first + pod.slot * pod::WORDS;
                ((pod.namespace.clone(), pod.name.clone()), at as usize)
            })
            .collect()
    }
}

/// Seconds since boot, as the kernel counts them.
pub fn seconds_since_boot() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u32::try_from(now.tv_sec).unwrap_or(u32::MAX)
}

/// The last second since boot of a time that begins now.
pub fn until(time: Duration) -> u32 {
    let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    // The second that has begun already does not count.
    seconds_since_boot().saturating_add(seconds)
}
