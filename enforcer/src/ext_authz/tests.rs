//! Real authorizers on loopback, over both protocols.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{body::Frame, server, service::service_fn};
use hyper_util::rt::TokioIo;
use prost::Message;

use super::{
    messages::{
        BoolValue, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValueOption,
        HttpResponse, HttpStatus, OkHttpResponse, QueryParameter, Status,
    },
    *,
};
use crate::proxy::{AskHttp, Changes, Denial};

fn ask(http: bool) -> Ask {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "shop.example"),
        ("authorization", "Bearer x"),
        ("cookie", "a=b"),
        ("x-user", "u1"),
        ("x-user", "u2"),
        ("x-other", "o"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    Ask {
        source: "10.0.0.1:4000".parse().expect("an address"),
        source_principal: Some("spiffe://td/ns/a/sa/b".into()),
        destination: "10.0.0.2:80".parse().expect("an address"),
        destination_principal: None,
        sni: None,
        http: http.then(|| AskHttp {
            version: Version::HTTP_11,
            method: Method::POST,
            target: "/a?b=c".into(),
            authority: Some("shop.example".into()),
            headers,
            body: Some(Bytes::from_static(b"beg")),
            partial: true,
            size: Some(9),
        }),
    }
}

fn settings(at: SocketAddr, grpc: bool) -> AuthorizerSettings {
    AuthorizerSettings {
        grpc,
        settings: Settings {
            service: format!("ns/{}", at.ip()),
            port: at.port(),
            timeout_ms: Some(5_000),
            path_prefix: "/check".into(),
            include_request_headers_in_check: vec!["Cookie".into(), "x-us*".into()],
            include_additional_headers_in_check: [("x-from".into(), "proxy".into())].into(),
            headers_to_upstream_on_allow: vec!["x-up*".into()],
            headers_to_downstream_on_allow: vec!["x-down".into()],
            ..Settings::default()
        },
    }
}

async fn check(settings: AuthorizerSettings, ask: Ask) -> io::Result<Checked> {
    let authz = ExtAuthz::new(Handle::current(), Arc::default());
    authz.check(Arc::new(settings), ask).await
}

/// An HTTP authorizer that answers alike, and keeps what it was asked.
async fn http_authorizer(
    status: u16,
    headers: &'static [(&'static str, &'static str)],
) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    let at = listener.local_addr().expect("it");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let keep = Arc::clone(&keep);
            let service = service_fn(move |request: Request<Incoming>| {
                let keep = Arc::clone(&keep);
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.expect("a body").to_bytes();
                    let mut lines: Vec<String> = parts
                        .headers
                        .iter()
                        .map(|(n, v)| format!("{n}: {}", v.to_str().expect("text")))
                        .collect();
                    lines.sort();
                    let text = format!(
                        "{} {} {} {}",
                        parts.method,
                        parts.uri,
                        lines.join("; "),
                        String::from_utf8_lossy(&body)
                    );
                    keep.lock().expect("whole").push(text);
                    let mut response = Response::builder().status(status);
                    for (name, value) in headers {
                        response = response.header(*name, *value);
                    }
                    Ok::<_, Infallible>(
                        response
                            .body(Full::new(Bytes::from_static(b"why")))
                            .expect("a response"),
                    )
                }
            });
            tokio::spawn(
                server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    (at, asked)
}

fn line(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
    (
        HeaderName::from_static(name),
        HeaderValue::from_static(value),
    )
}

#[tokio::test]
async fn over_http_the_head_is_shown_and_200_allows() {
    let answer = &[
        ("x-up-1", "a"),
        ("x-down", "b"),
        ("x-none", "c"),
        ("host", "d"),
    ];
    let (at, asked) = http_authorizer(200, answer).await;
    let checked = check(settings(at, false), ask(true))
        .await
        .expect("an answer");
    let changes = Changes {
        set: vec![line("x-up-1", "a")],
        to_client: vec![line("x-down", "b")],
        ..Changes::default()
    };
    assert_eq!(checked, Checked::Allow(changes));
    let asked = asked.lock().expect("whole").join("");
    assert_eq!(
        asked,
        "POST /check/a?b=c authorization: Bearer x; content-length: 3; cookie: a=b; \
         host: shop.example; x-envoy-auth-partial-body: true; x-from: proxy; x-user: u1; \
         x-user: u2 beg"
    );
}

