//! The pod's side of connections that policy no longer allows. The other side is told by the reset
//! that answers its next segment; the pod hears of nothing, and its socket would wait for a client
//! that has given up. So the kernel is asked to end such sockets, which also tells the other side of
//! an idle connection.

use std::net::SocketAddr;

use aya::maps::{HashMap, Map, MapData, MapError};
use enforcer_ebpf::flow::{FlowKey, ProxyValue};
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{SocketAddr as NetlinkAddress, protocols::NETLINK_SOCK_DIAG};

use super::{FlowsError, Owner, SocketsError, address_of, tcp_sockets};
use crate::plain::Plain;

/// `SOCK_DESTROY` of `linux/sock_diag.h`.
const DESTROY: u16 = 21;

/// Flows of which the remote address does not tell how they are judged.
#[derive(Debug)]
pub struct Exempt {
    upstream: HashMap<MapData, Plain<FlowKey>, Plain<ProxyValue>>,
    makers: HashMap<MapData, Plain<FlowKey>, u32>,
}

impl Exempt {
    /// Of the maps UPSTREAM and MASQUERADED.
    pub fn new(upstream: Map, makers: Map) -> Result<Self, FlowsError> {
        let failed = |source| FlowsError::Open {
            source: Box::new(source),
        };
        Ok(Self {
            upstream: upstream.try_into().map_err(failed)?,
            makers: makers.try_into().map_err(failed)?,
        })
    }

    /// The proxy's own leg, or begun by somebody else than its address says.
    pub fn has(&self, key: &FlowKey) -> bool {
        // What cannot be looked up is left alone.
        let absent = |error| matches!(error, Err(MapError::KeyNotFound));
        !absent(self.upstream.get(&Plain(*key), 0).map(drop))
            || !absent(self.makers.get(&Plain(*key), 0).map(drop))
    }
}

/// Ends the connections of a pod that `denied` names. Returns how many.
pub fn end(owner: &Owner<'_>, denied: impl Fn(&FlowKey) -> bool) -> Result<usize, FlowsError> {
    let Some(netns) = owner.netns else {
        return Ok(0);
    };
    let sockets = netns.enter(tcp_sockets)??;
    let theirs = sockets.iter().filter(|socket| {
        socket.is_live() && owner.addresses.contains(&address_of(&socket.key.pod))
    });
    let keys: Vec<FlowKey> = theirs.map(|s| s.key).filter(|key| denied(key)).collect();
    if keys.is_empty() {
        return Ok(0);
    }
    let ended = netns.enter(|| keys.iter().map(destroy).collect::<Result<Vec<bool>, _>>())??;
    Ok(ended.into_iter().filter(|ended| *ended).count())
}

/// Ends a socket of the calling thread's namespace. False when it is gone already.
fn destroy(key: &FlowKey) -> Result<bool, SocketsError> {
    let failed = |operation| move |source| SocketsError::Diag { operation, source };
    let (local, remote) = (
        SocketAddr::new(address_of(&key.pod), key.pod_port),
        SocketAddr::new(address_of(&key.remote), key.remote_port),
    );
    let (family, mut id) = match local {
        SocketAddr::V4(_) => (AF_INET, SocketId::new_v4()),
        SocketAddr::V6(_) => (AF_INET6, SocketId::new_v6()),
    };
    id.source_address = local.ip();
    id.destination_address = remote.ip();
    id.source_port = local.port();
    id.destination_port = remote.port();
    id.cookie = [0xff; 8]; // whichever it is
    let mut message = NetlinkMessage::from(SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: id,
    }));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.finalize();
    message.header.message_type = DESTROY;
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    let mut socket = netlink_sys::Socket::new(NETLINK_SOCK_DIAG).map_err(failed("open"))?;
    socket.bind_auto().map_err(failed("bind to"))?;
    socket
        .connect(&NetlinkAddress::new(0, 0))
        .map_err(failed("connect to"))?;
    socket.send(&bytes, 0).map_err(failed("ask"))?;
    let (answer, _) = socket.recv_from_full().map_err(failed("read"))?;
    let answer = NetlinkMessage::<SockDiagMessage>::deserialize(&answer)
        .map_err(|source| SocketsError::Decode { source })?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => match error.to_io() {
            error if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            source => Err(SocketsError::Diag {
                operation: "end a socket of",
                source,
            }),
        },
        _ => Ok(true),
    }
}
