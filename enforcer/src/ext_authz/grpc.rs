//! `envoyExtAuthzGrpc`: one call of `envoy.service.auth.v3.Authorization/Check` a question.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use ::http::{HeaderName, HeaderValue, Request, StatusCode, Version};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::Full;
use policyc::cluster::ExtAuthz as Settings;
use prost::Message;

use super::{
    Asker, bad,
    messages::{
        Address, AttributeContext, CheckRequest, CheckResponse, HeaderValueOption, HttpRequest,
        HttpResponse, OkHttpResponse, Peer, RequestAttributes, SocketAddress, Timestamp,
        TlsSession,
    },
    whole,
};
use crate::proxy::{Ask, AskHttp, Changes, Checked, Denial, may_change};

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// A byte that says "not compressed", and the length in four.
const PREFIX: usize = 5;

pub(super) async fn check(asker: &Asker, settings: &Settings, ask: Ask) -> io::Result<Checked> {
    let at = asker.authority(settings).await?;
    let question = question(settings, ask);
    let mut body = BytesMut::with_capacity(PREFIX + question.encoded_len());
    body.put_u8(0);
    body.put_u32(u32::try_from(question.encoded_len()).map_err(io::Error::other)?);
    question.encode(&mut body).map_err(io::Error::other)?;
    let request = Request::post(format!("http://{at}{CHECK}"))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body.freeze()))
        .map_err(io::Error::other)?;
    let response = asker.grpc.request(request).await;
    let (parts, body) = response.map_err(io::Error::other)?.into_parts();
    if parts.status != StatusCode::OK {
        return Err(io::Error::other(format!("it answered {}", parts.status)));
    }
    let body = whole(body).await?;
    // In the trailers, or, where there is nothing else, in the headers.
    let status = body.trailers().and_then(|t| t.get("grpc-status"));
    let status = status.or(parts.headers.get("grpc-status"));
    if status.is_none_or(|status| status != "0") {
        return Err(io::Error::other(format!("its gRPC status is {status:?}")));
    }
    let bytes = body.to_bytes();
    let (prefix, message) = bytes
        .split_at_checked(PREFIX)
        .ok_or_else(|| bad("it answered without a message"))?;
    let length = [prefix[1], prefix[2], prefix[3], prefix[4]];
    if prefix[0] != 0 || usize::try_from(u32::from_be_bytes(length)).ok() != Some(message.len()) {
        return Err(bad("it did not answer with one message"));
    }
    answer(CheckResponse::decode(message).map_err(io::Error::other)?)
}

fn question(settings: &Settings, ask: Ask) -> CheckRequest {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default();
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer(ask.source, ask.source_principal)),
            destination: Some(peer(ask.destination, ask.destination_principal)),
            request: Some(RequestAttributes {
                time: Some(Timestamp {
                    seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
                    nanos: i32::try_from(now.subsec_nanos()).unwrap_or(0),
                }),
                http: ask.http.map(|http| request(settings, http)),
            }),
            tls_session: ask.sni.map(|sni| TlsSession { sni }),
        }),
    }
}

fn peer(address: SocketAddr, principal: Option<String>) -> Peer {
    Peer {
        address: Some(Address {
            socket_address: Some(SocketAddress {
                address: address.ip().to_string(),
                port_value: address.port().into(),
            }),
        }),
        principal: principal.unwrap_or_default(),
    }
}

fn request(settings: &Settings, http: AskHttp) -> HttpRequest {
    let mut headers = BTreeMap::new();
    for (name, value) in &http.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let joined: &mut String = headers.entry(name.as_str().to_owned()).or_default();
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(&value);
    }
    let host = http.authority.unwrap_or_default();
    headers.remove("host");
    for (name, value) in [
        (":method", http.method.as_str()),
        (":path", &http.target),
        (":authority", &host),
        (":scheme", "http"),
    ] {
        headers.insert(name.into(), value.to_owned());
    }
    if http.body.is_some() {
        let partial = http.partial.to_string();
        headers.insert("x-envoy-auth-partial-body".into(), partial);
    }
    let body = http.body.unwrap_or_default();
    let (text, raw) = match settings.pack_as_bytes {
        true => (String::new(), body.to_vec()),
        // A text that is none cannot be sent as one.
        false => (String::from_utf8_lossy(&body).into_owned(), Vec::new()),
    };
    HttpRequest {
        id: headers.get("x-request-id").cloned().unwrap_or_default(),
        method: http.method.as_str().into(),
        headers,
        path: http.target,
        host,
        scheme: "http".into(),
        size: http
            .size
            .map_or(-1, |size| i64::try_from(size).unwrap_or(-1)),
        protocol: format!("{:?}", http.version),
        body: text,
        raw_body: raw,
    }
}

fn answer(response: CheckResponse) -> io::Result<Checked> {
    let code = response.status.map_or(0, |status| status.code);
    match (code, response.http_response) {
        (0, None) => Ok(Checked::Allow(Changes::default())),
        (0, Some(HttpResponse::Ok(ok))) => changes(ok).map(Checked::Allow),
        (0, Some(HttpResponse::Denied(_))) => Err(bad("it both allows and refuses")),
        (_, Some(HttpResponse::Denied(denied))) => {
            let status = denied.status.map_or(0, |status| status.code);
            let status = u16::try_from(status).ok();
            Ok(Checked::Deny(Denial {
                status: status.filter(|s| (200..600).contains(s)).unwrap_or(403),
                headers: lines(&denied.headers)?
                    .into_iter()
                    .map(|(name, value, _)| (name, value))
                    .collect(),
                body: Bytes::from(denied.body),
            }))
        }
        (_, None | Some(HttpResponse::Ok(_))) => Ok(Checked::Deny(Denial {
            status: 403,
            headers: Vec::new(),
            body: Bytes::new(),
        })),
    }
}

fn changes(ok: OkHttpResponse) -> io::Result<Changes> {
    if !ok.query_parameters_to_set.is_empty() || !ok.query_parameters_to_remove.is_empty() {
        return Err(bad("it changes query parameters, which is not supported"));
    }
    let mut changes = Changes::default();
    for name in &ok.headers_to_remove {
        changes.removed.push(changeable(name)?);
    }
    for (name, value, appended) in lines(&ok.headers)? {
        match appended {
            true => changes.appended.push((name, value)),
            false => changes.set.push((name, value)),
        }
    }
    for (name, value, _) in lines(&ok.response_headers_to_add)? {
        changes.to_client.push((name, value));
    }
    Ok(changes)
}

/// Header lines, and whether each goes beside what is there.
fn lines(options: &[HeaderValueOption]) -> io::Result<Vec<(HeaderName, HeaderValue, bool)>> {
    let line = |option: &HeaderValueOption| {
        let Some(header) = &option.header else {
            return Err(bad("a header without a name"));
        };
        let value = match header.raw_value.is_empty() {
            true => header.value.as_bytes(),
            false => &header.raw_value,
        };
        let value = HeaderValue::from_bytes(value).map_err(|_| bad("a header's value"))?;
        // In this message the older field means "replace" where it is absent, and so does 0.
        let appended = match (&option.append, option.append_action) {
            (Some(append), _) => append.value,
            (None, 0 | 2) => false,
            (None, _) => return Err(bad("an `append_action` that is not supported")),
        };
        Ok((changeable(&header.key)?, value, appended))
    };
    options.iter().map(line).collect()
}

fn changeable(name: &str) -> io::Result<HeaderName> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
    parsed
        .filter(may_change)
        .ok_or_else(|| bad(format!("it changes `{name}`, which nobody may")))
}
