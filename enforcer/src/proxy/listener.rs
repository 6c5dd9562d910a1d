//! Accepts connections in the proxy's namespace, within limits, and finds out what each speaks.

use std::{
    cell::Cell,
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use http::Version;
use policyc::request::Wire;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

use super::{
    Flows, Judge, ProxyConfig, Refusal, Reporter,
    conn::{Conn, Shared},
    http as http_side,
    refuser::Refuser,
    sniff::{self, Protocol as Spoken},
    stats::Stats,
    tcp, upstream,
};

/// The running proxy; dropping it closes every connection.
pub struct Proxy {
    shared: Arc<Shared>,
    /// Where it listens.
    pub address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Proxy {
    pub fn stats(&self) -> &Arc<Stats> {
        &self.shared.stats
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread has entered the proxy's namespace.
pub(super) fn is_inside() -> bool {
    INSIDE.get()
}

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4_096;

/// Starts the proxy on threads of its own. `enter` takes a thread into the proxy's namespace; sockets
/// belong to the namespace of the thread that makes them. A listening socket's file descriptor for
/// the kernel's map of listeners goes to `listening`.
pub fn start(
    config: ProxyConfig,
    judge: Arc<dyn Judge>,
    flows: Arc<dyn Flows>,
    reporter: Arc<dyn Reporter>,
    enter: impl Fn() -> io::Result<()> + Send + Sync + 'static,
    listening: impl FnOnce(&TcpListener) -> io::Result<()> + Send + 'static,
) -> io::Result<Proxy> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers.max(1))
        .thread_name("proxy")
        .enable_all()
        .on_thread_start(move || match enter() {
            Ok(()) => INSIDE.set(true),
            Err(error) => tracing::error!(%error, "a thread cannot enter the proxy's namespace"),
        })
        .build()?;
    let shared = Arc::new(Shared {
        judge,
        flows,
        reporter,
        stats: Arc::default(),
        config,
    });
    let address = shared.config.listen;
    let transparent = shared.config.upstream == super::UpstreamTarget::Original;
    let bind = runtime.spawn(async move {
        if !is_inside() {
            return Err(io::Error::other("not in the proxy's namespace"));
        }
        let listener = bind(address, transparent)?;
        listening(&listener)?;
        Ok(listener)
    });
    let listener = block_on(&runtime, bind)??;
    let address = listener.local_addr()?;
    let refuser = Refuser::start(&listener)?;
    runtime.spawn(accept(listener, refuser, Arc::clone(&shared)));
    Ok(Proxy {
        shared,
        address,
        runtime: Some(runtime),
    })
}

/// Waits for a task from a thread that may itself belong to another runtime.
fn block_on<T: Send + 'static>(
    runtime: &Runtime,
    task: tokio::task::JoinHandle<T>,
) -> io::Result<T> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    runtime.spawn(async move {
        let _receiver_waits = sender.send(task.await);
    });
    let result = receiver.recv().map_err(io::Error::other)?;
    result.map_err(io::Error::other)
}

