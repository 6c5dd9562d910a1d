//! Which hook is on a pod's path, found out by asking: a packet that only the node can send goes to
//! the pod through the node's own stack, and the hook swallows and counts it.
//!
//! What it shows is the way from the node to the pod. A network may have another way for what comes
//! in by an uplink; such networks are known by their devices and programs ([`crate::cni`]). A packet
//! that no hook sees reaches the pod, which answers that it does not know the protocol.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use enforcer_ebpf::{maps::program, packet::protocol::SELF_TEST, reason::Reason};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Agent, OrderError};
use crate::{
    attach::{Attach, HookAt, attach_inside, inside_name},
    chain,
    inventory::{Inventory, PodName},
    object::Copy,
    pins::{Pins, PinsError},
};

/// How often the hooks of all pods are asked.
pub const ASK_EVERY: Duration = Duration::from_secs(30);
/// Packets to one pod before its hook is taken not to be on the path; the first may be lost while
/// the pod's link address is being asked for.
const TRIES: u32 = 3;
/// How long a packet may take.
const WAIT: Duration = Duration::from_millis(400);
const POLL: Duration = Duration::from_millis(5);

/// `--hook`
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum HookChoice {
    /// On the node's end of every pod's link
    Host,
    /// On the pod's end, in its own namespace; needs TCX, which Linux 6.6 brought
    Pod,
    /// On the node's end, where packets pass it, and on the pod's end elsewhere
    #[default]
    Auto,
}

/// How hooks are placed, and what is needed to place more.
#[derive(Clone, Debug)]
pub struct Hooks {
    pub choice: HookChoice,
    pub attach: Attach,
    pub pins: Pins,
    pub capacity: u32,
    pub features: u32,
}

/// Whether the hook of a pod is on its path.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookPath {
    /// The hook has seen what was sent to the pod.
    Seen,
    /// It has not.
    Skipped,
    /// It could not be asked, for this reason.
    Unasked(String),
}

impl Hooks {
    /// Chooses a hook for each interface, before anything is attached. `redirects`: another's programs
    /// on this node send packets straight into pods.
    pub fn choose(&self, inventory: &mut Inventory, redirects: bool) -> Result<(), PinsError> {
        let before = self.pins.link_names()?;
        let known: BTreeSet<u32> = inventory.interfaces().map(|i| i.link.index).collect();
        for interface in inventory.guarded_mut() {
            // Where an earlier agent has found out, this one does not begin anew.
            let was_inside = before.contains(&inside_name(program::TO_POD, interface.link.index));
            let skipped = was_inside || redirects || interface.link.is_netkit();
            let can = self.attach == Attach::Tcx && interface.inside.is_some();
            interface.hook = match self.choice {
                // What cannot be guarded from inside must not keep the others from being guarded.
                HookChoice::Pod if !can && !known.contains(&interface.link.index) => HookAt::Host,
                HookChoice::Pod => HookAt::Pod,
                HookChoice::Auto if skipped && can => HookAt::Pod,
                HookChoice::Host | HookChoice::Auto => HookAt::Host,
            };
        }
        Ok(())
    }

    pub fn copy(&self) -> Copy<'_> {
        Copy {
            pins: &self.pins,
            capacity: self.capacity,
            features: self.features,
        }
    }
}

impl Agent {
    /// Asks the hook of every policed pod whether it is on the pod's path. One that is not is moved
    /// into the pod's namespace, where `--hook=auto` allows that. Blocks for a while.
    pub fn ask_hooks(&self) {
        let mut found = BTreeMap::new();
        for (name, address) in self.askable() {
            let mut path = self.ask(address);
            if path == HookPath::Skipped && self.hooks.choice == HookChoice::Auto {
                match self.move_inside(&name) {
                    Ok(true) => path = self.ask(address),
                    Ok(false) => {}
                    Err(error) => tracing::error!(
                        error = chain(&error),
                        pod = format!("{}/{}", name.0, name.1),
                        "it cannot be guarded from inside"
                    ),
                }
            }
            found.insert(name, path);
        }
        let mut known = self.paths();
        for (name, path) in &found {
            if known.get(name) != Some(path) {
                let pod = format!("{}/{}", name.0, name.1);
                match path {
                    HookPath::Seen => tracing::debug!(pod, "its hook is on its path"),
                    HookPath::Skipped => tracing::error!(
                        pod,
                        "not enforced: packets skip its hook, and only its answers are judged; see `enforcer doctor`"
                    ),
                    HookPath::Unasked(why) => tracing::warn!(pod, why, "its hook was not asked"),
                }
            }
        }
        *known = found;
    }

