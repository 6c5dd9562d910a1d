//! Routing netlink, in whatever network namespace: links and their relations. Thin words over
//! `rtnetlink`; knows nothing of pods.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use futures_util::{StreamExt, TryStreamExt};
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
};
use rtnetlink::Handle;

use crate::netns::{Netns, NetnsError};

/// What can go wrong when the kernel is asked about links.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("cannot open a netlink socket in `{netns}`")]
    Socket {
        netns: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error("cannot {operation} `{object}`")]
    Request {
        operation: &'static str,
        object: String,
        #[source]
        source: Box<rtnetlink::Error>,
    },
}

/// A network interface, as far as the agent cares.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Index of the other end of a veth, in the namespace `peer_netns_id`.
    pub peer: u32,
    /// Namespace id of the other end, as this namespace sees it; `None`: the same namespace.
    pub peer_netns_id: Option<i32>,
    /// Index of the bridge it is a port of, or 0.
    pub master: u32,
    pub mtu: u32,
    pub address: Vec<u8>,
    pub is_veth: bool,
    pub is_bridge: bool,
    /// As `ip -d link` names it; empty for a device of its own kind.
    pub kind: String,
}

impl Link {
    /// One of two that are joined, one of which may be in a pod.
    pub fn is_pair(&self) -> bool {
        self.is_veth || self.is_netkit()
    }

    pub fn is_netkit(&self) -> bool {
        self.kind == "netkit"
    }
}

/// Netlink of the namespace `netns`. Must be called within a tokio runtime.
pub fn connect(netns: &Netns) -> Result<Handle, NetlinkError> {
    let runtime = tokio::runtime::Handle::current();
    let opened = netns.enter(|| {
        let _within = runtime.enter();
        rtnetlink::new_connection()
    })?;
    let (connection, handle, _) = opened.map_err(|source| NetlinkError::Socket {
        netns: netns.path().display().to_string(),
        source,
    })?;
    runtime.spawn(connection);
    Ok(handle)
}

/// Every link of the namespace, by index.
pub async fn links(handle: &Handle) -> Result<Vec<Link>, NetlinkError> {
    let mut links: Vec<Link> = handle
        .link()
        .get()
        .execute()
        .map_ok(|message| link_of(&message))
        .try_collect()
        .await
        .map_err(request("list", "links"))?;
    links.sort_by_key(|link| link.index);
    Ok(links)
}

/// The link of that name, or `None`.
pub async fn link(handle: &Handle, name: &str) -> Result<Option<Link>, NetlinkError> {
    let mut found = handle.link().get().match_name(name.to_owned()).execute();
    match found.try_next().await {
        Ok(message) => Ok(message.as_ref().map(link_of)),
        Err(rtnetlink::Error::NetlinkError(error))
            if error.raw_code() == -rustix::io::Errno::NODEV.raw_os_error() =>
        {
            Ok(None)
        }
        Err(error) => Err(request("look up", name)(error)),
    }
}

/// The id by which the namespace behind `handle` knows `other`; gives it one when it has none.
pub async fn netns_id(handle: &Handle, other: &Netns) -> Result<i32, NetlinkError> {
    if let Some(id) = known_netns_id(handle, other).await? {
        return Ok(id);
    }
    let mut message = NsidMessage::default();
    message.attributes.push(fd_attribute(other));
    message.attributes.push(NsidAttribute::Id(-1)); // the kernel chooses
    let mut request_message = NetlinkMessage::from(RouteNetlinkMessage::NewNsId(message));
    request_message.header.flags = NLM_F_REQUEST | netlink_packet_core::NLM_F_ACK;
    answers(handle, request_message, "name a namespace", other).await?;
    known_netns_id(handle, other)
        .await?
        .ok_or_else(|| NetlinkError::Request {
            operation: "find the id of namespace",
            object: other.path().display().to_string(),
            source: Box::new(rtnetlink::Error::RequestFailed),
        })
}

/// The id by which the namespace behind `handle` knows `other`, if it has one.
pub async fn known_netns_id(handle: &Handle, other: &Netns) -> Result<Option<i32>, NetlinkError> {
    let mut message = NsidMessage::default();
    message.attributes.push(fd_attribute(other));
    let mut request_message = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
    request_message.header.flags = NLM_F_REQUEST;
    let answers = answers(handle, request_message, "find the id of namespace", other).await?;
    Ok(answers
        .iter()
        .flat_map(|answer| &answer.attributes)
        .find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if *id >= 0 => Some(*id),
            _ => None,
        }))
}

fn fd_attribute(netns: &Netns) -> NsidAttribute {
    // File descriptors are never negative while they are open.
    NsidAttribute::Fd(u32::try_from(netns.as_fd().as_raw_fd()).unwrap_or(u32::MAX))
}

async fn answers(
    handle: &Handle,
    message: NetlinkMessage<RouteNetlinkMessage>,
    operation: &'static str,
    other: &Netns,
) -> Result<Vec<NsidMessage>, NetlinkError> {
    let failed = |source| NetlinkError::Request {
        operation,
        object: other.path().display().to_string(),
        source: Box::new(source),
    };
    let mut handle = handle.clone();
    let mut stream = handle.request(message).map_err(failed)?;
    let mut answers = Vec::new();
    while let Some(answer) = stream.next().await {
        match answer.payload {
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewNsId(m) | RouteNetlinkMessage::GetNsId(m),
            ) => answers.push(m),
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(failed(rtnetlink::Error::NetlinkError(error)));
            }
            _ => {}
        }
    }
    Ok(answers)
}

/// Turns what `rtnetlink` says into an error that names the operation and its object.
pub fn request(
    operation: &'static str,
    object: &str,
) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    let object = object.to_owned();
    move |source| NetlinkError::Request {
        operation,
        object,
        source: Box::new(source),
    }
}

fn link_of(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Link(peer) => link.peer = *peer,
            LinkAttribute::LinkNetNsId(id) if *id >= 0 => link.peer_netns_id = Some(*id),
            LinkAttribute::Controller(master) => link.master = *master,
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(address) => link.address.clone_from(address),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    let LinkInfo::Kind(kind) = info else {
                        continue;
                    };
                    link.kind = kind.to_string();
                    link.is_veth = *kind == InfoKind::Veth;
                    link.is_bridge = *kind == InfoKind::Bridge;
                }
            }
            _ => {}
        }
    }
    link
}
