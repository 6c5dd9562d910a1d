//! Follows the node's interfaces while the agent runs: what comes is guarded, what changes its name
//! stays so, what goes is let go.
//!
//! The kernel tells of each change, and the pods are looked for at once, so that an interface is
//! usually guarded before it is up. Until then, policed pods of this node take nothing from there,
//! since it is a pod's address at a place that is not the pod's; for others the pod is open. What
//! got through is judged at its next packet, as everything is. Where a pod is not to be found, it is
//! looked for again and again.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _};
use rtnetlink::MulticastGroup;

use super::{Agent, OrderError, State, relink, start::StartError, takeover};
use crate::{
    apply,
    attach::{Attach, Attacher, Classifiers, HookAt},
    inventory::{self, Interface, Inventory, LocalPod, PodName, Wanted, unknown},
    pins::Pins,
    proxy_netns,
};

/// Changes come in bursts: after one look the next one waits this long.
const SETTLE: Duration = Duration::from_millis(20);
/// How long to wait before a pod that is not there is looked for again, at first and at most.
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// The same where all pods are there, and only an interface may yet turn out to be another's.
const UNDECIDED_MAX: Duration = Duration::from_secs(30);

/// What it takes to attach.
pub struct Hands {
    pub ebpf: aya::Ebpf,
    pub pins: Pins,
    pub wanted: Wanted,
    /// Another's programs on this node send packets straight into pods.
    pub redirects: bool,
    /// Name of the proxy's namespace.
    pub netns: String,
    /// What its links carry at most, once that is known.
    pub mtu: Option<u32>,
}

/// Follows until the kernel tells no more.
pub async fn follow(agent: Arc<Agent>, hands: Hands) -> io::Result<()> {
    let mut groups = vec![MulticastGroup::Link];
    if agent.settings.deny_unknown {
        // A route is often the last that a pod is given.
        groups.extend([MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route]);
    }
    let (connection, _handle, mut news) = rtnetlink::new_multicast_connection(&groups)?;
    tokio::spawn(connection);
    let mut hands = hands;
    // Something may have changed since the pods were found.
    let mut retry = Some(RETRY);
    loop {
        let wait = async {
            match retry {
                None => std::future::pending().await,
                Some(wait) => tokio::time::sleep(wait).await,
            }
        };
        let mut wait_next = RETRY;
        tokio::select! {
            heard = news.next() => if heard.is_none() {
                return Err(io::Error::other("the kernel tells no more of interfaces"));
            },
            () = agent.look.notified() => {}
            () = wait => wait_next = retry.map_or(RETRY, |wait| wait * 2),
        }
        while news.next().now_or_never().flatten().is_some() {}
        let (back, looked) = look(&agent, hands).await?;
        hands = back;
        retry = match looked {
            Ok(Looked { missing, undecided }) => {
                agent.unfollowed.store(None);
                let most = match missing {
                    true => Some(RETRY_MAX),
                    false => undecided.then_some(UNDECIDED_MAX),
                };
                most.map(|most| wait_next.min(most))
            }
            Err(error) => {
                let text = crate::chain(&error);
                tracing::warn!(error = text, "cannot follow the node's interfaces");
                agent.unfollowed.store(Some(Arc::new(text)));
                Some(wait_next.min(RETRY_MAX))
            }
        };
        tokio::time::sleep(SETTLE).await;
    }
}

/// What a look has left open.
struct Looked {
    /// Pods that may yet be found.
    missing: bool,
    /// Interfaces that may yet turn out to be a pod's.
    undecided: bool,
}

/// One look.
async fn look(
    agent: &Arc<Agent>,
    mut hands: Hands,
) -> io::Result<(Hands, Result<Looked, StartError>)> {
    let (before, ranges) = {
        let state = agent.state();
        let given = &agent.settings.pod_cidrs;
        let ranges = unknown::ranges(&state.inventory.cluster, &hands.wanted, given);
        (state.inventory.here(&hands.wanted), ranges)
    };
    let mut found = match inventory::again(&before, &hands.wanted).await {
        Ok(found) => found,
        Err(error) => return Ok((hands, Err(error.into()))),
    };
    let mut undecided = false;
    if agent.settings.deny_unknown {
        let others = match unknown::look(&found, &ranges).await {
            Ok(others) => others,
            Err(error) => return Ok((hands, Err(error.into()))),
        };
        (found.unknown, undecided) = (others.unknown, others.undecided);
    }
    // A link on TCX is found by its pin.
    let classifiers = match agent.hooks.attach {
        Attach::Tcx => Ok(Classifiers::default()),
        Attach::Clsact => super::start::classifiers().await,
    };
    let classifiers = match classifiers {
        Ok(classifiers) => classifiers,
        Err(error) => return Ok((hands, Err(error))),
    };
    // Pods with smaller links than the others may have come.
    let mtu = found.mtu();
    if hands.mtu != Some(mtu) {
        if let Err(error) = proxy_netns::resize(&hands.netns, mtu).await {
            return Ok((hands, Err(error.into())));
        }
        hands.mtu = Some(mtu);
    }
    let missing = found.pods.iter().any(|pod| pod.away.is_some())
        || found.lost.iter().any(|(_, reason)| !reason.is_final());
    let agent = Arc::clone(agent);
    let settled = tokio::task::spawn_blocking(move || {
        let settled = agent.settle(found, &mut hands, classifiers);
        (hands, settled.map(|()| Looked { missing, undecided }))
    });
    settled.await.map_err(io::Error::other)
}