    /// The policed pods, with an address each.
    fn askable(&self) -> Vec<(PodName, IpAddr)> {
        let Some(active) = self.active.load_full() else {
            return Vec::new();
        };
        let state = self.state();
        let policed = |name: &PodName| {
            let mut pods = active.pods.iter();
            pods.any(|pod| pod.enrolled && (&pod.namespace, &pod.name) == (&name.0, &name.1))
        };
        let pods = state.inventory.pods.iter();
        let pods = pods.filter(|pod| policed(&pod.name) && pod.away.is_none());
        pods.filter_map(|pod| Some((pod.name.clone(), *pod.addresses.first()?)))
            .collect()
    }

    fn ask(&self, address: IpAddr) -> HookPath {
        let socket = match question(address) {
            Ok(socket) => socket,
            Err(error) => {
                return HookPath::Unasked(format!(
                    "cannot open a raw socket (CAP_NET_RAW): {error}"
                ));
            }
        };
        let counted = || self.state().counters.reason(Reason::SelfTest);
        for _ in 0..TRIES {
            let before = match counted() {
                Ok(before) => before,
                Err(error) => return HookPath::Unasked(chain(&error)),
            };
            let to = SocketAddr::new(address, 0);
            if let Err(error) = socket.send_to(b"enforcer", &to.into()) {
                return HookPath::Unasked(format!("the node cannot send to {address}: {error}"));
            }
            let deadline = Instant::now() + WAIT;
            loop {
                if counted().is_ok_and(|now| now > before) {
                    return HookPath::Seen;
                }
                if Instant::now() > deadline {
                    break;
                }
                thread::sleep(POLL);
            }
        }
        HookPath::Skipped
    }

    /// Moves the hook of a pod into its namespace. Whether that could be tried.
    fn move_inside(&self, name: &PodName) -> Result<bool, OrderError> {
        let state = &mut *self.state();
        let pods = &mut Arc::make_mut(&mut state.inventory).pods;
        let Some(pod) = pods.iter_mut().find(|pod| pod.name == *name) else {
            return Ok(false);
        };
        let Some(netns) = &pod.netns else {
            return Ok(false);
        };
        let mut moved = Vec::new();
        for interface in &mut pod.interfaces {
            let can = self.hooks.attach == Attach::Tcx && interface.inside.is_some();
            if interface.hook == HookAt::Pod || !can {
                continue;
            }
            let mut ebpf = self
                .hooks
                .copy()
                .load(interface.link.index)
                .map_err(Box::new)?;
            let pins = &self.hooks.pins;
            attach_inside(&mut ebpf, pins, program::TO_POD, interface, netns)?;
            interface.hook = HookAt::Pod;
            moved.push(interface.link.index);
        }
        if moved.is_empty() {
            return Ok(false);
        }
        self.relink(state)?;
        for index in moved {
            // What no packet passes judges nothing; what does would be judged twice.
            let outside = format!("{}-{index}", program::TO_POD);
            self.hooks.pins.detach(&outside)?;
        }
        tracing::warn!(
            pod = format!("{}/{}", name.0, name.1),
            "its packets skip the node's end of its link: it is guarded from inside"
        );
        Ok(true)
    }
}

/// A socket for packets of the protocol that asks.
fn question(to: IpAddr) -> io::Result<Socket> {
    let domain = match to {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    };
    Socket::new(
        domain,
        Type::RAW,
        Some(Protocol::from(i32::from(SELF_TEST))),
    )
}
