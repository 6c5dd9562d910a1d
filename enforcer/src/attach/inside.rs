//! Programs in a pod's own network namespace, for pods whose packets skip the node's end of their link.
//!
//! Interfaces are numbered anew in each namespace, so that a program there cannot say by a number
//! which pod it guards: each pod has copies of its own, which are told when they are loaded. They
//! sit on TCX links, which only who holds the link or its pin can take away: not the pod, whatever
//! it may do to its interface.

use aya::{
    Ebpf,
    programs::{SchedClassifier, TcAttachType},
};
use enforcer_ebpf::maps::program;

use super::{AttachError, Old, Outcome, link_name, pinned, sits, tcx};
use crate::{inventory::Interface, netlink::Link, netns::Netns, pins::Pins};

/// Where the programs of a pod's interface sit that judge packets to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookAt {
    /// On the node's end of the pod's link.
    #[default]
    Host,
    /// On the pod's end, in its own namespace.
    Pod,
}

/// Name of the pin of a program that is inside.
pub fn inside_name(program: &str, ifindex: u32) -> String {
    link_name(&format!("inside-{program}"), ifindex)
}

/// Attaches a program to the pod's end of a link. What comes in there goes to the pod.
pub fn attach_inside(
    ebpf: &mut Ebpf,
    pins: &Pins,
    name: &'static str,
    interface: &Interface,
    netns: &Netns,
) -> Result<Outcome, AttachError> {
    let direction = match name {
        program::TO_POD => TcAttachType::Ingress,
        _ => TcAttachType::Egress,
    };
    let far: &Link = interface
        .inside
        .as_ref()
        .ok_or_else(|| AttachError::NoInside {
            interface: interface.link.name.clone(),
        })?;
    let failed = |source| AttachError::Attach {
        program: name,
        interface: format!("{} of {}", far.name, netns.path().display()),
        source: Box::new(source),
    };
    let program: &mut SchedClassifier = ebpf
        .program_mut(name)
        .ok_or(AttachError::Missing { name })?
        .try_into()
        .map_err(failed)?;
    let pin = inside_name(name, interface.link.index);
    let entered = netns.enter(|| {
        let old = match pinned(pins, &pin)? {
            Some(old) if sits(&old, name, far, direction)? => Old::Here(old),
            Some(_) => Old::Elsewhere,
            None => Old::None,
        };
        tcx(program, pins, &pin, old, far, direction, failed)
    });
    entered.map_err(AttachError::from)?
}
