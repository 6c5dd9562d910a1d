//! What a table hands on to the one that follows it: the number of the activation, the slots of the
//! pods, and the flags that outlive an activation.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_ebpf::words::{header, pod, pod_flags};
use policyc::link::LinkedPod;

use crate::{
    inventory::{Inventory, LocalPod, PodName},
    table::Tables,
};

/// The table that judges now, or nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Before {
    pub epoch: u32,
    /// By slot.
    pods: Vec<PodBefore>,
    /// Last second since boot of a pause of every pod.
    all_paused_until: Option<u32>,
    /// Slots of the pods that this process has linked, whatever became of their interfaces.
    named: BTreeMap<PodName, u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct PodBefore {
    interface: u32,
    flags: u32,
    /// Last second since boot of its pause.
    paused_until: u32,
}

impl Before {
    /// Reads it from the active table.
    pub fn of(tables: &Tables) -> Self {
        let first = tables.read_active(header::PODS);
        let pods = (0..tables.read_active(header::PODS_COUNT)).map(|slot| {
            let at = first + slot * pod::WORDS;
            PodBefore {
                interface: tables.read_active(at + pod::INTERFACE),
                flags: tables.read_active(at + pod::FLAGS),
                paused_until: tables.read_active(at + pod::PAUSED_UNTIL),
            }
        });
        // A shadow table has been given a number as well.
        let shadow = tables.shadow_slot().and_then(|slot| tables.epoch_of(slot));
        Self {
            epoch: tables.epoch().max(shadow.unwrap_or(0)),
            pods: pods.collect(),
            all_paused_until: tables.all_paused_until(),
            named: BTreeMap::new(),
        }
    }

    /// With the slots of pods that are known by name.
    #[must_use]
    pub fn named(mut self, pods: &[LinkedPod]) -> Self {
        let names = pods
            .iter()
            .map(|pod| ((pod.namespace.clone(), pod.name.clone()), pod.slot));
        self.named = names.collect();
        self
    }

    /// Last second since boot of the pause of every pod, if there is one.
    pub fn all_paused_until(&self) -> Option<u32> {
        self.all_paused_until
    }

    /// The pods that are paused, with the last second since boot of that.
    pub fn paused(&self, slots: &BTreeMap<PodName, u32>) -> BTreeMap<PodName, u32> {
        let until = |slot: &u32| {
            let pod = self.pods.get(*slot as usize)?;
            (pod.flags & pod_flags::PAUSED != 0).then_some(pod.paused_until)
        };
        let paused = |(name, slot): (&PodName, &u32)| Some((name.clone(), until(slot)?));
        slots.iter().filter_map(paused).collect()
    }

    /// The slots that pods have, by their interfaces: kept over a restart of the agent, because the
    /// connections that the kernel remembers name them.
    pub fn slots(&self, inventory: &Inventory) -> BTreeMap<PodName, u32> {
        let mut slots = BTreeMap::new();
        for (slot, before) in (0u32..).zip(&self.pods) {
            let owner = inventory
                .pods
                .iter()
                .find(|pod| before.interface != 0 && has(pod, before.interface));
            if let Some(owner) = owner {
                slots.entry(owner.name.clone()).or_insert(slot);
            }
        }
        // An interface that comes again has another number.
        let taken: BTreeSet<u32> = slots.values().copied().collect();
        for pod in &inventory.pods {
            if let Some(slot) = self
                .named
                .get(&pod.name)
                .filter(|slot| !taken.contains(slot))
            {
                slots.entry(pod.name.clone()).or_insert(*slot);
            }
        }
        slots
    }

    /// Whether the connections that a pod opened were remembered without a break.
    pub fn remembered(&self, pod: &LocalPod) -> bool {
        self.pods.iter().any(|before| {
            before.interface != 0
                && has(pod, before.interface)
                && before.flags & (pod_flags::ENROLLED | pod_flags::SEEDING) == pod_flags::ENROLLED
        })
    }

    /// Flags beyond those that linking finds: of the pod's link, and those that outlive an
    /// activation.
    pub fn flags(
        &self,
        inventory: &Inventory,
        slots: &BTreeMap<PodName, u32>,
    ) -> BTreeMap<PodName, u32> {
        let of = |local: &LocalPod| {
            let mut bits = 0;
            if local.interfaces.iter().any(|i| i.switched) {
                bits |= pod_flags::SWITCHED;
            }
            if local.gateway {
                bits |= pod_flags::GATEWAY;
            }
            let slot = slots.get(&local.name);
            if let Some(before) = slot.and_then(|slot| self.pods.get(*slot as usize)) {
                // Flows that began through the proxy stay there, whatever the new table says.
                bits |= before.flags & pod_flags::PROXIED;
            }
            (local.name.clone(), bits)
        };
        inventory.pods.iter().map(of).collect()
    }
}

