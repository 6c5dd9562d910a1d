//! A small HTTP/1.1 server and client for namespaces: what a pod would run, and what would call it.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::{Method, Request, Response, body::Bytes, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::oneshot,
};

use crate::netns::Netns;

/// How long one request may take, connecting included.
const LIMIT: Duration = Duration::from_secs(3);

/// No answer in a test is longer.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// A server on every address of a namespace; ends with its owner.
#[derive(Debug)]
pub struct Server {
    requests: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Server {
    /// Serves `200` with a line that names the server and the request. Returns once it listens.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(netns: &Netns, name: &str, port: u16) -> Result<Self> {
        let requests = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = oneshot::channel();
        let (ready, listening) = mpsc::channel();
        let (name, counted) = (name.to_owned(), requests.clone());
        let thread = netns.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let at = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
                let listener = TcpListener::bind(at).await?;
                // The starter may have given up, and then nobody is to be told.
                let _ = ready.send(());
                tokio::select! {
                    never = serve(listener, &name, &counted) => never,
                    _ = stopped => Ok(()),
                }
            })
        });
        let server = Self {
            requests,
            stop: Some(stop),
            thread: Some(thread),
        };
        match listening.recv() {
            Ok(()) => Ok(server),
            Err(_) => Err(server.failure()),
        }
    }

    /// Requests that reached the server.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn failure(mut self) -> anyhow::Error {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => error.context("the server did not start"),
            _ => anyhow!("the server did not start"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A server that has ended by itself does not listen any more.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && let Ok(Err(error)) = thread.join()
        {
            eprintln!("server: {error:#}");
        }
    }
}

/// What a client got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Response {
        status: u16,
        body: String,
    },
    /// The connection was refused or reset, and nobody answered.
    Refused,
    /// Nothing came back in time.
    Silence,
}

/// A finished exchange.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exchange {
    /// The client's own address and port, by which the verdict is found.
    pub client: SocketAddr,
    pub answer: Answer,
}

/// Sends one request on a connection of its own from `netns`, from the address `from`.
///
/// # Errors
/// When no socket can be made; a refusal is an answer.
pub fn request(
    netns: &Netns,
    from: IpAddr,
    to: SocketAddr,
    method: &str,
    path: &str,
) -> Result<Exchange> {
    netns.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let socket = match from {
                IpAddr::V4(_) => TcpSocket::new_v4()?,
                IpAddr::V6(_) => TcpSocket::new_v6()?,
            };
            socket
                .bind(SocketAddr::new(from, 0))
                .with_context(|| format!("{from} is not an address of {}", netns.name()))?;
            let client = socket.local_addr()?;
            let exchange = exchange(socket, to, method, path);
            let answer = match tokio::time::timeout(LIMIT, exchange).await {
                Ok(answer) => answer?,
                Err(_) => Answer::Silence,
            };
            Ok(Exchange { client, answer })
        })
    })
}

async fn exchange(socket: TcpSocket, to: SocketAddr, method: &str, path: &str) -> Result<Answer> {
    let stream = match socket.connect(to).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => return Ok(Answer::Silence),
        Err(_) => return Ok(Answer::Refused),
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection; what it fails with, the request fails with too.
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::from_bytes(method.as_bytes())?)
        .uri(path)
        .header("host", to.to_string())
        .body(Empty::<Bytes>::new())?;
    let answer = match sender.send_request(request).await {
        Ok(response) => {
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), MAX_BODY_BYTES)
                .collect()
                .await
                .map_err(|error| anyhow!("the body broke off: {error}"))?;
            let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            Answer::Response { status, body }
        }
        Err(_) => Answer::Refused,
    };
    connection.abort();
    Ok(answer)
}

async fn serve(listener: TcpListener, name: &str, requests: &Arc<AtomicU64>) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let (name, requests) = (name.to_owned(), requests.clone());
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            requests.fetch_add(1, Ordering::Relaxed);
            let line = format!("{name}: {} {}\n", request.method(), request.uri().path());
            async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(line)))) }
        });
        tokio::spawn(async move {
            // A client that goes away in the middle is its own affair.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
