//! Answers requests as an API server does: lists by pages, and watches.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use anyhow::Result;
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Bytes, Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

use super::{
    Shared,
    store::{Further, Line, Selection},
};

/// Kinds that are served, with the path that goes before.
const KINDS: [(&str, &[&str]); 2] = [
    (
        "/api/v1/",
        &[
            "pods",
            "namespaces",
            "services",
            "nodes",
            "serviceaccounts",
            "configmaps",
        ],
    ),
    (
        "/apis/security.istio.io/v1/",
        &["authorizationpolicies", "requestauthentications"],
    ),
];

pub async fn serve(listener: TcpListener, shared: Arc<Shared>) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        if *shared.down.borrow() {
            continue;
        }
        tokio::spawn(converse(stream, shared.clone()));
    }
}

async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    let mut down = shared.down.subscribe();
    let answering = shared.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = answering.clone();
        async move { Ok::<_, Infallible>(answer(&request, shared).await) }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // A client that goes away in the middle is its own affair.
        _ended = connection => {}
        _down = down.wait_for(|down| *down) => {}
    }
}

/// What is asked for.
#[derive(Default)]
struct Question {
    selection: Selection,
    limit: Option<usize>,
    further: Option<Further>,
    /// From which version.
    watch: Option<u64>,
    timeout: Option<Duration>,
}

async fn answer(request: &Request<Incoming>, shared: Arc<Shared>) -> Response<Text> {
    let path = request.uri().path();
    let Some((kind, namespace)) = kind_of(path) else {
        return refused(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find it",
        );
    };
    let question = match question(request.uri().query().unwrap_or_default(), namespace) {
        Ok(question) => question,
        Err(what) => return refused(StatusCode::BAD_REQUEST, "BadRequest", &what),
    };
    if shared.store().is_forbidden(kind) {
        let message = format!("{kind} is forbidden: the user cannot read it");
        return refused(StatusCode::FORBIDDEN, "Forbidden", &message);
    }
    match question.watch {
        Some(since) => watch(kind, question, since, &shared),
        None => list(kind, question, &shared).await,
    }
}

async fn list(kind: &'static str, question: Question, shared: &Shared) -> Response<Text> {
    let slow = shared.store().slow;
    if !slow.is_zero() {
        tokio::time::sleep(slow).await;
    }
    let limit = question.limit.unwrap_or(usize::MAX);
    let page = shared
        .store()
        .list(kind, &question.selection, question.further, limit);
    response(StatusCode::OK, Text::whole(page.text))
}

fn watch(
    kind: &'static str,
    question: Question,
    since: u64,
    shared: &Arc<Shared>,
) -> Response<Text> {
    let (sender, lines) = unbounded_channel();
    let watch = {
        let mut store = shared.store();
        if store.is_away() {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return refused(status, "ServiceUnavailable", "the server is going away");
        }
        store.watch(kind, question.selection, since, sender)
    };
    let Some(number) = watch else {
        let message = format!("too old resource version: {since}");
        return refused(StatusCode::GONE, "Expired", &message);
    };
    if let Some(timeout) = question.timeout {
        let shared = shared.clone();
        tokio::spawn(async move {
            tokio::time::sleep(timeout).await;
            shared.store().end(number);
        });
    }
    response(StatusCode::OK, Text { lines })
}

/// Kind and namespace of a path, where it is served.
fn kind_of(path: &str) -> Option<(&'static str, Option<String>)> {
    KINDS.iter().find_map(|(prefix, kinds)| {
        let rest = path.strip_prefix(prefix)?;
        let (namespace, name) = match rest.strip_prefix("namespaces/").map(|r| r.split_once('/')) {
            Some(Some((namespace, name))) => (Some(namespace.to_owned()), name),
            Some(None) => return None,
            None => (None, rest),
        };
        let kind = kinds.iter().find(|kind| **kind == name)?;
        Some((*kind, namespace))
    })
}

/// What is not understood is refused: a test must not pass because something was overlooked.
fn question(query: &str, namespace: Option<String>) -> Result<Question, String> {
    let mut question = Question::default();
    question.selection.namespace = namespace;
    let (mut watched, mut since) = (false, 0);
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let number = || value.parse::<u64>().map_err(|_| format!("{key}={value}"));
        match &*key {
            "limit" => question.limit = usize::try_from(number()?).ok(),
            "continue" => question.further = Some(further(&value)?),
            "watch" => watched = value == "true" || value == "1",
            "resourceVersion" if value.is_empty() => {}
            "resourceVersion" => since = number()?,
            "timeoutSeconds" => question.timeout = Some(Duration::from_secs(number()?)),
            "allowWatchBookmarks" => {}
            "fieldSelector" => match value.strip_prefix("metadata.name=") {
                Some(name) => question.selection.name = Some(name.into()),
                None => return Err(format!("fieldSelector {value} is not served")),
            },
            _ => return Err(format!("parameter {key} is not served")),
        }
    }
    question.watch = watched.then_some(since);
    Ok(question)
}

fn further(token: &str) -> Result<Further, String> {
    let mut parts = token.splitn(3, '/');
    let mut next = || parts.next().ok_or_else(|| format!("continue={token}"));
    let (version, namespace, name) = (next()?, next()?, next()?);
    let version = version.parse().map_err(|_| format!("continue={token}"))?;
    Ok((version, (namespace.into(), name.into())))
}

fn refused(status: StatusCode, reason: &str, message: &str) -> Response<Text> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": status.as_u16()});
    response(status, Text::whole(body.to_string()))
}

fn response(status: StatusCode, body: Text) -> Response<Text> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, kind);
    response
}

/// A body that comes in pieces.
struct Text {
    lines: UnboundedReceiver<Line>,
}

impl Text {
    fn whole(text: String) -> Self {
        let (sender, lines) = unbounded_channel();
        // Its receiver is in the next line.
        let _sent = sender.send(Ok(Bytes::from(text)));
        Self { lines }
    }
}

impl Body for Text {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let line = self.lines.poll_recv(context);
        line.map(|line| line.map(|line| line.map(Frame::data)))
    }
}
