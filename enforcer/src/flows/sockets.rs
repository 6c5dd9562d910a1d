//! The TCP sockets of a network namespace, as the kernel's sock_diag tells them.

use std::{collections::BTreeSet, io, ops::RangeInclusive};

use enforcer_ebpf::flow::FlowKey;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{
        AF_INET, AF_INET6, IPPROTO_TCP, TCP_CLOSE, TCP_LISTEN, TCP_SYN_RECV, TCP_TIME_WAIT,
    },
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};
use netlink_sys::{SocketAddr, protocols::NETLINK_SOCK_DIAG};

use super::words_of;

/// A TCP socket, seen from its owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Socket {
    pub key: FlowKey,
    /// As in the kernel's `tcp_states.h`.
    pub state: u8,
    /// Which of the sockets that have had this key it is.
    pub cookie: [u8; 8],
}

/// What can go wrong when the kernel is asked for sockets.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    #[error("cannot {operation} the kernel's socket tables")]
    Diag {
        operation: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the kernel's socket tables read strangely")]
    Decode {
        #[source]
        source: netlink_packet_core::DecodeError,
    },
}

impl Socket {
    /// Its connection is not over, and it is one.
    pub fn is_live(&self) -> bool {
        ![TCP_LISTEN, TCP_CLOSE, TCP_TIME_WAIT].contains(&self.state)
    }
}

/// Every TCP socket of the calling thread's namespace.
pub fn tcp_sockets() -> Result<Vec<Socket>, SocketsError> {
    of_both_families(&StateFlags::all())
}

/// The connections of the calling thread's namespace that are not over, those that are being opened
/// included.
pub fn live_connections() -> Result<Vec<FlowKey>, SocketsError> {
    // Left out by the kernel: a busy proxy leaves many that only wait for stray segments.
    let over = StateFlags::LISTEN | StateFlags::CLOSE | StateFlags::TIME_WAIT;
    let sockets = of_both_families(&StateFlags::all().difference(over))?;
    Ok(sockets.into_iter().map(|socket| socket.key).collect())
}

fn of_both_families(states: &StateFlags) -> Result<Vec<Socket>, SocketsError> {
    let mut sockets = Vec::new();
    for family in [AF_INET, AF_INET6] {
        dump(family, states, &mut sockets)?;
    }
    Ok(sockets)
}

/// The connections that the owner of `sockets` seems to have opened: on a local port that the
/// kernel gives out, and that nobody listens on.
pub fn connections(sockets: &[Socket], ephemeral: &RangeInclusive<u16>) -> Vec<FlowKey> {
    let listening: BTreeSet<u16> = sockets
        .iter()
        .filter(|s| s.state == TCP_LISTEN)
        .map(|s| s.key.pod_port)
        .collect();
    sockets
        .iter()
        .filter(|s| s.is_live() && s.state != TCP_SYN_RECV)
        .filter(|s| ephemeral.contains(&s.key.pod_port) && !listening.contains(&s.key.pod_port))
        .map(|s| s.key)
        .collect()
}

/// Ports that the kernel gives to connections that ask for none, in the calling thread's namespace.
pub fn ephemeral_ports() -> RangeInclusive<u16> {
    let default = 32_768..=60_999;
    let Ok(text) = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range") else {
        return default;
    };
    let ports: Vec<u16> = text.split_whitespace().flat_map(str::parse).collect();
    match ports[..] {
        [first, last] => first..=last,
        _ => default,
    }
}

fn dump(family: u8, states: &StateFlags, sockets: &mut Vec<Socket>) -> Result<(), SocketsError> {
    let failed = |operation| move |source| SocketsError::Diag { operation, source };
    let mut socket = netlink_sys::Socket::new(NETLINK_SOCK_DIAG).map_err(failed("open"))?;
    socket.bind_auto().map_err(failed("bind to"))?;
    socket
        .connect(&SocketAddr::new(0, 0))
        .map_err(failed("connect to"))?;
    let request = request(family, states);
    socket.send(&request, 0).map_err(failed("ask"))?;
    loop {
        let (answer, _) = socket.recv_from_full().map_err(failed("read"))?;
        if read_answer(&answer, sockets)? {
            return Ok(());
        }
    }
}