/// One socket for both families; transparent, so that it answers for every pod's address. On a kernel
/// without IPv6 the socket for every address is one of IPv4.
fn bind(mut address: SocketAddr, transparent: bool) -> io::Result<TcpListener> {
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !crate::netns::has_ipv6() {
        address.set_ip(Ipv4Addr::UNSPECIFIED.into());
    }
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    if transparent {
        socket.set_ip_transparent_v4(true)?;
        if address.is_ipv6() {
            socket.set_ip_transparent_v6(true)?;
        }
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn accept(listener: TcpListener, refuser: Refuser, shared: Arc<Shared>) {
    let sources = Arc::new(Sources::default());
    let mut short_of_descriptors = false;
    loop {
        let accepted = listener.accept().await;
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if upstream::is_out_of_descriptors(&error) => {
                if !std::mem::replace(&mut short_of_descriptors, true) {
                    tracing::warn!(%error, "clients are reset until there are descriptors again");
                }
                refuse_waiting(&refuser, &shared).await;
                continue;
            }
            Err(error) => {
                // The connection has ended before it was accepted, most likely.
                tracing::debug!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
        };
        short_of_descriptors = false;
        let client = plain(client);
        shared.stats.accepted.fetch_add(1, Ordering::Relaxed);
        let seat = match Seat::take(&shared, &sources, client.ip()) {
            Ok(seat) => seat,
            Err(refusal) => {
                refuse(&shared, &stream, client, refusal);
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let _seat = seat;
            if let Err(error) = serve(shared, stream, client).await {
                tracing::debug!(%client, %error, "connection");
            }
        });
    }
}

/// Resets a connection that is not served.
fn refuse(shared: &Shared, stream: &TcpStream, client: SocketAddr, refusal: Refusal) {
    let _closed = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    let pod = stream.local_addr().map_or(shared.config.listen, plain);
    shared.refuse(client, pod, refusal);
}

/// How long before it is tried again to accept, where no descriptor was left and nobody waited: the
/// kernel asks for a free one first, and does not say whether there is a client for it.
const DESCRIPTORS_AGAIN: Duration = Duration::from_millis(10);

async fn refuse_waiting(refuser: &Refuser, shared: &Shared) {
    let refused = refuser.refuse().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "a client waits for a descriptor");
        Vec::new()
    });
    for (client, pod) in &refused {
        shared.stats.accepted.fetch_add(1, Ordering::Relaxed);
        shared.refuse(plain(*client), plain(*pod), Refusal::OutOfDescriptors);
    }
    if refused.is_empty() {
        tokio::time::sleep(DESCRIPTORS_AGAIN).await;
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, client: SocketAddr) -> io::Result<()> {
    // The listener answers for every address: the connection's own end is the pod's.
    let pod = plain(stream.local_addr()?);
    converse(Arc::new(Conn::new(shared, client, pod)), stream).await
}

/// Serves one client by what it speaks.
pub(super) async fn converse(conn: Arc<Conn>, mut stream: TcpStream) -> io::Result<()> {
    let within = conn.shared.config.sniff_timeout;
    let (spoken, read) = sniff::sniff(&mut stream, within).await?;
    let version = match &spoken {
        Spoken::Http1 if conn.may_speak_http() => Version::HTTP_11,
        Spoken::Http2 if conn.may_speak_http() => Version::HTTP_2,
        Spoken::Http1 | Spoken::Http2 | Spoken::Tcp => {
            return tcp::serve(conn, stream, read, Wire::Tcp, None).await;
        }
        Spoken::Tls { sni } => {
            return tcp::serve(conn, stream, read, Wire::Tls, sni.clone()).await;
        }
    };
    // On the heap: most of what it needs, a connection without HTTP does not.
    let served = Box::pin(http_side::serve(conn, stream, read, version)).await;
    served.map_err(io::Error::other)
}

/// An IPv4 address in IPv6 form is an IPv4 address.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[derive(Default)]
struct Sources {
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// The right to be open.
struct Seat {
    shared: Arc<Shared>,
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Seat {
    fn take(shared: &Arc<Shared>, sources: &Arc<Sources>, source: IpAddr) -> Result<Self, Refusal> {
        let limits = &shared.config;
        if shared.stats.open.load(Ordering::Relaxed) >= limits.connections_max {
            return Err(Refusal::OverLimit);
        }
        let mut open = sources.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(source).or_default();
        if *count >= limits.connections_per_source_max {
            return Err(Refusal::SourceOverLimit);
        }
        *count += 1;
        shared.stats.open.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            shared: Arc::clone(shared),
            sources: Arc::clone(sources),
            source,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.stats.open.fetch_sub(1, Ordering::Relaxed);
        let open = &self.sources.open;
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.source);
            }
        }
    }
}
