//! One client's HTTP: each request is judged by itself, a refused one is answered here and the
//! connection lives on, an allowed one goes to the pod as it was judged.

use std::{
    convert::Infallible,
    io,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, HOST, UPGRADE},
    request::Parts,
};
use http_body_util::{Either, Full};
use hyper::{body::Incoming, client, server, service::service_fn, upgrade};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use policyc::{
    l7::{Answer, HttpRequest, Outcome, Upstream},
    request::{Expected, Wire},
};
use tokio::{net::TcpStream, sync::Mutex};

use super::{
    conn::Conn,
    head::{self, BadHead, Head, Lines},
    prefixed::Prefixed,
    tcp, upstream,
};

/// From the pod, or made here.
type Body = Either<Incoming, Full<Bytes>>;

/// The way to the pod, once an allowed request has opened it.
enum Sender {
    Http1(client::conn::http1::SendRequest<Incoming>),
    Http2(client::conn::http2::SendRequest<Incoming>),
}

struct Session {
    conn: Arc<Conn>,
    version: Version,
    sender: Mutex<Option<Sender>>,
}

/// Serves one client until it or the pod ends the connection.
pub(super) async fn serve(
    conn: Arc<Conn>,
    stream: TcpStream,
    read: Vec<u8>,
    version: Version,
) -> hyper::Result<()> {
    let config = conn.shared.config.clone();
    let session = Arc::new(Session {
        conn,
        version,
        sender: Mutex::new(None),
    });
    let service = service_fn(move |request| {
        let session = Arc::clone(&session);
        async move { Ok::<_, Infallible>(session.answer(request).await) }
    });
    let io = TokioIo::new(Prefixed::new(read, stream));
    if version == Version::HTTP_2 {
        let limit = u32::try_from(config.head_bytes_max).unwrap_or(u32::MAX);
        return server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(config.streams_max)
            .max_header_list_size(limit)
            .keep_alive_interval(Some(config.head_timeout))
            .serve_connection(io, service)
            .await;
    }
    server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.head_timeout)
        .max_headers(config.headers_max)
        .max_buf_size(config.head_bytes_max.max(8_192))
        .serve_connection(io, service)
        .with_upgrades()
        .await
}