fn has(pod: &LocalPod, ifindex: u32) -> bool {
    pod.interfaces.iter().any(|i| i.link.index == ifindex)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        inventory::{Enrolment, Interface},
        netlink::Link,
    };

    fn inventory(pods: &[(&str, u32)]) -> Inventory {
        let pods = pods.iter().map(|(name, index)| LocalPod {
            name: ("web".into(), (*name).into()),
            addresses: Vec::new(),
            interfaces: vec![Interface {
                link: Link {
                    index: *index,
                    ..Link::default()
                },
                bridge: 0,
                switched: false,
                netns_id: None,
                inside: None,
                hook: crate::attach::HookAt::Host,
            }],
            netns: None,
            enrolment: Enrolment::Wanted,
            gateway: false,
            hides_sockets: false,
            away: None,
        });
        Inventory {
            pods: pods.collect(),
            ..Inventory::default()
        }
    }

    fn before(pods: &[(u32, u32)]) -> Before {
        let pods = pods.iter().map(|&(interface, flags)| PodBefore {
            interface,
            flags,
            paused_until: 90,
        });
        Before {
            epoch: 7,
            pods: pods.collect(),
            all_paused_until: None,
            named: BTreeMap::new(),
        }
    }

    #[test]
    fn a_pod_keeps_its_slot_by_name_while_its_interface_is_gone() {
        let linked = [("a", 0), ("b", 1), ("c", 2)].map(|(name, slot)| LinkedPod {
            namespace: "web".into(),
            name: name.into(),
            slot,
            scope_v4: 0,
            scope_v6: 0,
            enrolled: true,
            asks: false,
        });
        // c has come to the interface that the table knows as a's.
        let before = before(&[(11, 0), (0, 0), (13, 0)]).named(&linked);
        let slots = before.slots(&inventory(&[("a", 21), ("b", 22), ("c", 11)]));
        let of = |name: &str| slots.get(&("web".into(), name.into())).copied();
        assert_eq!([of("a"), of("b"), of("c")], [None, Some(1), Some(0)]);
    }

    #[test]
    fn slots_go_with_interfaces_and_an_unused_slot_with_nobody() {
        let before = before(&[(0, 0), (12, pod_flags::ENROLLED), (11, 0)]);
        let slots = before.slots(&inventory(&[("a", 11), ("b", 12), ("new", 13)]));
        let of = |name: &str| slots.get(&("web".into(), name.into())).copied();
        assert_eq!((of("a"), of("b"), of("new")), (Some(2), Some(1), None));
    }

    #[test]
    fn connections_are_remembered_only_of_pods_that_were_enrolled_and_seeded() {
        let enrolled = pod_flags::ENROLLED;
        let before = before(&[
            (11, enrolled),
            (12, 0),
            (13, enrolled | pod_flags::SEEDING),
            (14, enrolled | pod_flags::PAUSED),
            (0, enrolled),
        ]);
        let inventory = inventory(&[("a", 11), ("b", 12), ("c", 13), ("d", 14), ("new", 15)]);
        let remembered: Vec<bool> = inventory
            .pods
            .iter()
            .map(|pod| before.remembered(pod))
            .collect();
        assert_eq!(
            remembered,
            [true, false, false, true, false],
            "enrolled, only guarded, still being attached when its agent died, paused, new"
        );
    }

    #[test]
    fn pauses_and_the_proxys_flows_outlive_a_table_and_seeding_does_not() {
        let inventory = inventory(&[("a", 11), ("b", 12)]);
        let all = pod_flags::PROXIED | pod_flags::PAUSED | pod_flags::SEEDING;
        let before = before(&[(11, all), (12, pod_flags::SEEDING)]);
        let slots = before.slots(&inventory);
        let flags: Vec<u32> = before.flags(&inventory, &slots).into_values().collect();
        assert_eq!(flags, [pod_flags::PROXIED, 0]);
        let paused = before.paused(&slots);
        assert_eq!(paused, [(("web".into(), "a".into()), 90)].into());
    }
}
