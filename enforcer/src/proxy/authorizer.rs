//! What the proxy asks an external authorizer, and what it may hear. Whoever carries the question is
//! behind [`Authorizers`]: the proxy's own threads live in a namespace from which no authorizer is
//! reached.

use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use policyc::l7::AuthorizerSettings;

/// An answer that is still to come.
pub type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Asks external authorizers.
pub trait Authorizers: Send + Sync + 'static {
    /// Asks one. An error is the authorizer's failure: not reached, not in time, not understood.
    fn check(&self, settings: Arc<AuthorizerSettings>, ask: Ask) -> Pending<io::Result<Checked>>;
}

/// A connection, and the request on it where HTTP is spoken.
#[derive(Clone, Debug)]
pub struct Ask {
    pub source: SocketAddr,
    /// `spiffe://...`, where the source has an identity.
    pub source_principal: Option<String>,
    pub destination: SocketAddr,
    pub destination_principal: Option<String>,
    pub sni: Option<String>,
    pub http: Option<AskHttp>,
}

/// A request as it is about to be judged.
#[derive(Clone, Debug)]
pub struct AskHttp {
    pub version: Version,
    pub method: Method,
    /// Normalised, query included.
    pub target: String,
    pub authority: Option<String>,
    pub headers: HeaderMap,
    /// Where the provider's settings want it: the beginning of the body.
    pub body: Option<Bytes>,
    /// The body is longer than that.
    pub partial: bool,
    /// Of the body, where the client has said it.
    pub size: Option<u64>,
}

/// What an authorizer answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Checked {
    Allow(Changes),
    Deny(Denial),
}

/// How an allowed request is changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    pub removed: Vec<HeaderName>,
    /// Lines of a name that go in the place of all that are there, or beside them.
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub appended: Vec<(HeaderName, HeaderValue)>,
    /// Put into the answer to the client.
    pub to_client: Vec<(HeaderName, HeaderValue)>,
}

/// What the client of a refused request is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denial {
    pub status: u16,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: Bytes,
}

impl Changes {
    /// Carries out what is to happen before the request is judged on.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.removed {
            headers.remove(name);
        }
        // Several lines of one name stay several.
        for (name, _) in &self.set {
            headers.remove(name);
        }
        for (name, value) in self.set.iter().chain(&self.appended) {
            headers.append(name.clone(), value.clone());
        }
    }
}

/// Whether an authorizer may set or remove a header: what frames or routes the message is not its.
pub fn may_change(name: &HeaderName) -> bool {
    ![
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "keep-alive",
        "proxy-connection",
    ]
    .contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_replace_remove_and_append() {
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let mut headers = HeaderMap::new();
        for (n, v) in [("x-a", "1"), ("x-a", "2"), ("x-b", "1"), ("x-c", "1")] {
            headers.append(name(n), value(v));
        }
        let changes = Changes {
            removed: vec![name("x-b")],
            set: vec![(name("x-a"), value("3")), (name("x-a"), value("4"))],
            appended: vec![(name("x-c"), value("2"))],
            to_client: Vec::new(),
        };
        changes.apply(&mut headers);
        let mut found: Vec<_> = headers
            .iter()
            .map(|(n, v)| format!("{n}={}", v.to_str().expect("text")))
            .collect();
        found.sort();
        assert_eq!(found, ["x-a=3", "x-a=4", "x-c=1", "x-c=2"]);
    }
}
