//! The pod's side of connections that policy no longer allows. Where the pod is the next to send, the
//! programs tell both sides. Where the other side is, the reset that answers it tells that side alone:
//! the pod hears of nothing, and its socket would wait for a client that has given up. So the kernel is
//! asked to end such sockets, which also tells the other side of an idle connection.

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

use super::{FlowsError, Owner, Socket, SocketsError, address_of, tcp_sockets};
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
    let theirs: Vec<&Socket> = theirs.filter(|socket| denied(&socket.key)).collect();
    if theirs.is_empty() {
        return Ok(0);
    }
    let end_all = || {
        theirs
            .iter()
            .map(|socket| destroy(socket))
            .collect::<Result<Vec<bool>, _>>()
    };
    let ended = netns.enter(end_all)??;
    Ok(ended.into_iter().filter(|ended| *ended).count())
}

/// Ends a socket of the calling thread's namespace. False when it is gone already.
fn destroy(socket: &Socket) -> Result<bool, SocketsError> {
    let key = &socket.key;
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
    // This one and no other: where it is gone, the kernel would find the listener behind it.
    id.cookie = socket.cookie;
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

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        time::Duration,
    };

    use socket2::SockRef;

    use super::*;

    #[test]
    fn a_connection_that_is_gone_does_not_take_its_listener_with_it() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root may end sockets");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback listener");
        let address = listener.local_addr().expect("its address");
        let connect = || {
            let client = TcpStream::connect(address).expect("a loopback connection");
            let (server, _) = listener.accept().expect("it is there");
            (client, server)
        };
        let socket_of = |server: &TcpStream| {
            let port = server.peer_addr().expect("its client").port();
            let sockets = tcp_sockets().expect("anybody may ask");
            let mut found = sockets.into_iter();
            found.find(|s| s.key.pod_port == address.port() && s.key.remote_port == port)
        };
        let (client, server) = connect();
        let gone = socket_of(&server).expect("it lives");
        SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .expect("a socket option");
        drop((client, server));
        assert!(!destroy(&gone).expect("the kernel answers"), "it is gone");
        let (_client, server) = connect();
        let lives = socket_of(&server).expect("the listener lives");
        assert!(
            destroy(&lives).expect("the kernel answers"),
            "this one is not"
        );
    }
}
