//! The leg to the pod: from the client's own address and port, so that the pod sees the client.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpStream, time::timeout};

use super::{Flow, Flows, ProxyConfig, Refusal, UpstreamTarget, listener};

/// Tells the kernel's memory that the leg is let go of, whenever that is.
pub(super) struct OpenFlow {
    flows: Arc<dyn Flows>,
    flow: Flow,
}

impl OpenFlow {
    /// To be called before the leg's first segment.
    fn announce(flows: &Arc<dyn Flows>, pod: SocketAddr, remote: SocketAddr) -> io::Result<Self> {
        let flow = Flow { pod, remote };
        let opening = flows.upstream_opening(flow);
        opening.map_err(|error| io::Error::other(Unannounced(error)))?;
        Ok(Self {
            flows: Arc::clone(flows),
            flow,
        })
    }
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

/// Who says the first word on a leg.
#[derive(Clone, Copy, Debug)]
pub(super) enum First<'a> {
    /// The client: these bytes, or others that come at once.
    Client(&'a [u8]),
    /// The pod, as far as is known.
    Pod,
}

/// The way to the pod of one connection.
pub(super) struct Leg {
    pub stream: TcpStream,
    /// Of the client's first bytes, those that are on their way.
    pub sent: usize,
    /// To be dropped after the stream.
    pub open: OpenFlow,
}

/// Connects to the pod for a client.
pub(super) async fn connect(
    config: &ProxyConfig,
    flows: &Arc<dyn Flows>,
    client: SocketAddr,
    pod: SocketAddr,
    first: First<'_>,
) -> io::Result<Leg> {
    let limit = config.connect_timeout;
    match config.upstream {
        UpstreamTarget::Fixed(target) => {
            let open = OpenFlow::announce(flows, pod, client)?;
            let socket = tcp_socket(target, None)?;
            begin(limit, open, socket, target, first).await
        }
        UpstreamTarget::Original => {
            // INVARIANT: a socket made on a thread outside the proxy's namespace would leave by the
            // node's own routes and skip every check: refuse instead.
            if !listener::is_inside() {
                return Err(io::Error::other(
                    "this thread is not in the proxy's namespace",
                ));
            }
            transparent(limit, flows, client, pod, first).await
        }
    }
}

/// Connects from the client's address and port, or from another port of that address where the old
/// connection of that port lingers. The kernel finds out when it connects, seldom when it binds.
async fn transparent(
    limit: Duration,
    flows: &Arc<dyn Flows>,
    client: SocketAddr,
    pod: SocketAddr,
    first: First<'_>,
) -> io::Result<Leg> {
    let mut taken = io::ErrorKind::AddrInUse.into();
    for source in sources(client) {
        match from_source(limit, flows, source, pod, first).await {
            Err(error) if is_taken(&error) => taken = error,
            other => {
                if source != client {
                    let port = source.port();
                    tracing::info!(%client, %pod, port, "the client's port is taken: another one is used");
                }
                return other;
            }
        }
    }
    Err(taken)
}

/// The client's own address and port, then other ports of that address.
fn sources(client: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    // Ports that differ between clients by themselves, so that two do not chase each other.
    let first = client.port().wrapping_mul(31) % OTHER_COUNT;
    let others = (0..OTHER_PORTS).map(move |i| OTHER_FIRST + (first + i * 797) % OTHER_COUNT);
    let others = others.map(move |port| SocketAddr::new(client.ip(), port));
    std::iter::once(client).chain(others)
}

async fn from_source(
    limit: Duration,
    flows: &Arc<dyn Flows>,
    source: SocketAddr,
    pod: SocketAddr,
    first: First<'_>,
) -> io::Result<Leg> {
    let socket = tcp_socket(pod, Some(source))?;
    let open = OpenFlow::announce(flows, pod, source)?;
    begin(limit, open, socket, pod, first).await
}

/// Connects, and says the first word where it is the client's.
async fn begin(
    limit: Duration,
    open: OpenFlow,
    socket: Socket,
    target: SocketAddr,
    first: First<'_>,
) -> io::Result<Leg> {
    let bytes = match first {
        First::Client(bytes) => {
            // The acknowledgement that ends the handshake goes with the first bytes, not before them.
            socket.set_tcp_quickack(false)?;
            bytes
        }
        First::Pod => &[],
    };
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    // A pod of this node has answered before the call returns. Sending tells, even sending nothing.
    let sent = match socket.send_with_flags(bytes, libc::MSG_NOSIGNAL) {
        Ok(sent) => Some(sent),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => return Err(error),
    };
    let stream = TcpStream::from_std(socket.into())?;
    if sent.is_none() {
        timeout(limit, stream.writable()).await??;
        stream.take_error()?.map_or(Ok(()), Err)?;
    }
    let sent = sent.unwrap_or(0);
    Ok(Leg { stream, sent, open })
}

fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable
    )
}

/// What an error of this leg is called.
pub(super) fn refusal(error: &io::Error) -> Refusal {
    use io::ErrorKind::{
        AddrInUse, AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable,
        TimedOut,
    };
    match error.kind() {
        _ if is_out_of_descriptors(error) => Refusal::OutOfDescriptors,
        ConnectionRefused | HostUnreachable | NetworkUnreachable => Refusal::UpstreamRefused,
        TimedOut => Refusal::UpstreamTimeout,
        AddrInUse | AddrNotAvailable => Refusal::UpstreamUnavailable,
        _ if error.get_ref().is_some_and(|e| e.is::<Unannounced>()) => Refusal::UpstreamUnavailable,
        _ => Refusal::UpstreamFailed,
    }
}

