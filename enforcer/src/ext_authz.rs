//! External authorizers, asked for CUSTOM policies: over HTTP, or as `envoy.service.auth.v3` over gRPC,
//! as the mesh's `extensionProviders` define them.
//!
//! Whatever cannot be asked, understood or carried out is the authorizer's failure. What a failure
//! means (`failOpen`, `statusOnError`) is not decided here.

mod grpc;
mod http;
mod messages;

use std::{io, sync::Arc, time::Duration};

use ::http::HeaderName;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use policyc::{cluster::ExtAuthz as Settings, l7::AuthorizerSettings};
use tokio::runtime::Handle;

use crate::{
    places::Places,
    proxy::{Ask, Authorizers, Checked, Pending},
};

/// ISTIO: "The maximum duration that the proxy will wait for a response from the provider (default
/// timeout: 600s)."
const TIMEOUT: Duration = Duration::from_secs(600);
/// Of a connection to an authorizer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of an answer.
const ANSWER_MAX: usize = 1 << 20;
/// Connections to one authorizer that are kept for the next question, and for how long.
const IDLE_MAX: usize = 32;
const IDLE: Duration = Duration::from_secs(60);

/// Asks authorizers from the agent's own namespace.
pub struct ExtAuthz {
    /// Where connections are made: the proxy's threads live elsewhere.
    runtime: Handle,
    asker: Asker,
}

#[derive(Clone)]
struct Asker {
    places: Arc<Places>,
    http: Client<HttpConnector, Full<Bytes>>,
    grpc: Client<HttpConnector, Full<Bytes>>,
}

impl ExtAuthz {
    /// With the runtime of the agent.
    pub fn new(runtime: Handle, places: Arc<Places>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_MAX)
            .pool_idle_timeout(IDLE);
        let http = builder.build(connector.clone());
        let grpc = builder.http2_only(true).build(connector);
        Self {
            runtime,
            asker: Asker { places, http, grpc },
        }
    }
}

impl Authorizers for ExtAuthz {
    fn check(&self, settings: Arc<AuthorizerSettings>, ask: Ask) -> Pending<io::Result<Checked>> {
        let asker = self.asker.clone();
        let limit = settings.settings.timeout_ms;
        let limit = limit.map_or(TIMEOUT, Duration::from_millis);
        let asked = async move {
            let asked = async {
                if settings.grpc {
                    grpc::check(&asker, &settings.settings, ask).await
                } else {
                    http::check(&asker, &settings.settings, ask).await
                }
            };
            tokio::time::timeout(limit, asked).await?
        };
        // Who does not wait for the answer any more does not leave the question behind.
        let task = Aborted(self.runtime.spawn(asked));
        Box::pin(async move {
            let mut task = task;
            (&mut task.0).await.map_err(io::Error::other)?
        })
    }
}

/// A task that ends with whoever waits for it.
struct Aborted<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Aborted<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Asker {
    /// Where a provider listens, as the authority of an address.
    async fn authority(&self, settings: &Settings) -> io::Result<String> {
        // ISTIO: "The format is `[<Namespace>/]<Hostname>`."
        let host = settings.service.rsplit('/').next().unwrap_or_default();
        let address = self.places.find(host, settings.port).await?;
        Ok(address.to_string())
    }
}

/// All of an answer's body.
async fn whole(body: Incoming) -> io::Result<http_body_util::Collected<Bytes>> {
    let limited = Limited::new(body, ANSWER_MAX);
    limited.collect().await.map_err(io::Error::other)
}

/// Whether one of the patterns is a header's name: exact, `x*`, `*x`, or `*`.
fn names(patterns: &[String], name: &HeaderName) -> bool {
    let is = |pattern: &String| {
        let pattern = pattern.to_ascii_lowercase();
        let name = name.as_str();
        match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
            (Some(suffix), _) => name.ends_with(suffix),
            (None, Some(prefix)) => name.starts_with(prefix),
            (None, None) => name == pattern,
        }
    };
    patterns.iter().any(is)
}

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

#[cfg(test)]
mod tests;