impl Session {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let head = match head::clean(&mut parts) {
            Ok(head) => head,
            Err(bad) => return refuse_head(bad, &self.conn),
        };
        let outcome = judge(&self.conn, &parts, &head);
        if outcome.verdict == Expected::Deny {
            let answer = outcome.answer.unwrap_or_else(|| Answer::denied(false));
            return local(answer);
        }
        let original = head.websocket.then(|| parts.clone());
        if let Err(why) = apply(&mut parts, &head, outcome.upstream, self.version) {
            tracing::debug!(client = %self.conn.client, pod = %self.conn.pod, why);
            return local(Answer::bad_request(false));
        }
        let on_client = original
            .is_some()
            .then(|| parts.extensions.remove())
            .flatten();
        match self.forward(Request::from_parts(parts, body)).await {
            Ok(response) => self.finish(response, original, head, on_client),
            Err(error) => {
                tracing::debug!(client = %self.conn.client, pod = %self.conn.pod, %error, "upstream");
                unavailable()
            }
        }
    }

    /// Sends a request to the pod, on a new connection where the old one has ended in between.
    async fn forward(&self, request: Request<Incoming>) -> io::Result<Response<Incoming>> {
        let mut slot = self.sender.lock().await;
        let mut request = request;
        for first in [true, false] {
            if !slot.as_mut().is_some_and(Sender::is_usable) {
                *slot = None;
                *slot = Some(self.connect().await?);
            }
            match slot.as_mut() {
                Some(Sender::Http2(sender)) => {
                    let mut sender = sender.clone();
                    drop(slot);
                    return sender.send_request(request).await.map_err(io::Error::other);
                }
                Some(Sender::Http1(sender)) => match sender.try_send_request(request).await {
                    Ok(response) => return Ok(response),
                    Err(mut error) => match error.take_message() {
                        // Nothing of it was sent: the pod had closed an idle connection.
                        Some(unsent) if first => {
                            request = unsent;
                            *slot = None;
                        }
                        _ => return Err(io::Error::other(error.into_error())),
                    },
                },
                None => break,
            }
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    async fn connect(&self) -> io::Result<Sender> {
        let shared = &self.conn.shared;
        let (client, pod) = (self.conn.client, self.conn.pod);
        let (stream, open) = upstream::connect(&shared.config, &shared.flows, client, pod).await?;
        let io = TokioIo::new(stream);
        let sender = if self.version == Version::HTTP_2 {
            let handshake = client::conn::http2::handshake(TokioExecutor::new(), io).await;
            let (sender, connection) = handshake.map_err(io::Error::other)?;
            tokio::spawn(async move {
                let _open = open;
                let _ended = connection.await;
            });
            Sender::Http2(sender)
        } else {
            let handshake = client::conn::http1::Builder::new().handshake(io).await;
            let (sender, connection) = handshake.map_err(io::Error::other)?;
            tokio::spawn(async move {
                let _open = open;
                let _ended = connection.with_upgrades().await;
            });
            Sender::Http1(sender)
        };
        Ok(sender)
    }

    /// The pod's answer, made fit for the next hop; a switch of protocols becomes a tunnel.
    fn finish(
        &self,
        mut response: Response<Incoming>,
        original: Option<Parts>,
        head: Head,
        on_client: Option<upgrade::OnUpgrade>,
    ) -> Response<Body> {
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if !switched {
            head::remove_hop_by_hop(response.headers_mut());
            return response.map(Either::Left);
        }
        let (Some(original), Some(on_client)) = (original, on_client) else {
            // The pod switched without being asked: nothing after that could be judged.
            return unavailable();
        };
        let on_pod = upgrade::on(&mut response);
        head::remove_hop_by_hop(response.headers_mut());
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        tokio::spawn(carry(
            Arc::clone(&self.conn),
            original,
            head,
            on_client,
            on_pod,
        ));
        response.map(Either::Left)
    }
}

impl Sender {
    fn is_usable(&mut self) -> bool {
        match self {
            Self::Http1(sender) => !sender.is_closed(),
            Self::Http2(sender) => !sender.is_closed(),
        }
    }
}

/// Carries what the client and the pod say after the switch, as long as the request that asked for
/// it would still be allowed.
async fn carry(
    conn: Arc<Conn>,
    original: Parts,
    head: Head,
    on_client: upgrade::OnUpgrade,
    on_pod: upgrade::OnUpgrade,
) {
    let changes = conn.shared.judge.changes();
    let idle = conn.shared.config.idle_timeout;
    let Ok((client, pod)) = tokio::try_join!(on_client, on_pod) else {
        return;
    };
    let allowed = || judge(&conn, &original, &head).verdict == Expected::Allow;
    let (client, pod) = (TokioIo::new(client), TokioIo::new(pod));
    if let Err(error) = tcp::tunnel(client, pod, changes, allowed, idle).await {
        tracing::debug!(client = %conn.client, pod = %conn.pod, %error, "tunnel");
    }
}

fn judge(conn: &Conn, parts: &Parts, head: &Head) -> Outcome {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let request = HttpRequest {
        method: parts.method.as_str(),
        target: &head.target,
        authority: head.authority.as_deref(),
        headers: &Lines(&parts.headers),
        claims: None,
        now: now.map_or(0, |since| since.as_secs()),
    };
    conn.judge(Wire::Http, None, Some(&request))
}

/// Makes the request what was judged: the normalised target, without what the token stage takes away.
fn apply(
    parts: &mut Parts,
    head: &Head,
    changes: Upstream,
    version: Version,
) -> Result<(), &'static str> {
    for name in &changes.removed_headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "a header to remove")?;
        parts.headers.remove(name);
    }
    for (name, value) in &changes.added_headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "a header to add")?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| "a value to add")?;
        parts.headers.append(name, value);
    }
    let target = changes.target.as_deref().unwrap_or(&head.target);
    let uri = Uri::builder().path_and_query(target);
    let uri = match (&head.authority, version) {
        (Some(authority), Version::HTTP_2) => uri.scheme("http").authority(authority.as_str()),
        _ => uri,
    };
    parts.uri = uri.build().map_err(|_| "the target")?;
    if version == Version::HTTP_2 {
        parts.headers.remove(HOST);
    } else if let (Some(authority), false) = (&head.authority, parts.headers.contains_key(HOST)) {
        let host = HeaderValue::from_str(authority).map_err(|_| "the authority")?;
        parts.headers.insert(HOST, host);
    }
    parts.version = version.min(parts.version);
    Ok(())
}

fn refuse_head(bad: BadHead, conn: &Conn) -> Response<Body> {
    tracing::debug!(client = %conn.client, pod = %conn.pod, why = %bad, "refused");
    let status = bad.status();
    let mut response = local(Answer::new(status, "".into(), false));
    // What follows an ambiguous head cannot be told from its body.
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// As Envoy says it.
fn unavailable() -> Response<Body> {
    let text = "upstream connect error or disconnect/reset before headers";
    local(Answer::new(503, text.into(), false))
}

fn local(answer: Answer) -> Response<Body> {
    let body = Bytes::from(answer.body.into_owned());
    let mut response = Response::new(Either::Right(Full::new(body)));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
