//! The leg to the pod: from the client's own address and port, so that the pod sees the client.

use std::{io, net::SocketAddr, sync::Arc};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{Flow, Flows, ProxyConfig, UpstreamTarget, listener};

/// Tells the kernel's memory that the leg is gone, whenever that is.
pub(super) struct OpenFlow {
    flows: Arc<dyn Flows>,
    flow: Flow,
}

impl Drop for OpenFlow {
    fn drop(&mut self) {
        self.flows.upstream_closed(self.flow);
    }
}

/// Ports tried when the client's own cannot be had.
const OTHER_PORTS: u16 = 16;
/// Outside the range from which clients and kernels pick theirs (32768 to 60999).
const OTHER_FIRST: u16 = 20_000;
const OTHER_COUNT: u16 = 12_768;

/// Connects to the pod for a client. The leg lives as long as both values returned.
pub(super) async fn connect(
    config: &ProxyConfig,
    flows: &Arc<dyn Flows>,
    client: SocketAddr,
    pod: SocketAddr,
) -> io::Result<(TcpStream, OpenFlow)> {
    let (socket, target) = match config.upstream {
        UpstreamTarget::Fixed(target) => (tcp_socket(target, None)?, target),
        UpstreamTarget::Original => {
            // INVARIANT: a socket made on a thread outside the proxy's namespace would leave by the
            // node's own routes and skip every check: refuse instead.
            if !listener::is_inside() {
                return Err(io::Error::other(
                    "this thread is not in the proxy's namespace",
                ));
            }
            (transparent(client, pod)?, pod)
        }
    };
    let remote = match config.upstream {
        UpstreamTarget::Original => socket.local_addr()?,
        UpstreamTarget::Fixed(_) => client,
    };
    let flow = Flow { pod, remote };
    flows.upstream_opening(flow)?;
    let open = OpenFlow {
        flows: Arc::clone(flows),
        flow,
    };
    let stream = timeout(config.connect_timeout, socket.connect(target)).await??;
    stream.set_nodelay(true)?;
    Ok((stream, open))
}

/// A socket bound to the client's address and port, or to another port of that address when the
/// old connection of that port lingers.
fn transparent(client: SocketAddr, pod: SocketAddr) -> io::Result<TcpSocket> {
    let taken = match tcp_socket(pod, Some(client)) {
        Err(error) if is_taken(&error) => error,
        other => return other,
    };
    // Ports that differ between clients by themselves, so that two do not chase each other.
    let first = client.port().wrapping_mul(31) % OTHER_COUNT;
    for i in 0..OTHER_PORTS {
        let port = OTHER_FIRST + (first + i * 797) % OTHER_COUNT;
        let source = SocketAddr::new(client.ip(), port);
        match tcp_socket(pod, Some(source)) {
            Err(error) if is_taken(&error) => {}
            other => {
                tracing::info!(%client, %pod, port, "the client's port is taken: another one is used");
                return other;
            }
        }
    }
    Err(taken)
}

fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable
    )
}

fn tcp_socket(target: SocketAddr, source: Option<SocketAddr>) -> io::Result<TcpSocket> {
    let socket = Socket::new(
        Domain::for_address(target),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    if let Some(source) = source {
        match source {
            SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
            SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
        }
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
    }
    Ok(TcpSocket::from_std_stream(socket.into()))
}