fn request(family: u8, states: &StateFlags) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let any = if family == AF_INET {
        SocketId::new_v4()
    } else {
        SocketId::new_v6()
    };
    let mut message = NetlinkMessage::new(
        header,
        NetlinkPayload::from(SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: states.clone(),
            socket_id: any,
        })),
    );
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Reads one datagram of the answer. Whether it was the last.
fn read_answer(answer: &[u8], sockets: &mut Vec<Socket>) -> Result<bool, SocketsError> {
    let mut rest = answer;
    while !rest.is_empty() {
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
            .map_err(|source| SocketsError::Decode { source })?;
        match &message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                sockets.push(socket_of(response));
            }
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(SocketsError::Diag {
                    operation: "ask",
                    source: error.to_io(),
                });
            }
            _ => {}
        }
        // Messages are padded to four bytes.
        let length = (message.header.length as usize).next_multiple_of(4);
        if length == 0 {
            break;
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(false)
}

fn socket_of(response: &InetResponse) -> Socket {
    let id = &response.header.socket_id;
    Socket {
        key: FlowKey {
            pod: words_of(id.source_address.to_canonical()),
            remote: words_of(id.destination_address.to_canonical()),
            pod_port: id.source_port,
            remote_port: id.destination_port,
        },
        state: response.header.state,
        cookie: id.cookie,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(local: u16, remote: u16, state: u8) -> Socket {
        Socket {
            key: FlowKey {
                pod: [0, 0, 0xffff, 0x0a00_0002],
                remote: [0, 0, 0xffff, 0x0a00_0003],
                pod_port: local,
                remote_port: remote,
            },
            state,
            cookie: [0; 8],
        }
    }

    #[test]
    fn only_connections_from_ports_nobody_listens_on_count_as_opened() {
        const ESTABLISHED: u8 = 1;
        let sockets = [
            socket(80, 0, TCP_LISTEN),
            socket(80, 40_000, ESTABLISHED),
            socket(40_001, 80, ESTABLISHED),
            socket(40_002, 0, TCP_LISTEN),
            socket(40_002, 50_000, ESTABLISHED),
            socket(40_003, 80, TCP_TIME_WAIT),
            socket(8_080, 50_001, ESTABLISHED),
        ];
        let opened: Vec<u16> = connections(&sockets, &(32_768..=60_999))
            .iter()
            .map(|key| key.pod_port)
            .collect();
        assert_eq!(
            opened,
            [40_001],
            "not the listeners' connections, not a dead one, and not one from a service's port \
             whose listener may have closed"
        );
    }

    #[test]
    fn our_own_connection_is_found_in_the_kernels_tables() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback listener");
        let address = listener.local_addr().expect("its address");
        let client = std::net::TcpStream::connect(address).expect("a loopback connection");
        let port = client.local_addr().expect("its address").port();
        let sockets = tcp_sockets().expect("an ordinary user may ask, too");
        let opened = connections(&sockets, &(1..=u16::MAX));
        assert!(
            opened
                .iter()
                .any(|key| key.pod_port == port && key.remote_port == address.port()),
            "the client's end counts as opened"
        );
        assert!(
            !opened.iter().any(|key| key.pod_port == address.port()),
            "the server's end does not"
        );
        let live = |end: u16| {
            let live = live_connections().expect("as above");
            live.iter().filter(|key| key.pod_port == end).count()
        };
        // Nobody has accepted it: the server's end is alive all the same. The listener is none.
        assert_eq!((live(port), live(address.port())), (1, 1));
        drop(client);
        drop(listener);
        assert_eq!((live(port), live(address.port())), (0, 0));
    }
}
