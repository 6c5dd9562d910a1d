//! From what an earlier agent has left, or from nothing, to this agent's table and programs.
//!
//! Where a table judges already, the programs are replaced first, which changes no verdict, and the
//! table follows when nothing can fail any more. Where none does, programs would refuse everything,
//! so the table comes first. Either way a pod whose outbound connections nobody has remembered so
//! far is paused until they have been found: its programs remember what it opens from the moment at
//! which they are attached, and refuse nothing before the older connections are known, too.

use std::{collections::BTreeSet, sync::Arc};

use enforcer_ebpf::{
    maps::HITS,
    words::{header, pod_flags},
};

use super::{Agent, Hooks, State, owners, start::StartError};
use crate::{
    apply::{Before, Loaded, Prepared},
    attach::{AttachError, Attacher, HookAt, Outcome},
    inventory::{Interface, LocalPod, PodName},
    netns::Netns,
    pins::Pins,
    proxy_netns::{self, ProxyNetns},
    state::Names,
};

/// What is attached, to what, and after what.
pub struct Takeover<'a> {
    pub attacher: Attacher<'a>,
    pub pins: &'a Pins,
    pub proxy: &'a ProxyNetns,
    pub before: &'a Before,
    pub hooks: &'a Hooks,
    /// What the records of slots stand for whose counters are replaced by larger maps.
    pub outgrown: Vec<(u32, Names)>,
}

impl Takeover<'_> {
    /// The pods whose outbound connections an earlier agent's programs have not remembered all
    /// along.
    pub fn unremembered(&self, pods: &[LocalPod]) -> Result<BTreeSet<PodName>, AttachError> {
        let mut names = BTreeSet::new();
        for pod in pods {
            let mut remembered = self.before.remembered(pod);
            for interface in &pod.interfaces {
                remembered = remembered && self.attacher.guards(interface)?;
            }
            if !remembered {
                names.insert(pod.name.clone());
            }
        }
        Ok(names)
    }

    /// Attaches programs and makes the table active. `seeding` are the pods that `prepared` spares until then.
    /// Nothing changes the verdicts that were in force before everything that can fail is done.
    pub fn run(
        mut self,
        agent: &Agent,
        loaded: Loaded,
        prepared: Prepared,
        seeding: &BTreeSet<PodName>,
    ) -> Result<(), StartError> {
        let state = &mut *agent.state();
        let judged = state.tables.active_slot().is_some();
        let outcomes = if judged {
            let outcomes = self.attach(state)?;
            self.count_outgrown(state);
            agent.publish(state, loaded, prepared)?;
            outcomes
        } else {
            agent.publish(state, loaded, prepared)?;
            self.attach(state)?
        };
        let seeded = seed(state, &agent.before(state), seeding);
        let detached = self.finish();
        let count = |outcome| outcomes.iter().filter(|o| **o == outcome).count();
        tracing::info!(
            interfaces = state.inventory.interfaces().count(),
            made = count(Outcome::Made),
            replaced = count(Outcome::Replaced),
            remade = count(Outcome::Remade),
            detached,
            seeded,
            "attached"
        );
        Ok(())
    }

    fn attach(&mut self, state: &State) -> Result<Vec<Outcome>, AttachError> {
        let attacher = &mut self.attacher;
        let mut outcomes = vec![attacher.lookup(&self.proxy.netns)?];
        for link in proxy_netns::outside_links(self.proxy) {
            outcomes.push(attacher.l7(&link)?);
        }
        let guarded = state.inventory.guarded();
        let interfaces: Vec<_> = guarded
            .map(|(interface, netns)| (interface.clone(), netns.cloned()))
            .collect();
        outcomes.extend(attach(attacher, self.hooks, &interfaces)?);
        Ok(outcomes)
    }

    /// Nobody counts in the maps that were outgrown any more. A count that cannot be read is lost.
    fn count_outgrown(&self, state: &mut State) {
        if self.outgrown.is_empty() {
            return;
        }
        let counted = state
            .counters
            .add_from(&self.pins.map(HITS), &self.outgrown)
            .and_then(|outgrown| {
                state.keep();
                outgrown.clear()
            });
        if let Err(error) = counted {
            tracing::warn!(
                error = crate::chain(&error),
                "hits that were counted before are lost"
            );
        }
    }

    /// Takes away what is not needed any more. What cannot be taken away does no harm.
    fn finish(self) -> usize {
        let detached = self.attacher.prune();
        match self.pins.settle() {
            Ok(others) => detached + others,
            Err(error) => {
                tracing::warn!(
                    error = crate::chain(&error),
                    "what an earlier agent has left stays behind"
                );
                detached
            }
        }
    }
}

/// Attaches the programs of pods' interfaces, each with the pod's namespace.
pub(super) fn attach(
    attacher: &mut Attacher<'_>,
    hooks: &Hooks,
    interfaces: &[(Interface, Option<Arc<Netns>>)],
) -> Result<Vec<Outcome>, AttachError> {
    let mut outcomes = Vec::new();
    // What remembers goes before what refuses.
    for (interface, _) in interfaces {
        outcomes.push(attacher.from_pod(&interface.link)?);
    }
    let copy = hooks.copy();
    for (interface, netns) in interfaces {
        match (interface.hook, netns) {
            (HookAt::Host, _) => outcomes.push(attacher.to_pod(&interface.link)?),
            (HookAt::Pod, Some(netns)) => {
                outcomes.extend(attacher.inside(interface, netns, &copy)?);
            }
            (HookAt::Pod, None) => {
                let interface = interface.link.name.clone();
                return Err(AttachError::NoInside { interface });
            }
        }
    }
    Ok(outcomes)
}

/// Finds the connections that pods have open, and begins to police these pods.
pub(super) fn seed(state: &mut State, before: &Before, seeding: &BTreeSet<PodName>) -> usize {
    let slots = before.slots(&state.inventory);
    let mut seeded = 0;
    for owner in owners(&state.inventory, &slots) {
        let name = slots.iter().find(|(_, slot)| **slot == owner.slot);
        let Some((name, _)) = name.filter(|(name, _)| seeding.contains(*name)) else {
            continue;
        };
        let pod = format!("{}/{}", name.0, name.1);
        if owner.netns.is_none() {
            tracing::warn!(
                pod,
                "its network namespace is not known: connections that it has open may be cut"
            );
        }
        match state.out.seed(&owner) {
            Ok(found) => seeded += found,
            // Enforcement does not wait for what cannot be found out.
            Err(error) => tracing::warn!(
                error = crate::chain(&error),
                pod,
                "its open connections were not found, and may be cut"
            ),
        }
    }
    for slot in 0..state.tables.read_active(header::PODS_COUNT) {
        state.tables.clear_pod_flags(slot, pod_flags::SEEDING);
    }
    seeded
}
