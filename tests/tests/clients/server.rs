//! What runs in the pod: HTTP/1.1 and HTTP/2 on one port, on all addresses.
//!
//! Every request is answered with its method, its path and the length of its body. Of the path, some
//! endings ask for more: `events` streams, `trailers` ends with trailers, `large-N` has N bytes,
//! `hung` is never answered.

use std::{
    convert::Infallible,
    net::{Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Bytes, Frame, Incoming},
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRAILER},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tests::netns::Netns;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, oneshot},
};

/// A piece of a large body.
const PIECE: &[u8] = &[b'x'; 32 << 10];

#[derive(Default)]
pub struct Seen {
    pub requests: AtomicU64,
    /// Bytes of bodies.
    pub received: AtomicU64,
    /// Bytes of large answers.
    pub sent: AtomicU64,
    /// Lets the next event go.
    pub next: Notify,
}

/// Ends with its owner.
pub struct Server {
    pub seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ended_by_itself = stop.send(());
        }
    }
}

impl Server {
    pub fn start(netns: &Netns, port: u16) -> Result<Self> {
        let seen = Arc::new(Seen::default());
        let (stop, stopped) = oneshot::channel();
        let (ready, listening) = mpsc::channel();
        let counted = Arc::clone(&seen);
        netns.spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let at = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
                let listener = TcpListener::bind(at).await?;
                let _nobody_waits = ready.send(());
                tokio::select! {
                    failed = accept(listener, counted) => failed,
                    _ = stopped => Ok(()),
                }
            })
        });
        listening.recv().context("the server did not start")?;
        Ok(Self {
            seen,
            stop: Some(stop),
        })
    }
}

async fn accept(listener: TcpListener, seen: Arc<Seen>) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(stream, Arc::clone(&seen)));
    }
}

async fn serve(stream: TcpStream, seen: Arc<Seen>) {
    let service = service_fn(|request| {
        let seen = Arc::clone(&seen);
        async move { Ok::<_, Infallible>(answer(request, &seen).await) }
    });
    let mut first = [0; 3];
    let peeked = stream.peek(&mut first).await;
    let io = TokioIo::new(stream);
    // A client that goes away in the middle is its own affair.
    if peeked.is_ok() && &first == b"PRI" {
        let server = http2::Builder::new(TokioExecutor::new());
        let _ended = server.serve_connection(io, service).await;
    } else {
        let _ended = http1::Builder::new().serve_connection(io, service).await;
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: &Arc<Seen>,
) -> Response<BoxBody<Bytes, Infallible>> {
    seen.requests.fetch_add(1, Ordering::SeqCst);
    let (parts, mut body) = request.into_parts();
    let (mut length, mut trailer) = (0, String::new());
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            length += data.len() as u64;
            seen.received.fetch_add(data.len() as u64, Ordering::SeqCst);
        }
        if let Some(sum) = frame.trailers_ref().and_then(|t| t.get("x-sum")) {
            trailer = format!(" {}", String::from_utf8_lossy(sum.as_bytes()));
        }
    }
    let path = parts.uri.path();
    let line = format!("{} {path} {length}{trailer}\n", parts.method);
    let last = path.rsplit('/').next().unwrap_or_default();
    if let Some(count) = last.strip_prefix("large-").and_then(|n| n.parse().ok()) {
        return Response::new(large(count, Arc::clone(seen)));
    }
    if parts.method == hyper::Method::HEAD {
        let mut response = Response::new(Full::default().boxed());
        let length = HeaderValue::from(line.len());
        response.headers_mut().insert(CONTENT_LENGTH, length);
        return response;
    }
    match last {
        "events" => {
            let mut response = Response::new(events(Arc::clone(seen)));
            let kind = HeaderValue::from_static("text/event-stream");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        "trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("right"));
            // Of unknown length: what has one has no trailers in HTTP/1.
            let frames = [Frame::data(Bytes::from(line)), Frame::trailers(trailers)].map(Ok);
            let body = StreamBody::new(futures_util::stream::iter(frames));
            let mut response = Response::new(BodyExt::boxed(body));
            let named = HeaderValue::from_static("x-sum");
            response.headers_mut().insert(TRAILER, named);
            response
        }
        "hung" => std::future::pending().await,
        _ => Response::new(Full::new(Bytes::from(line)).boxed()),
    }
}

/// One event at once, and each other when it is let go; three in all.
fn events(seen: Arc<Seen>) -> BoxBody<Bytes, Infallible> {
    let events = futures_util::stream::unfold(0, move |number: u32| {
        let seen = Arc::clone(&seen);
        async move {
            if number == 3 {
                return None;
            }
            if number > 0 {
                seen.next.notified().await;
            }
            let event = Bytes::from(format!("data: {number}\n\n"));
            Some((Ok(Frame::data(event)), number + 1))
        }
    });
    BodyExt::boxed(StreamBody::new(events))
}

fn large(count: u64, seen: Arc<Seen>) -> BoxBody<Bytes, Infallible> {
    let pieces = futures_util::stream::unfold(count, move |left: u64| {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE.len());
        seen.sent.fetch_add(length as u64, Ordering::SeqCst);
        let piece = Bytes::from_static(PIECE.get(..length).unwrap_or(PIECE));
        let next = (length > 0).then(|| (Ok(Frame::data(piece)), left - length as u64));
        std::future::ready(next)
    });
    BodyExt::boxed(StreamBody::new(pieces))
}
