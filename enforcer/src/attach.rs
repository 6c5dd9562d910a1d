//! Programs onto interfaces, in place of what an earlier agent attached, without a gap.
//!
//! Since Linux 6.6 a program sits on a TCX link that is pinned: replacing it is one atomic update of
//! the link. Before, it is a classifier of the `clsact` queueing discipline, replaced in place by
//! its priority and handle.

mod classifiers;
mod inside;

use std::{collections::BTreeSet, io};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, SkLookup, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::{self, SchedClassifierLink, TcAttachOptions},
    },
    sys::SyscallError,
    util::KernelVersion,
};
use enforcer_ebpf::maps::program;

pub use classifiers::{Classifiers, remove_all as remove_clsact};
pub use inside::{HookAt, attach_inside, inside_name};

use crate::{
    inventory::Interface,
    netlink::{Link, NetlinkError},
    netns::{Netns, NetnsError},
    object::{CLASSIFIERS, Copy, ObjectError},
    pins::{Pins, PinsError},
};

/// How programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Attach {
    /// Pinned TCX links; Linux 6.6 and later.
    Tcx,
    /// Classifiers of the clsact queueing discipline.
    Clsact,
}

/// What became of an attachment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    Made,
    /// The program was replaced in place.
    Replaced,
    /// The device had been made anew, or had moved away: the old link was not on it any more.
    Remade,
}

