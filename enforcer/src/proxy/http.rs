//! One client's HTTP: each request is judged by itself, a refused one is answered here and the
//! connection lives on, an allowed one goes to the pod as it was judged. A change of policy finds
//! those that are being carried, and breaks off what is not allowed any more.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::poll_fn,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, UPGRADE},
    request::Parts,
};
use hyper::{body::Incoming, server, service::service_fn, upgrade};
use hyper_util::rt::{TokioIo, TokioTimer};
use policyc::{
    l7::{Answer, HttpRequest, Outcome, Upstream, answer::is_grpc, normalize::normalize},
    request::{Authorizer, Cause, Expected, Wire},
};
use tokio::{net::TcpStream, sync::watch, time::timeout};

use super::{
    Decision, Refusal, Ruling,
    authorizer::{AskHttp, Checked, Denial},
    body::{self, Download, Upload},
    conn::{Answered, Conn, Judged, Question, epoch, settled},
    guarded::Guarded,
    head::{self, BadHead, Head, Lines},
    prefixed::Prefixed,
    session::{Asked, Exchange, Session},
    taking::Watching,
    tcp,
    way::Way,
};

/// Serves one client until it or the pod ends the connection.
pub(super) async fn serve(
    conn: Arc<Conn>,
    stream: TcpStream,
    read: Vec<u8>,
    version: Version,
) -> hyper::Result<()> {
    let config = conn.shared.config.clone();
    let mut changes = conn.shared.judge.changes();
    let session = Arc::new(Session::new(Arc::clone(&conn), version != Version::HTTP_2));
    let watched = Arc::clone(&conn);
    let serving = Arc::new(Serving {
        session: Arc::clone(&session),
        changes: changes.clone(),
        way: Way::new(conn, version),
    });
    let service = service_fn(move |request| {
        let serving = Arc::clone(&serving);
        let head_alone = version == Version::HTTP_2 && request.method() == Method::HEAD;
        async move {
            let mut response = serving.answer(request).await;
            if head_alone {
                body::leave_out(&mut response);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let http1 = version != Version::HTTP_2;
    let stream = Prefixed::new(read, stream);
    let io = TokioIo::new(Guarded::new(stream, Arc::clone(&session), http1));
    let serve = async {
        if http1 {
            // Time is the guard's business.
            return server::conn::http1::Builder::new()
                .max_headers(config.headers_max)
                .max_buf_size(config.head_bytes_max.max(8_192))
                .auto_date_header(false)
                .serve_connection(io, service)
                .with_upgrades()
                .await;
        }
        let limit = u32::try_from(config.head_bytes_max).unwrap_or(u32::MAX);
        let watching = Watching {
            conn: watched,
            limit: config.body_timeout,
            refusal: Refusal::BodyTimeout,
        };
        server::conn::http2::Builder::new(watching)
            .timer(TokioTimer::new())
            .max_concurrent_streams(config.streams_max)
            .max_header_list_size(limit)
            .auto_date_header(false)
            .keep_alive_interval(Some(config.head_timeout))
            .serve_connection(io, service)
            .await
    };
    let mut serve = std::pin::pin!(serve);
    loop {
        tokio::select! {
            done = &mut serve => return done,
            changed = changes.changed() => {
                if changed.is_err() {
                    return serve.await;
                }
                session.judge_again();
            }
        }
    }
}

struct Serving {
    session: Arc<Session>,
    changes: watch::Receiver<u64>,
    way: Way,
}

/// A request on its way to a verdict.
struct Arrived {
    parts: Parts,
    head: Head,
    /// Seconds since 1970.
    now: u64,
    /// What was read of the body for an authorizer.
    held: VecDeque<Bytes>,
    answered: Option<Answered>,
    denial: Option<Denial>,
    to_client: Vec<(HeaderName, HeaderValue)>,
}

impl Serving {
    async fn answer(&self, request: Request<Incoming>) -> Response<Download> {
        let mut exchange = Exchange::begin(Arc::clone(&self.session));
        let conn = &self.session.conn;
        let (mut parts, mut body) = request.into_parts();
        let head = match head::clean(&mut parts) {
            Ok(head) => head,
            Err(bad) => return refuse_head(bad, conn, exchange),
        };
        head::identify(&mut parts.headers);
        exchange.note(&parts.method, &head, &parts.headers);
        // INVARIANT: read before the ruling, so that no change between the two goes unnoticed.
        let seen = *self.changes.borrow();
        let ruling = conn.ruling();
        if ruling.is_none() {
            conn.refuse(Refusal::NoTable);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut arrived = Arrived {
            parts,
            head,
            now: now.map_or(0, |since| since.as_secs()),
            held: VecDeque::new(),
            answered: None,
            denial: None,
            to_client: Vec::new(),
        };
        let outcome = match arrived.judge(conn, ruling.as_ref()) {
            Judged::Verdict(outcome) => outcome,
            Judged::Ask(question) => {
                let asked = arrived.ask(conn, ruling.as_ref(), &question, &mut body);
                if let Err(refusal) = asked.await {
                    exchange.failed(refusal);
                    conn.refuse(refusal);
                    return local(
                        Answer::new(413, "Payload Too Large".into(), false),
                        exchange,
                    );
                }
                match arrived.judge(conn, ruling.as_ref()) {
                    Judged::Verdict(outcome) => outcome,
                    Judged::Ask(_) => unanswered(&question, &arrived),
                }
            }
        };
        let epoch = epoch(ruling.as_ref());
        arrived.report(conn, epoch, &outcome);
        exchange.judged(epoch, &outcome);
        if outcome.verdict == Expected::Deny {
            let denial = arrived.denial.take();
            return match denial.filter(|_| outcome.cause == Cause::CustomDenied) {
                Some(denial) => denied_by(denial, arrived.is_grpc(), exchange),
                None => {
                    let answer = outcome.answer.unwrap_or_else(|| Answer::denied(false));
                    local(answer, exchange)
                }
            };
        }
        self.carry(arrived, outcome.upstream, body, exchange, seen)
            .await
    }

    async fn carry(
        &self,
        arrived: Arrived,
        changes: Upstream,
        body: Incoming,
        mut exchange: Exchange,
        seen: u64,
    ) -> Response<Download> {
        let conn = &self.session.conn;
        let grpc = arrived.is_grpc();
        let Arrived {
            mut parts,
            head,
            now,
            held,
            answered,
            to_client,
            ..
        } = arrived;
        let flight = exchange.take_off(Asked {
            method: parts.method.clone(),
            headers: parts.headers.clone(),
            head,
            now,
            answered,
        });
        if *self.changes.borrow() != seen && !flight.judge_again(conn) {
            return local(Answer::denied(grpc), exchange);
        }
        let head = &flight.asked().head;
        if let Err(why) = apply(&mut parts, head, changes, self.way.version()) {
            tracing::debug!(client = %conn.client, pod = %conn.pod, why);
            return local(Answer::bad_request(grpc), exchange);
        }
        let on_client = head.websocket.then(|| parts.extensions.remove()).flatten();
        let upload = Upload::new(held, body, Arc::clone(&flight), exchange.received());
        let request = Request::from_parts(parts, upload);
        let lost = poll_fn(|context| flight.poll_lost_down(context));
        let limit = conn.shared.config.idle_timeout;
        let carried = tokio::select! {
            biased;
            // What that was, was counted where it was seen.
            () = lost => {
                if flight.is_stuck() {
                    exchange.failed(Refusal::UpstreamTimeout);
                    return unavailable(Refusal::UpstreamTimeout, grpc, exchange);
                }
                return local(Answer::denied(grpc), exchange);
            }
            carried = timeout(limit, self.way.carry(request)) => carried,
        };
        match carried.unwrap_or(Err(Refusal::UpstreamTimeout)) {
            Ok(response) => self.finish(response, to_client, on_client, exchange),
            // The pod is not to blame; what is, was counted where it was seen.
            Err(_) if flight.is_cut() => {
                exchange.failed(Refusal::BodyTimeout);
                exchange.break_off();
                local(Answer::new(408, "Request Timeout".into(), grpc), exchange)
            }
            Err(refusal) => {
                conn.refuse(refusal);
                exchange.failed(refusal);
                unavailable(refusal, grpc, exchange)
            }
        }
    }

    /// The pod's answer, made fit for the next hop; a switch of protocols becomes a tunnel.
    fn finish(
        &self,
        mut response: Response<Incoming>,
        to_client: Vec<(HeaderName, HeaderValue)>,
        on_client: Option<upgrade::OnUpgrade>,
        mut exchange: Exchange,
    ) -> Response<Download> {
        exchange.status = response.status().as_u16();
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let on_pod = switched.then(|| upgrade::on(&mut response));
        head::remove_hop_by_hop(response.headers_mut());
        for (name, value) in to_client {
            response.headers_mut().append(name, value);
        }
        let Some(on_pod) = on_pod else {
            return response.map(|body| Download::pod(body, exchange));
        };
        let Some(on_client) = on_client else {
            // The pod switched without being asked: nothing after that could be judged.
            let refusal = Refusal::UpstreamFailed;
            self.session.conn.refuse(refusal);
            exchange.failed(refusal);
            return unavailable(refusal, false, exchange);
        };
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        self.session.switch();
        let session = Arc::clone(&self.session);
        let after = Exchange::begin(Arc::clone(&session));
        tokio::spawn(tunnel(session, exchange, on_client, on_pod));
        response.map(|body| Download::pod(body, after))
    }
}

/// Carries what the client and the pod say after the switch, as long as the request that asked for
/// it would still be allowed.
async fn tunnel(
    session: Arc<Session>,
    mut exchange: Exchange,
    on_client: upgrade::OnUpgrade,
    on_pod: upgrade::OnUpgrade,
) {
    let conn = &session.conn;
    let changes = conn.shared.judge.changes();
    let idle = conn.shared.config.idle_timeout;
    let Ok((client, pod)) = tokio::try_join!(on_client, on_pod) else {
        return;
    };
    let Some(flight) = exchange.flight().cloned() else {
        return;
    };
    let allowed = || flight.judge_again(conn);
    let (client, pod) = (TokioIo::new(client), TokioIo::new(pod));
    let carried = tcp::tunnel(client, pod, changes, allowed, idle, |_| session.reset()).await;
    exchange.sent += carried.to_client;
    if let Some(error) = carried.error {
        tracing::debug!(client = %conn.client, pod = %conn.pod, %error, "tunnel");
    }
}

impl Arrived {
    fn judge(&self, conn: &Conn, ruling: Option<&Ruling>) -> Judged {
        let answered = self.answered.as_ref();
        self.with(|request| conn.judge(ruling, Wire::Http, None, Some(request), answered))
    }

    fn report(&self, conn: &Conn, epoch: u32, outcome: &Outcome) {
        self.with(|request| conn.report(epoch, outcome, Wire::Http, None, Some(request)));
    }

    fn with<R>(&self, to: impl FnOnce(&HttpRequest<'_>) -> R) -> R {
        to(&HttpRequest {
            method: self.parts.method.as_str(),
            target: &self.head.target,
            authority: self.head.authority.as_deref(),
            headers: &Lines(&self.parts.headers),
            claims: None,
            now: self.now,
        })
    }

    fn is_grpc(&self) -> bool {
        let kind = self.parts.headers.get("content-type");
        kind.is_some_and(|kind| is_grpc(kind.as_bytes()))
    }

    /// Asks the provider, and makes the request what it answers.
    async fn ask(
        &mut self,
        conn: &Conn,
        ruling: Option<&Ruling>,
        question: &Question,
        body: &mut Incoming,
    ) -> Result<(), Refusal> {
        let settings = question.settings.as_ref().map(|known| &known.settings);
        let most = settings.and_then(|settings| settings.max_request_bytes);
        let mut ask = self.as_asked(ruling);
        if let (Some(most), Some(settings)) = (most, settings) {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            let held = body::hold(body, most).await;
            let held = held.map_err(|_broken| Refusal::BodyTimeout)?;
            if held.partial && !settings.allow_partial_message {
                return Err(Refusal::BodyTooLarge);
            }
            self.held = held.pieces;
            ask.body = Some(held.shown);
            ask.partial = held.partial;
        }
        let answer = match conn.ask(question, None, Some(ask)).await {
            Ok(Checked::Allow(changes)) => {
                changes.apply(&mut self.parts.headers);
                self.to_client = changes.to_client;
                Authorizer::Allow
            }
            Ok(Checked::Deny(denial)) => {
                self.denial = Some(denial);
                Authorizer::Deny
            }
            Err(error) => {
                let provider = &question.provider;
                tracing::warn!(provider, %error, "an authorizer failed");
                Authorizer::Error
            }
        };
        self.answered = Some(Answered {
            provider: question.provider.clone(),
            answer,
        });
        Ok(())
    }

    fn as_asked(&self, ruling: Option<&Ruling>) -> AskHttp {
        let mode = match ruling.map(|ruling| &ruling.decision) {
            Some(Decision::Ask { engine, .. }) => Some(engine.normalization()),
            _ => None,
        };
        let normal = mode.and_then(|mode| normalize(&self.head.target, mode).ok());
        let target = normal.map(|target| format!("{}{}", target.path, target.query));
        let length = self.parts.headers.get(CONTENT_LENGTH);
        AskHttp {
            version: self.parts.version,
            method: self.parts.method.clone(),
            target: target.unwrap_or_else(|| self.head.target.clone()),
            authority: self.head.authority.clone(),
            headers: self.parts.headers.clone(),
            body: None,
            partial: false,
            size: length.and_then(|length| length.to_str().ok()?.parse().ok()),
        }
    }
}

/// No answer was an answer to the question.
fn unanswered(question: &Question, arrived: &Arrived) -> Box<Outcome> {
    let rule = Some(question.rule);
    arrived.with(|request| settled(Expected::Deny, Cause::CustomError, rule, Some(request)))
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

fn refuse_head(bad: BadHead, conn: &Conn, exchange: Exchange) -> Response<Download> {
    tracing::debug!(client = %conn.client, pod = %conn.pod, why = %bad, "refused");
    conn.refuse(Refusal::AmbiguousRequest);
    let status = bad.status();
    let mut response = local(Answer::new(status, "".into(), false), exchange);
    // What follows an ambiguous head cannot be told from its body.
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// As Envoy says it.
fn unavailable(refusal: Refusal, grpc: bool, exchange: Exchange) -> Response<Download> {
    let (status, text) = match refusal {
        Refusal::UpstreamTimeout => (504, "upstream request timeout"),
        _ => (
            503,
            "upstream connect error or disconnect/reset before headers",
        ),
    };
    local(Answer::new(status, text.into(), grpc), exchange)
}

/// What an authorizer wants the client to be told.
fn denied_by(denial: Denial, grpc: bool, exchange: Exchange) -> Response<Download> {
    let text = String::from_utf8_lossy(&denial.body).into_owned();
    let mut response = if grpc {
        local(Answer::new(denial.status, text.into(), true), exchange)
    } else {
        let mut exchange = exchange;
        exchange.status = denial.status;
        let mut response = Response::new(Download::here(denial.body, exchange));
        *response.status_mut() =
            StatusCode::from_u16(denial.status).unwrap_or(StatusCode::FORBIDDEN);
        response
    };
    for (name, value) in denial.headers {
        if !(grpc && name == "content-type") {
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn local(answer: Answer, mut exchange: Exchange) -> Response<Download> {
    exchange.status = answer.status;
    let body = Bytes::from(answer.body.into_owned());
    let mut response = Response::new(Download::here(body, exchange));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
