//! `envoyExtAuthzHttp`: the request's head goes to the authorizer as a request of its own; 200 allows,
//! 5xx is a failure, anything else refuses.

use std::io;

use ::http::{
    HeaderMap, HeaderName, HeaderValue, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_LENGTH, HOST, LOCATION, WWW_AUTHENTICATE},
};
use http_body_util::Full;
use policyc::cluster::ExtAuthz as Settings;

use super::{Asker, bad, names, whole};
use crate::proxy::{Ask, Changes, Checked, Denial, may_change};

pub(super) async fn check(asker: &Asker, settings: &Settings, ask: Ask) -> io::Result<Checked> {
    // Lowering leaves CUSTOM rules of such a provider out where no HTTP is spoken.
    let Some(http) = ask.http else {
        return Err(bad("an HTTP authorizer was asked about a connection"));
    };
    let at = asker.authority(settings).await?;
    let mut request = Request::builder().method(http.method).uri(format!(
        "http://{at}{}{}",
        settings.path_prefix, http.target
    ));
    if let Some(headers) = request.headers_mut() {
        // ISTIO: "headers Host, Method, Path, Content-Length and Authorization are always sent", the
        // others where they are listed.
        for (name, value) in &http.headers {
            let always = *name == AUTHORIZATION;
            let listed = names(&settings.include_request_headers_in_check, name);
            if (always || listed) && may_change(name) {
                headers.append(name, value.clone());
            }
        }
        for (name, value) in &settings.include_additional_headers_in_check {
            let name: HeaderName = name.parse().map_err(|_| bad("a header's name"))?;
            let value = HeaderValue::from_str(value).map_err(|_| bad("a header's value"))?;
            headers.insert(name, value);
        }
        if let Some(authority) = &http.authority {
            let host = HeaderValue::from_str(authority).map_err(|_| bad("the authority"))?;
            headers.insert(HOST, host);
        }
        let body = http.body.as_ref();
        headers.insert(CONTENT_LENGTH, body.map_or(0, bytes::Bytes::len).into());
        if http.partial {
            // As Envoy tells that there is more.
            headers.insert(
                "x-envoy-auth-partial-body",
                HeaderValue::from_static("true"),
            );
        }
    }
    let request = request
        .body(Full::new(http.body.unwrap_or_default()))
        .map_err(io::Error::other)?;
    let response = asker.http.request(request).await;
    let (parts, body) = response.map_err(io::Error::other)?.into_parts();
    let body = whole(body).await?.to_bytes();
    if parts.status.is_server_error() {
        return Err(io::Error::other(format!("it answered {}", parts.status)));
    }
    let own = |name: &HeaderName| may_change(name) && *name != "date";
    if parts.status == StatusCode::OK {
        let listed = |patterns: &[String]| {
            let all = parts.headers.iter();
            let wanted = all.filter(|(name, _)| own(name) && names(patterns, name));
            wanted.map(|(n, v)| (n.clone(), v.clone())).collect()
        };
        return Ok(Checked::Allow(Changes {
            set: listed(&settings.headers_to_upstream_on_allow),
            to_client: listed(&settings.headers_to_downstream_on_allow),
            ..Changes::default()
        }));
    }
    let mut headers = Vec::new();
    for (name, value) in &parts.headers {
        if own(name) && is_told(settings, name) {
            headers.push((name.clone(), value.clone()));
        }
    }
    Ok(Checked::Deny(Denial {
        status: parts.status.as_u16(),
        headers: without_framing(headers),
        body,
    }))
}

/// ISTIO: "If not specified, all the authorization response headers, except Authority (Host) will be in
/// the response to the downstream. When a header is included in this list, Path, Status,
/// Content-Length, WWWAuthenticate and Location are automatically added."
fn is_told(settings: &Settings, name: &HeaderName) -> bool {
    let listed = &settings.headers_to_downstream_on_deny;
    listed.is_empty() || *name == LOCATION || *name == WWW_AUTHENTICATE || names(listed, name)
}

/// The message to the client is framed anew.
fn without_framing(headers: Vec<(HeaderName, HeaderValue)>) -> Vec<(HeaderName, HeaderValue)> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name, value);
    }
    map.remove(CONTENT_LENGTH);
    let mut last = None;
    let mut lines = Vec::new();
    for (name, value) in map {
        last = name.or(last);
        lines.extend(last.clone().map(|name| (name, value)));
    }
    lines
}