/// What can go wrong while attaching.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("this kernel has no TCX, which Linux 6.6 brought: leave --attach out, or say clsact")]
    NoTcx,
    #[error("the object has no program `{name}`")]
    Missing { name: &'static str },
    #[error("cannot attach `{program}` to `{interface}`")]
    Attach {
        program: &'static str,
        interface: String,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("cannot ask what is attached to `{interface}`")]
    Query {
        interface: String,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("cannot open the pinned link `{name}`")]
    Open {
        name: String,
        #[source]
        source: Box<LinkError>,
    },
    #[error("cannot turn the link of `{name}` into one that can be pinned")]
    Link {
        name: String,
        #[source]
        source: Box<LinkError>,
    },
    #[error("cannot pin link `{name}`")]
    Pin {
        name: String,
        #[source]
        source: Box<aya::pin::PinError>,
    },
    #[error("cannot add clsact to `{interface}`")]
    Clsact {
        interface: String,
        #[source]
        source: Box<tc::TcError>,
    },
    #[error("no end of `{interface}` was found in the pod's network namespace")]
    NoInside { interface: String },
    #[error(transparent)]
    Object(#[from] Box<ObjectError>),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Pins(#[from] PinsError),
}

/// Attaches programs and remembers which links are wanted.
pub struct Attacher<'a> {
    ebpf: &'a mut Ebpf,
    pins: &'a Pins,
    attach: Attach,
    /// What is there of an earlier agent's.
    classifiers: Classifiers,
    /// Names of pinned links that are to stay.
    links: BTreeSet<String>,
    /// Classifiers that are to stay, by interface and program.
    attached: BTreeSet<(u32, &'static str)>,
}

impl Attach {
    /// What this kernel can do best.
    pub fn best() -> Self {
        match KernelVersion::current() {
            Ok(version) if version >= KernelVersion::new(6, 6, 0) => Self::Tcx,
            _ => Self::Clsact,
        }
    }

    /// Whether this kernel has it.
    pub fn check(self) -> Result<(), AttachError> {
        match (self, Self::best()) {
            (Self::Tcx, Self::Clsact) => Err(AttachError::NoTcx),
            _ => Ok(()),
        }
    }
}

impl<'a> Attacher<'a> {
    pub fn new(
        ebpf: &'a mut Ebpf,
        pins: &'a Pins,
        attach: Attach,
        classifiers: Classifiers,
    ) -> Self {
        Self {
            ebpf,
            pins,
            attach,
            classifiers,
            links: BTreeSet::new(),
            attached: BTreeSet::new(),
        }
    }

    /// What judges packets towards the pod, in the pod's own namespace. What the pod sends is judged
    /// at the node's end all the same, which no pod can get round: by a netkit device in addition,
    /// whose packets may be redirected before they come there.
    pub fn inside(
        &mut self,
        interface: &Interface,
        netns: &Netns,
        copy: &Copy<'_>,
    ) -> Result<Vec<Outcome>, AttachError> {
        let mut outcomes = Vec::new();
        let mut ebpf = copy.load(interface.link.index).map_err(Box::new)?;
        let names: &[&'static str] = match interface.link.is_veth {
            true => &[program::TO_POD],
            false => &[program::FROM_POD, program::TO_POD],
        };
        for name in names {
            outcomes.push(attach_inside(&mut ebpf, self.pins, name, interface, netns)?);
            self.links.insert(inside_name(name, interface.link.index));
        }
        Ok(outcomes)
    }

    /// Whether an earlier agent's programs guard an interface, in both directions and in whatever
    /// way.
    pub fn guards(&self, interface: &Interface) -> Result<bool, AttachError> {
        let pods = [
            (program::FROM_POD, TcAttachType::Ingress),
            (program::TO_POD, TcAttachType::Egress),
        ];
        // What is inside judges, and what is outside remembers.
        let at_host = match interface.hook {
            HookAt::Host => 2,
            HookAt::Pod => 1,
        };
        let interface = &interface.link;
        for (name, direction) in pods.into_iter().take(at_host) {
            let there = self.classifiers.has(interface.index, name)
                || match pinned(self.pins, &link_name(name, interface.index))? {
                    Some(link) => sits(&link, name, interface, direction)?,
                    None => false,
                };
            if !there {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What remembers the pod's own connections, and refuses its answers to others.
    pub fn from_pod(&mut self, interface: &Link) -> Result<Outcome, AttachError> {
        self.classifier(program::FROM_POD, interface, TcAttachType::Ingress)
    }

    /// What judges packets towards the pod.
    pub fn to_pod(&mut self, interface: &Link) -> Result<Outcome, AttachError> {
        self.classifier(program::TO_POD, interface, TcAttachType::Egress)
    }

    /// The program of the node's end of a way into the proxy's namespace.
    pub fn l7(&mut self, interface: &Link) -> Result<Outcome, AttachError> {
        self.classifier(program::FROM_L7, interface, TcAttachType::Ingress)
    }

    /// The socket lookup of the proxy's namespace.
    pub fn lookup(&mut self, netns: &Netns) -> Result<Outcome, AttachError> {
        let name = program::PROXY_LOOKUP;
        let failed = |source| AttachError::Attach {
            program: name,
            interface: netns.path().display().to_string(),
            source: Box::new(source),
        };
        let program: &mut SkLookup = self
            .ebpf
            .program_mut(name)
            .ok_or(AttachError::Missing { name })?
            .try_into()
            .map_err(failed)?;
        // Several may sit on a namespace at once: the new one is there before the old one goes.
        let id = program.attach(netns).map_err(failed)?;
        let link: FdLink = program.take_link(id).map_err(failed)?.into();
        let replaced = self.pins.detach(name)?;
        pin(self.pins, link, name)?;
        self.links.insert(name.into());
        Ok(if replaced {
            Outcome::Replaced
        } else {
            Outcome::Made
        })
    }

    /// Detaches what an earlier agent attached and this one does not want, in either way. Returns
    /// how much. What stays is logged: it judges by the same table, twice at worst.
    pub fn prune(self) -> usize {
        let names = self.pins.link_names().unwrap_or_else(|error| {
            tracing::warn!(error = crate::chain(&error), "old links stay attached");
            Vec::new()
        });
        let mut gone = 0;
        for name in names.iter().filter(|name| !self.links.contains(*name)) {
            match self.pins.detach(name) {
                Ok(found) => gone += usize::from(found),
                Err(error) => {
                    tracing::warn!(error = crate::chain(&error), "an old link stays attached");
                }
            }
        }
        let (removed, left) = self
            .classifiers
            .remove_unless(|index, program| self.attached.contains(&(index, program)));
        for (what, error) in left {
            tracing::warn!(%error, what, "an old classifier stays attached");
        }
        gone + removed.len()
    }

    fn classifier(
        &mut self,
        name: &'static str,
        interface: &Link,
        direction: TcAttachType,
    ) -> Result<Outcome, AttachError> {
        let failed = |source| AttachError::Attach {
            program: name,
            interface: interface.name.clone(),
            source: Box::new(source),
        };
        let program: &mut SchedClassifier = self
            .ebpf
            .program_mut(name)
            .ok_or(AttachError::Missing { name })?
            .try_into()
            .map_err(failed)?;
        match self.attach {
            Attach::Tcx => {
                let link = link_name(name, interface.index);
                let old = pinned(self.pins, &link)?;
                let old = match old {
                    Some(old) if sits(&old, name, interface, direction)? => Old::Here(old),
                    Some(_) => Old::Elsewhere,
                    None => Old::None,
                };
                let outcome = tcx(program, self.pins, &link, old, interface, direction, failed)?;
                self.links.insert(link);
                Ok(outcome)
            }
            Attach::Clsact => {
                let there = self.classifiers.has(interface.index, name);
                let outcome = classifiers::attach(program, there, interface, direction, failed)?;
                self.attached.insert((interface.index, name));
                Ok(outcome)
            }
        }
    }
}

/// Names of the programs of others on an interface of this node, whichever way they are attached.
pub async fn others_programs(
    handle: &rtnetlink::Handle,
    link: &Link,
) -> Result<BTreeSet<String>, NetlinkError> {
    let mut found = BTreeSet::new();
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        found.extend(classifiers::names(handle, link, direction).await?);
        // Before Linux 6.6 there are no such links.
        if let Ok((_, programs)) = SchedClassifier::query_tcx(&link.name, direction) {
            let names = programs.iter().filter_map(|p| p.name_as_str());
            found.extend(names.map(str::to_owned));
        }
    }
    found.retain(|name| !CLASSIFIERS.contains(&name.as_str()));
    Ok(found)
}

/// The link that an earlier agent pinned under a name.
enum Old {
    None,
    /// It is on the interface that it is named after.
    Here(FdLink),
    /// Its interface is gone or has moved to another namespace, and another has its index.
    Elsewhere,
}

/// Detaches what is pinned for a pod's interface, by its index.
pub fn unpin(pins: &Pins, ifindex: u32) -> Result<(), PinsError> {
    // What refuses goes before what remembers.
    for name in [program::TO_POD, program::FROM_POD] {
        pins.detach(&inside_name(name, ifindex))?;
        pins.detach(&link_name(name, ifindex))?;
    }
    Ok(())
}

/// Names on a BPF file system may not hold dots, and interfaces' may.
fn link_name(program: &str, ifindex: u32) -> String {
    format!("{program}-{ifindex}")
}

fn pinned(pins: &Pins, name: &str) -> Result<Option<FdLink>, AttachError> {
    match PinnedLink::from_pin(pins.links().join(name)) {
        Ok(link) => Ok(Some(link.into())),
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(source) => Err(AttachError::Open {
            name: name.into(),
            source: Box::new(source),
        }),
    }
}

/// Whether a link is on an interface: a link goes where its device goes, and says nothing of it.
fn sits(
    link: &FdLink,
    name: &'static str,
    interface: &Link,
    direction: TcAttachType,
) -> Result<bool, AttachError> {
    let info = link.info().map_err(|source| AttachError::Open {
        name: link_name(name, interface.index),
        source: Box::new(source),
    })?;
    let (_, programs) =
        SchedClassifier::query_tcx(&interface.name, direction).map_err(|source| {
            AttachError::Query {
                interface: interface.name.clone(),
                source: Box::new(source),
            }
        })?;
    Ok(programs.iter().any(|p| p.id() == info.program_id()))
}

fn tcx(
    program: &mut SchedClassifier,
    pins: &Pins,
    name: &str,
    old: Old,
    interface: &Link,
    direction: TcAttachType,
    failed: impl Fn(ProgramError) -> AttachError,
) -> Result<Outcome, AttachError> {
    let outcome = match old {
        Old::Here(old) => {
            let link: SchedClassifierLink = old.try_into().map_err(|source| AttachError::Open {
                name: name.into(),
                source: Box::new(source),
            })?;
            let id = program.attach_to_link(link).map_err(&failed)?;
            // Closing our descriptor leaves the pinned link as it is.
            drop(program.take_link(id).map_err(failed)?);
            return Ok(Outcome::Replaced);
        }
        Old::Elsewhere => {
            pins.detach(name)?;
            Outcome::Remade
        }
        Old::None => Outcome::Made,
    };
    // First: another program that ends the chain with "accept" must not run before ours.
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(&interface.name, direction, order)
        .map_err(&failed)?;
    let link: FdLink = program
        .take_link(id)
        .map_err(&failed)?
        .try_into()
        .map_err(|source| AttachError::Link {
            name: name.into(),
            source: Box::new(source),
        })?;
    pin(pins, link, name)?;
    Ok(outcome)
}

fn pin(pins: &Pins, link: FdLink, name: &str) -> Result<(), AttachError> {
    match link.pin(pins.links().join(name)) {
        Ok(_pinned) => Ok(()),
        Err(source) => Err(AttachError::Pin {
            name: name.into(),
            source: Box::new(source),
        }),
    }
}