#[tokio::test]
async fn over_http_anything_else_refuses_and_5xx_is_a_failure() {
    let answer = &[("location", "/login"), ("x-why", "because")];
    let (at, _) = http_authorizer(302, answer).await;
    let mut listed = settings(at, false);
    let checked = check(listed.clone(), ask(true)).await.expect("an answer");
    let denial = |headers| Denial {
        status: 302,
        headers,
        body: Bytes::from_static(b"why"),
    };
    let Checked::Deny(mut found) = checked else {
        panic!("302 is no 200");
    };
    found.headers.sort_by_key(|(name, _)| name.to_string());
    let all = vec![line("location", "/login"), line("x-why", "because")];
    assert_eq!(found, denial(all));
    listed.settings.headers_to_downstream_on_deny = vec!["x-other".into()];
    let checked = check(listed, ask(true)).await.expect("an answer");
    let only = vec![line("location", "/login")];
    assert_eq!(checked, Checked::Deny(denial(only)));
    let (at, _) = http_authorizer(503, &[]).await;
    assert!(check(settings(at, false), ask(true)).await.is_err());
}

#[tokio::test]
async fn who_does_not_answer_in_time_fails_in_time() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let silent = silent.expect("a port");
    let at = silent.local_addr().expect("it");
    for grpc in [false, true] {
        let mut late = settings(at, grpc);
        late.settings.timeout_ms = Some(100);
        let start = Instant::now();
        let error = check(late, ask(true)).await.expect_err("nobody answers");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    drop(silent);
    assert!(
        check(settings(at, true), ask(true)).await.is_err(),
        "refused"
    );
}

/// A gRPC authorizer that answers one message, or none, and keeps the question.
async fn grpc_authorizer(
    answer: Option<CheckResponse>,
    status: &'static str,
) -> (SocketAddr, Arc<Mutex<Option<CheckRequest>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    let at = listener.local_addr().expect("it");
    let asked = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (keep, answer) = (Arc::clone(&keep), answer.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (keep, answer) = (Arc::clone(&keep), answer.clone());
                async move {
                    let path = request.uri().path().to_owned();
                    assert_eq!(path, "/envoy.service.auth.v3.Authorization/Check");
                    let body = request.into_body().collect().await.expect("a body");
                    let body = body.to_bytes();
                    let question = CheckRequest::decode(&body[5..]).expect("a question");
                    *keep.lock().expect("whole") = Some(question);
                    let mut frames = Vec::new();
                    if let Some(answer) = answer {
                        let message = answer.encode_to_vec();
                        let length = u32::try_from(message.len()).expect("short");
                        let bytes = [&[0][..], &length.to_be_bytes(), &message].concat();
                        frames.push(Ok::<_, Infallible>(Frame::data(Bytes::from(bytes))));
                    }
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static(status));
                    frames.push(Ok(Frame::trailers(trailers)));
                    let body = StreamBody::new(futures_util::stream::iter(frames));
                    Ok::<_, Infallible>(Response::new(body))
                }
            });
            let builder = server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    (at, asked)
}

fn option(key: &str, value: &str, append: Option<bool>) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(messages::HeaderValue {
            key: key.into(),
            value: value.into(),
            raw_value: Vec::new(),
        }),
        append: append.map(|value| BoolValue { value }),
        append_action: 0,
    }
}

fn ok(ok: OkHttpResponse) -> CheckResponse {
    CheckResponse {
        status: Some(Status::default()),
        http_response: Some(HttpResponse::Ok(ok)),
    }
}