/// Neither the process nor the system may open a further file.
pub(super) fn is_out_of_descriptors(error: &io::Error) -> bool {
    [libc::EMFILE, libc::ENFILE]
        .map(Some)
        .contains(&error.raw_os_error())
}

/// The kernel's memory has no room for the leg.
#[derive(Debug, thiserror::Error)]
#[error("the leg to the pod cannot be announced to the kernel")]
struct Unannounced(#[source] io::Error);

fn tcp_socket(target: SocketAddr, source: Option<SocketAddr>) -> io::Result<Socket> {
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
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{
        netns::{self, Netns},
        proxy::Maker,
    };

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

    /// Remembers which legs were announced and let go of.
    #[derive(Default)]
    struct Told(Mutex<Vec<(&'static str, SocketAddr)>>);

    impl Flows for Told {
        fn client_opened(&self, _: Flow) -> Maker {
            Maker::Unknown
        }
        fn upstream_opening(&self, flow: Flow) -> io::Result<()> {
            self.0.lock().expect("whole").push(("open", flow.remote));
            Ok(())
        }
        fn upstream_closed(&self, flow: Flow) {
            self.0.lock().expect("whole").push(("closed", flow.remote));
        }
        fn client_closed(&self, _: Flow) {}
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
                    another_port_where_its_own_is_taken(client, pod).await;
                }
            });
        });
    }

    async fn another_port_where_its_own_is_taken(client: SocketAddr, pod: SocketAddr) {
        let listener = tokio::net::TcpListener::bind(pod)
            .await
            .expect("it is local");
        let told = Arc::new(Told::default());
        let flows: Arc<dyn Flows> = told.clone();
        let connect = async |client| {
            let limit = Duration::from_secs(5);
            let leg = transparent(limit, &flows, client, pod, First::Pod).await;
            let leg = leg.expect("the pod listens");
            let (stream, seen) = listener.accept().await.expect("a connection");
            (leg, stream, seen)
        };
        let other = |seen: SocketAddr| {
            assert_eq!(seen.ip(), client.ip(), "the address stays the client's");
            let port = seen.port();
            assert!((OTHER_FIRST..32_768).contains(&port), "port {port}");
        };
        let (_first, _stream, seen) = connect(client).await;
        assert_eq!(seen, client, "the client's own address and port");
        // The old leg is still there: the kernel says so when the new one connects.
        let (_second, _stream, seen) = connect(client).await;
        other(seen);
        let heard = std::mem::take(&mut *told.0.lock().expect("whole"));
        assert_eq!(
            heard,
            [
                ("open", client),
                ("open", client),
                ("closed", client),
                ("open", seen)
            ],
            "each attempt is announced before its first segment, and the failed one taken back"
        );
        // A port that somebody has for himself.
        let next = SocketAddr::new(client.ip(), client.port() + 1);
        let alone = Socket::new(Domain::for_address(pod), Type::STREAM, None);
        let alone = alone.expect("a socket");
        alone.set_ip_transparent_v4(true).expect("root");
        if client.is_ipv6() {
            alone.set_ip_transparent_v6(true).expect("root");
        }
        alone.bind(&next.into()).expect("a free port");
        let (_third, _stream, seen) = connect(next).await;
        other(seen);
    }

    /// A leg to a pod on loopback, in 300 ms or not at all.
    async fn leg(pod: SocketAddr, first: First<'_>) -> io::Result<Leg> {
        let config = ProxyConfig {
            upstream: UpstreamTarget::Fixed(pod),
            connect_timeout: Duration::from_millis(300),
            ..ProxyConfig::default()
        };
        let flows: Arc<dyn Flows> = Arc::new(Told::default());
        connect(&config, &flows, ([127, 0, 0, 1], 1).into(), pod, first).await
    }

    #[tokio::test]
    async fn the_clients_first_bytes_are_on_their_way_once_the_pod_accepts() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let pod = listener.local_addr().expect("an address");
        for (first, sent) in [(First::Client(b"hello"), "hello"), (First::Pod, "")] {
            let leg = leg(pod, first).await.expect("the pod listens");
            assert_eq!(leg.sent, sent.len());
            drop(leg);
            let (stream, _) = listener.accept().expect("a connection");
            let received = io::read_to_string(stream).expect("until its end");
            assert_eq!(received, sent, "{first:?}");
        }
    }

    #[tokio::test]
    async fn a_pod_that_refuses_or_is_silent_is_told_apart() {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        listener.bind(&any.into()).expect("a port");
        let pod = listener.local_addr().expect("an address").as_socket();
        let pod = pod.expect("an address of IP");
        for first in [First::Client(b"hello"), First::Client(b""), First::Pod] {
            let error = leg(pod, first).await.err().expect("nobody listens");
            assert_eq!(refusal(&error), Refusal::UpstreamRefused, "{first:?}");
        }
        // A full queue: further opening segments are not answered.
        listener.listen(0).expect("it is bound");
        let mut waiting = Vec::new();
        let error = loop {
            match leg(pod, First::Client(b"hello")).await {
                Ok(leg) => waiting.push(leg),
                Err(error) => break error,
            }
            assert!(waiting.len() < 16, "a queue of nobody is full soon");
        };
        assert_eq!(refusal(&error), Refusal::UpstreamTimeout);
    }

    #[test]
    fn nothing_leaves_from_outside_the_namespace() {
        struct Nothing;
        impl Flows for Nothing {
            fn client_opened(&self, _: Flow) -> Maker {
                Maker::Unknown
            }
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
            let connected = connect(&config, &flows, client, pod, First::Pod).await;
            assert!(
                connected.is_err(),
                "this thread never entered the namespace"
            );
        });
    }
}
