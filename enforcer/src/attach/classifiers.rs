//! Our classifiers in the `clsact` queueing disciplines of this node's interfaces.

use std::collections::BTreeMap;

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};
use enforcer_ebpf::maps::program;
use futures_util::TryStreamExt;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};
use rtnetlink::Handle;

use super::{AttachError, Outcome};
use crate::netlink::{Link, NetlinkError, request};

/// Place of our classifiers among others of `clsact`: the first.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// Programs that may sit there, each in one direction only.
const OURS: [(&str, TcAttachType); 3] = [
    (program::TO_POD, TcAttachType::Egress),
    (program::FROM_POD, TcAttachType::Ingress),
    (program::FROM_L7, TcAttachType::Ingress),
];

/// Which of our programs sit on which interface, with the interface's name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Classifiers(BTreeMap<(u32, &'static str), String>);

impl Classifiers {
    /// Asks the kernel. Must be called within a tokio runtime.
    pub async fn find(handle: &Handle, links: &[Link]) -> Result<Self, NetlinkError> {
        let mut found = BTreeMap::new();
        for link in links {
            for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
                let there = names(handle, link, direction).await?;
                for (name, _) in OURS.iter().filter(|(_, at)| *at == direction) {
                    if there.iter().any(|other| other == name) {
                        found.insert((link.index, *name), link.name.clone());
                    }
                }
            }
        }
        Ok(Self(found))
    }

    /// Whether a program sits on an interface.
    pub fn has(&self, interface: u32, program: &str) -> bool {
        self.0
            .keys()
            .any(|(index, name)| (*index, *name) == (interface, program))
    }

    /// Takes away all that is not to be kept. Returns what it took, and what it could not.
    pub fn remove_unless(
        &self,
        keep: impl Fn(u32, &'static str) -> bool,
    ) -> (Vec<String>, Vec<(String, TcError)>) {
        let (mut gone, mut left) = (Vec::new(), Vec::new());
        for ((index, name), interface) in &self.0 {
            if keep(*index, name) {
                continue;
            }
            let what = format!("{name} of {interface}");
            match detach(interface, name) {
                Ok(()) => gone.push(what),
                Err(error) => left.push((what, error)),
            }
        }
        (gone, left)
    }
}

/// Attaches a program, in place of an earlier agent's where that is `there`.
pub(super) fn attach(
    program: &mut SchedClassifier,
    there: bool,
    interface: &Link,
    direction: TcAttachType,
    failed: impl Fn(ProgramError) -> AttachError,
) -> Result<Outcome, AttachError> {
    match tc::qdisc_add_clsact(&interface.name) {
        Err(TcError::AlreadyAttached) | Ok(()) => {}
        Err(TcError::NetlinkError(error))
            if error.raw_os_error() == Some(rustix::io::Errno::EXIST.raw_os_error()) => {}
        Err(source) => {
            return Err(AttachError::Clsact {
                interface: interface.name.clone(),
                source: Box::new(source),
            });
        }
    }
    // Another's classifier in the same place is not ours to replace: adding ours then fails.
    if there {
        let old = SchedClassifierLink::attached(&interface.name, direction, PRIORITY, HANDLE, None)
            .map_err(|error| failed(TcError::IoError(error).into()))?;
        let id = program.attach_to_link(old).map_err(&failed)?;
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

/// Removes our classifiers from an interface. Whether there were any.
pub fn remove_all(interface: &str) -> bool {
    let mut found = false;
    for (name, _) in OURS {
        // No such classifier is the ordinary case.
        found |= detach(interface, name).is_ok();
    }
    found
}

fn detach(interface: &str, name: &str) -> Result<(), TcError> {
    match OURS.iter().find(|(ours, _)| *ours == name) {
        Some((name, direction)) => tc::qdisc_detach_program(interface, *direction, name),
        None => Err(TcError::IoError(std::io::ErrorKind::NotFound.into())),
    }
}

/// Names of the BPF programs that classify on an interface by the `clsact` queueing discipline.
pub(super) async fn names(
    handle: &Handle,
    link: &Link,
    direction: TcAttachType,
) -> Result<Vec<String>, NetlinkError> {
    let Ok(index) = i32::try_from(link.index) else {
        return Ok(Vec::new()); // the kernel counts interfaces in an i32
    };
    let filters = handle.traffic_filter(index).get();
    let filters = match direction {
        TcAttachType::Egress => filters.egress(),
        _ => filters.ingress(),
    };
    let messages: Vec<TcMessage> = filters
        .execute()
        .try_collect()
        .await
        .map_err(request("list the classifiers of", &link.name))?;
    let options = messages
        .iter()
        .flat_map(|message| &message.attributes)
        .filter_map(|attribute| match attribute {
            TcAttribute::Options(options) => Some(options),
            _ => None,
        });
    let names = options.flatten().filter_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.clone()),
        _ => None,
    });
    Ok(names.collect())
}
