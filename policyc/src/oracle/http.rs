//! What one HTTP request says.

use std::collections::BTreeMap;

use super::{normalize, unjudgeable::Unjudgeable};
use crate::{cluster::PathNormalization, request::Http};

/// A request as policies see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpFacts {
    /// Answered 400 before any policy is asked.
    pub is_malformed: bool,
    pub method: String,
    pub host: Option<String>,
    /// Normalised, without the query; of a malformed request, as it came.
    pub path: String,
    /// The request target as it came, query included.
    pub target: String,
    /// Lines by header name; names in lower case.
    pub headers: BTreeMap<String, Vec<String>>,
}

impl HttpFacts {
    pub fn new(http: &Http, mode: PathNormalization) -> Result<Self, Unjudgeable> {
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, values) in &http.headers {
            headers
                .entry(name.to_ascii_lowercase())
                .or_default()
                .extend_from_slice(values.lines());
        }
        let host = match (&http.host, headers.remove("host")) {
            (Some(_), Some(_)) => return Err(Unjudgeable::TwoHosts),
            (Some(host), None) => Some(host.clone()),
            (None, Some(lines)) if lines.len() > 1 => return Err(Unjudgeable::TwoHosts),
            (None, Some(lines)) => lines.into_iter().next(),
            (None, None) => None,
        };
        let is_malformed = normalize::is_malformed(&http.path, mode);
        Ok(Self {
            is_malformed,
            method: http.method.clone(),
            host,
            path: if is_malformed {
                http.path.clone()
            } else {
                normalize::path(&http.path, mode)
            },
            target: http.path.clone(),
            headers,
        })
    }

    /// The lines of a header or pseudo-header; the name's case does not matter.
    pub fn lines(&self, name: &str) -> Vec<&str> {
        match name.to_ascii_lowercase().as_str() {
            ":path" => vec![&self.target],
            ":method" => vec![&self.method],
            ":authority" | "host" => self.host.as_deref().into_iter().collect(),
            name => self
                .headers
                .get(name)
                .map(|lines| lines.iter().map(String::as_str).collect())
                .unwrap_or_default(),
        }
    }

    /// What a browser sends before the real request, never with a token: OPTIONS with `Origin` and
    /// `Access-Control-Request-Method`.
    pub fn is_cors_preflight(&self) -> bool {
        let has = |name| self.lines(name).iter().any(|line| !line.is_empty());
        self.method == "OPTIONS" && has("origin") && has("access-control-request-method")
    }
}
