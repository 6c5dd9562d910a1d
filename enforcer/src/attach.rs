//! Programs onto interfaces, in place of what an earlier agent attached, without a gap.
//!
//! Since Linux 6.6 a program sits on a TCX link that is pinned: replacing it is one atomic update of
//! the link. Before, it is a classifier of the `clsact` queueing discipline, replaced in place by
//! its priority and handle.

use std::{collections::BTreeSet, io};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, SkLookup, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    },
    sys::SyscallError,
    util::KernelVersion,
};
use enforcer_ebpf::maps::program;

use crate::{
    netlink::Link,
    netns::Netns,
    pins::{Pins, PinsError},
};

/// Place of our classifiers among others of `clsact`: the first.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// How programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Hook {
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
    /// The device had been made anew under the same index: the old link was dead.
    Remade,
}

/// What can go wrong while attaching.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("the object has no program `{name}`")]
    Missing { name: &'static str },
    #[error("cannot attach `{program}` to `{interface}`")]
    Attach {
        program: &'static str,
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
    #[error(transparent)]
    Pins(#[from] PinsError),
}

/// Attaches programs and remembers which links are wanted.
pub struct Attacher<'a> {
    ebpf: &'a mut Ebpf,
    pins: &'a Pins,
    hook: Hook,
    wanted: BTreeSet<String>,
}

impl Hook {
    /// What this kernel can do best.
    pub fn best() -> Self {
        match KernelVersion::current() {
            Ok(version) if version >= KernelVersion::new(6, 6, 0) => Self::Tcx,
            _ => Self::Clsact,
        }
    }
}

impl<'a> Attacher<'a> {
    pub fn new(ebpf: &'a mut Ebpf, pins: &'a Pins, hook: Hook) -> Self {
        Self {
            ebpf,
            pins,
            hook,
            wanted: BTreeSet::new(),
        }
    }

    /// What remembers the pod's own connections, and refuses its answers to others.
    pub fn from_pod(&mut self, interface: &Link) -> Result<Outcome, AttachError> {
        self.classifier(program::FROM_POD, interface, TcAttachType::Ingress)
    }

    /// What judges packets towards the pod.
    pub fn to_pod(&mut self, interface: &Link) -> Result<Outcome, AttachError> {
        self.classifier(program::TO_POD, interface, TcAttachType::Egress)
    }

    /// The program of the node's end of the way into the proxy's namespace.
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
        self.wanted.insert(name.into());
        Ok(if replaced {
            Outcome::Replaced
        } else {
            Outcome::Made
        })
    }

    /// Detaches what an earlier agent attached and this one does not want. Returns the names.
    pub fn prune(self) -> Result<Vec<String>, AttachError> {
        let mut gone = Vec::new();
        for name in self.pins.link_names()? {
            if !self.wanted.contains(&name) {
                self.pins.detach(&name)?;
                gone.push(name);
            }
        }
        Ok(gone)
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
        match self.hook {
            Hook::Tcx => {
                let link = link_name(name, interface.index);
                let outcome = tcx(program, self.pins, &link, interface, direction, failed)?;
                self.wanted.insert(link);
                Ok(outcome)
            }
            Hook::Clsact => clsact(program, interface, direction, failed),
        }
    }
}

/// Removes our classifiers from an interface. Whether there were any.
pub fn remove_clsact(interface: &str) -> bool {
    let mut found = false;
    for (name, direction) in [
        (program::TO_POD, TcAttachType::Egress),
        (program::FROM_POD, TcAttachType::Ingress),
        (program::FROM_L7, TcAttachType::Ingress),
    ] {
        // No such classifier is the ordinary case.
        found |= tc::qdisc_detach_program(interface, direction, name).is_ok();
    }
    found
}

/// Names on a BPF file system may not hold dots, and interfaces' may.
fn link_name(program: &str, ifindex: u32) -> String {
    format!("{program}-{ifindex}")
}

fn tcx(
    program: &mut SchedClassifier,
    pins: &Pins,
    name: &str,
    interface: &Link,
    direction: TcAttachType,
    failed: impl Fn(ProgramError) -> AttachError,
) -> Result<Outcome, AttachError> {
    let mut outcome = Outcome::Made;
    match PinnedLink::from_pin(pins.links().join(name)) {
        Ok(old) => {
            let link: SchedClassifierLink =
                FdLink::from(old)
                    .try_into()
                    .map_err(|source| AttachError::Open {
                        name: name.into(),
                        source: Box::new(source),
                    })?;
            match program.attach_to_link(link) {
                Ok(id) => {
                    // Closing our descriptor leaves the pinned link as it is.
                    drop(program.take_link(id).map_err(failed)?);
                    return Ok(Outcome::Replaced);
                }
                Err(error) if is_severed(&error) => {
                    pins.detach(name)?;
                    outcome = Outcome::Remade;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => {
            return Err(AttachError::Open {
                name: name.into(),
                source: Box::new(source),
            });
        }
    }
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

fn clsact(
    program: &mut SchedClassifier,
    interface: &Link,
    direction: TcAttachType,
    failed: impl Fn(ProgramError) -> AttachError,
) -> Result<Outcome, AttachError> {
    match tc::qdisc_add_clsact(&interface.name) {
        Err(tc::TcError::AlreadyAttached) | Ok(()) => {}
        Err(tc::TcError::NetlinkError(error))
            if error.raw_os_error() == Some(rustix::io::Errno::EXIST.raw_os_error()) => {}
        Err(source) => {
            return Err(AttachError::Clsact {
                interface: interface.name.clone(),
                source: Box::new(source),
            });
        }
    }
    let old = SchedClassifierLink::attached(&interface.name, direction, PRIORITY, HANDLE, None);
    if let Ok(old) = old
        && let Ok(id) = program.attach_to_link(old)
    {
        std::mem::forget(program.take_link(id).map_err(failed)?); // to drop it is to detach
        return Ok(Outcome::Replaced);
    }
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    });
    let id = program
        .attach_with_options(&interface.name, direction, options)
        .map_err(&failed)?;
    std::mem::forget(program.take_link(id).map_err(failed)?); // to drop it is to detach
    Ok(Outcome::Made)
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

/// ENOLINK: the device that the link was on is gone, and another has its index.
fn is_severed(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(SyscallError { io_error, .. })
        if io_error.raw_os_error() == Some(rustix::io::Errno::NOLINK.raw_os_error()))
}