#[tokio::test]
async fn over_grpc_the_request_is_described_and_its_headers_are_changed() {
    let answer = ok(OkHttpResponse {
        headers: vec![
            option("X-User", "u", None),
            option("x-group", "g", Some(true)),
        ],
        headers_to_remove: vec!["x-other".into()],
        response_headers_to_add: vec![option("x-seen", "1", None)],
        ..OkHttpResponse::default()
    });
    let (at, asked) = grpc_authorizer(Some(answer), "0").await;
    let checked = check(settings(at, true), ask(true))
        .await
        .expect("an answer");
    let changes = Changes {
        removed: vec![HeaderName::from_static("x-other")],
        set: vec![line("x-user", "u")],
        appended: vec![line("x-group", "g")],
        to_client: vec![line("x-seen", "1")],
    };
    assert_eq!(checked, Checked::Allow(changes));
    let asked = asked.lock().expect("whole").take().expect("a question");
    let attributes = asked.attributes.expect("attributes");
    let source = attributes.source.expect("a source");
    assert_eq!(source.principal, "spiffe://td/ns/a/sa/b");
    let address = source.address.and_then(|a| a.socket_address);
    let address = address.expect("an address");
    assert_eq!((&*address.address, address.port_value), ("10.0.0.1", 4000));
    let http = attributes.request.and_then(|r| r.http).expect("a request");
    assert_eq!((&*http.method, &*http.path), ("POST", "/a?b=c"));
    assert_eq!(
        (&*http.host, http.size, &*http.body),
        ("shop.example", 9, "beg")
    );
    assert_eq!(http.headers["x-user"], "u1,u2");
    assert_eq!(http.headers[":path"], "/a?b=c");
    assert_eq!(http.headers["x-envoy-auth-partial-body"], "true");
}

#[tokio::test]
async fn over_grpc_refusals_and_failures() {
    let denied = CheckResponse {
        status: Some(Status {
            code: 7,
            message: String::new(),
        }),
        http_response: Some(HttpResponse::Denied(DeniedHttpResponse {
            status: Some(HttpStatus { code: 401 }),
            headers: vec![option("www-authenticate", "Basic", None)],
            body: "who?".into(),
        })),
    };
    let (at, _) = grpc_authorizer(Some(denied), "0").await;
    let denial = Denial {
        status: 401,
        headers: vec![line("www-authenticate", "Basic")],
        body: Bytes::from_static(b"who?"),
    };
    let checked = check(settings(at, true), ask(true))
        .await
        .expect("an answer");
    assert_eq!(checked, Checked::Deny(denial));
    // A connection is described without a request, and a bare code refuses it.
    let bare = CheckResponse {
        status: Some(Status {
            code: 16,
            message: String::new(),
        }),
        http_response: None,
    };
    let (at, asked) = grpc_authorizer(Some(bare), "0").await;
    let checked = check(settings(at, true), ask(false))
        .await
        .expect("an answer");
    assert!(matches!(checked, Checked::Deny(denial) if denial.status == 403));
    let asked = asked
        .lock()
        .expect("whole")
        .take()
        .and_then(|a| a.attributes);
    assert_eq!(asked.and_then(|a| a.request).and_then(|r| r.http), None);

    let unsupported = ok(OkHttpResponse {
        query_parameters_to_set: vec![QueryParameter::default()],
        ..OkHttpResponse::default()
    });
    let routing = ok(OkHttpResponse {
        headers: vec![option("host", "elsewhere", None)],
        ..OkHttpResponse::default()
    });
    let pseudo = ok(OkHttpResponse {
        headers_to_remove: vec![":path".into()],
        ..OkHttpResponse::default()
    });
    for (answer, status) in [
        (None, "0"),
        (None, "14"),
        (Some(ok(OkHttpResponse::default())), "2"),
        (Some(unsupported), "0"),
        (Some(routing), "0"),
        (Some(pseudo), "0"),
    ] {
        let (at, _) = grpc_authorizer(answer.clone(), status).await;
        let checked = check(settings(at, true), ask(true)).await;
        assert!(checked.is_err(), "{status} {answer:?}: {checked:?}");
    }
}