impl Agent {
    /// Attaches nothing any more. To be called before everything is detached, which the kernel tells
    /// of as well.
    pub fn leave(&self) {
        self.state().leaving = true;
    }

    /// Makes what was found the truth: on the interfaces, then in the table.
    fn settle(
        &self,
        mut found: Inventory,
        hands: &mut Hands,
        classifiers: Classifiers,
    ) -> Result<(), StartError> {
        let state = &mut *self.state();
        if state.leaving {
            return Ok(());
        }
        let before = Arc::clone(&state.inventory);
        // Somebody else follows these.
        found.node_addresses.clone_from(&before.node_addresses);
        found.cluster = Arc::clone(&before.cluster);
        found.follow_cluster();
        found.drop_gone(self.settings.deny_unknown);
        self.hooks.choose(&mut found, hands.redirects)?;
        let found = Arc::new(found);
        let mut attacher =
            Attacher::new(&mut hands.ebpf, &hands.pins, self.hooks.attach, classifiers);
        let mut unguarded = Vec::new();
        for (interface, netns) in found.guarded() {
            if !attacher.guards(interface)? {
                unguarded.push((interface.clone(), netns.cloned()));
            }
        }
        // Before the table knows an interface its programs let everything pass, and other pods' refuse
        // what comes from there under a pod's address. Once it knows, they are there.
        takeover::attach(&mut attacher, &self.hooks, &unguarded)?;
        let mut seeding = BTreeSet::new();
        if agree(&before, &found) {
            // Names, and why something is not there.
            state.inventory = found;
        } else {
            seeding = self.relocate(state, found)?;
        }
        let seeded = match seeding.is_empty() {
            true => 0,
            false => takeover::seed(state, &self.before(state), &seeding),
        };
        let gone = let_go(&before, &state.inventory, &hands.pins);
        if !unguarded.is_empty() || gone > 0 {
            let names = unguarded.iter().map(|(i, _)| i.link.name.as_str());
            let guarded = names.collect::<Vec<_>>().join(" ");
            tracing::info!(guarded, gone, seeded, "the node's interfaces have changed");
        }
        Ok(())
    }

    /// Links the active bundle for other interfaces. Returns the pods that are new, which are spared
    /// until their connections are known.
    fn relocate(
        &self,
        state: &mut State,
        found: Arc<Inventory>,
    ) -> Result<BTreeSet<PodName>, OrderError> {
        let active = self.active.load_full().ok_or(OrderError::NoTable)?;
        let loaded = relink::again(&active);
        let known = |pod: &&LocalPod| {
            let mut pods = active.pods.iter();
            pods.any(|known| (&known.namespace, &known.name) == (&pod.name.0, &pod.name.1))
        };
        let new = found.pods.iter().filter(|pod| !known(pod));
        let new = new.map(|pod| pod.name.clone()).collect();
        let same = Arc::ptr_eq(&found.cluster, &state.inventory.cluster);
        let mut prepared = apply::link(
            &loaded,
            &found,
            &self.settings,
            &self.before(state),
            state.tables.capacity(),
            same.then_some(&active),
        )?;
        let seeding = prepared.seed(&new);
        let before = std::mem::replace(&mut state.inventory, found);
        if let Err(error) = self.publish(state, loaded, prepared) {
            state.inventory = before;
            return Err(error);
        }
        if let Err(error) = self.renew_shadow(state) {
            tracing::warn!(
                error = crate::chain(&error),
                "the shadow generation is dropped"
            );
        }
        Ok(seeding)
    }
}

/// Whether two looks at a node are the same for a table.
fn agree(one: &Inventory, other: &Inventory) -> bool {
    fn place(i: &Interface) -> (u32, u32, bool, Option<i32>, HookAt) {
        (i.link.index, i.bridge, i.switched, i.netns_id, i.hook)
    }
    let same = |(a, b): (&LocalPod, &LocalPod)| {
        let [a_places, b_places] = [a, b].map(|pod| pod.interfaces.iter().map(place));
        a.name == b.name && a_places.eq(b_places)
    };
    one.pods.len() == other.pods.len() && one.pods.iter().zip(&other.pods).all(same)
}

/// Unpins what was attached to interfaces that are no pod's any more: they are gone, or in another
/// namespace. Returns how many they were.
fn let_go(before: &Inventory, now: &Inventory, pins: &Pins) -> usize {
    let mut gone = 0;
    for (interface, _) in before.guarded() {
        let index = interface.link.index;
        if now.guarded().any(|(i, _)| i.link.index == index) {
            continue;
        }
        gone += 1;
        if let Err(error) = crate::attach::unpin(pins, index) {
            tracing::warn!(
                error = crate::chain(&error),
                interface = interface.link.name,
                "what was attached to it stays pinned"
            );
        }
    }
    gone
}
