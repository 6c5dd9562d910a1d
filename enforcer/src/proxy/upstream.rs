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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::{self, Netns};

    const NAME: &str = "enf-test-upstream";

    /// Removes the namespace however the test ends.
    struct Removed;

    impl Drop for Removed {
        fn drop(&mut self) {
            let _gone = netns::remove(NAME);
        }
    }

    /// In a namespace in which every address is local, as in the proxy's own.
    fn in_namespace(work: impl FnOnce() + Send) {
        if !rustix::process::geteuid().is_root() {
            assert!(
                std::env::var_os("CI").is_none(),
                "this test must run as root under CI"
            );
            println!("skipped: making a network namespace takes root");
            return;
        }
        let _gone = netns::remove(NAME);
        let netns = Netns::create(NAME).expect("a namespace");
        let _removed = Removed;
        let entered = netns.enter(|| {
            for arguments in [
                "link set lo up",
                "route add local 0.0.0.0/0 dev lo table local",
                "-6 route add local ::/0 dev lo table local",
                "-6 addr add fd00:8::1/128 dev lo nodad",
            ] {
                let status = std::process::Command::new("ip")
                    .args(arguments.split(' '))
                    .status();
                assert!(status.expect("iproute2").success(), "ip {arguments}");
            }
            work();
        });
        entered.expect("the namespace can be entered");
    }

    #[test]
    fn the_pod_sees_the_client_and_another_port_only_where_its_own_is_taken() {
        in_namespace(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async {
                for (client, pod) in [
                    ("10.7.0.9:41000", "10.8.0.1:8080"),
                    ("[fd00:7::9]:41000", "[fd00:8::1]:8080"),
                    ("10.7.0.9:700", "10.8.0.2:8080"),
                ] {
                    let [client, pod]: [SocketAddr; 2] =
                        [client, pod].map(|a| a.parse().expect("an address"));
                    let listener = tokio::net::TcpListener::bind(pod)
                        .await
                        .expect("it is local");
                    let connect = async || {
                        let socket = transparent(client, pod).expect("a socket");
                        let stream = socket.connect(pod).await.expect("the pod listens");
                        (stream, listener.accept().await.expect("a connection").1)
                    };
                    let (kept, seen) = connect().await;
                    assert_eq!(seen, client, "the client's own address and port");
                    drop(kept);
                    let taken = Socket::new(Domain::for_address(pod), Type::STREAM, None);
                    let taken = taken.expect("a socket");
                    taken.set_ip_transparent_v4(true).expect("root");
                    if client.is_ipv6() {
                        taken.set_ip_transparent_v6(true).expect("root");
                    }
                    let other = SocketAddr::new(client.ip(), client.port() + 1);
                    taken.bind(&other.into()).expect("a free port");
                    let socket = transparent(other, pod).expect("another port");
                    let stream = socket.connect(pod).await.expect("the pod listens");
                    let (_, seen) = listener.accept().await.expect("a connection");
                    assert_eq!(seen.ip(), other.ip(), "the address stays the client's");
                    assert!(
                        (OTHER_FIRST..32_768).contains(&seen.port()),
                        "port {}",
                        seen.port()
                    );
                    drop(stream);
                }
            });
        });
    }

    #[test]
    fn nothing_leaves_from_outside_the_namespace() {
        struct Nothing;
        impl Flows for Nothing {
            fn upstream_opening(&self, _: Flow) -> io::Result<()> {
                panic!("it must not come so far");
            }
            fn upstream_closed(&self, _: Flow) {}
            fn client_closed(&self, _: Flow) {}
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            let config = ProxyConfig::default();
            let flows: Arc<dyn Flows> = Arc::new(Nothing);
            let [client, pod] = ["127.0.0.1:1", "127.0.0.1:2"].map(|a| a.parse().expect("it"));
            let connected = connect(&config, &flows, client, pod).await;
            assert!(
                connected.is_err(),
                "this thread never entered the namespace"
            );
        });
    }
}
