//! What one HTTP request says.

use std::collections::BTreeMap;

use super::{normalize, unjudgeable::Unjudgeable};
use crate::{cluster::PathNormalization, headers::is_joined, request::Http};

/// A request as policies see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpFacts {
    /// Answered 400 before any policy is asked.
    pub is_malformed: bool,
    pub method: String,
    pub host: Option<String>,
    /// Normalised, without the query; of a malformed request, as it came.
    pub path: String,
    /// The path and the query, as they are forwarded.
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
        let (path, target) = if is_malformed {
            (http.path.clone(), http.path.clone())
        } else {
            let path = normalize::path(&http.path, mode);
            let query = http.path.find('?').map_or("", |at| &http.path[at..]);
            let target = format!("{path}{query}");
            (path, target)
        };
        Ok(Self {
            is_malformed,
            method: http.method.clone(),
            host,
            path,
            target,
            headers,
        })
    }

    /// The values of a header or pseudo-header; the name's case does not matter. Most headers have a
    /// value for each of their lines; those of a well-known one are joined into one value.
    pub fn values(&self, name: &str) -> Vec<String> {
        let name = name.to_ascii_lowercase();
        let lines = self.headers.get(&name).cloned().unwrap_or_default();
        match name.as_str() {
            ":path" => vec![self.target.clone()],
            ":method" => vec![self.method.clone()],
            ":scheme" => vec!["http".into()],
            ":authority" | "host" => self.host.iter().cloned().collect(),
            name if is_joined(name) && !lines.is_empty() => {
                let filled: Vec<String> = lines.into_iter().filter(|l| !l.is_empty()).collect();
                vec![filled.join(",")]
            }
            _ => lines,
        }
    }

    /// What a browser sends before the real request, never with a token: OPTIONS with `Origin` and
    /// `Access-Control-Request-Method`.
    pub fn is_cors_preflight(&self) -> bool {
        let has = |name| self.values(name).iter().any(|value| !value.is_empty());
        self.method == "OPTIONS" && has("origin") && has("access-control-request-method")
    }
}
