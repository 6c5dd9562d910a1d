//! The follower and the source against an API server that answers by a script.

mod follower;
mod script;
mod source;

use std::{sync::Arc, time::Duration};

use ::kube::{Client, Config};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    follow::{Follower, News, Pace},
    health::{Health, KindStatus},
    kind::{Kind, MeshPlace},
};
use script::{Answer, Script};

/// Patient enough for a busy machine, and never idle for long.
const PACE: Pace = Pace {
    quiet: Duration::from_secs(20),
    watch: Duration::from_secs(60),
    retry: Duration::from_millis(5),
    retry_max: Duration::from_millis(20),
    absent: Duration::from_millis(5),
    absent_known: Duration::from_millis(5),
    absent_retry: Duration::from_millis(20),
};
/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

fn mesh() -> MeshPlace {
    "istio-system/istio".parse().expect("a place")
}

fn client(script: &Script) -> Client {
    // As the agent has it, but for where it comes from.
    let mut config = Config::new(script.address.parse().expect("an address"));
    config.read_timeout = None;
    Client::try_from(config).expect("a client")
}

fn object(name: &str, version: u64) -> serde_json::Value {
    json!({
        "metadata": {"name": name, "resourceVersion": version.to_string(),
            "creationTimestamp": "2026-01-01T00:00:00Z"},
    })
}

fn page(version: u64, further: &str, names: &[&str]) -> Answer {
    let items: Vec<_> = names.iter().map(|name| object(name, version)).collect();
    Answer::Whole(json!({
        "kind": "NamespaceList", "apiVersion": "v1",
        "metadata": {"resourceVersion": version.to_string(), "continue": further},
        "items": items,
    }))
}

fn event(what: &str, name: &str, version: u64) -> String {
    json!({"type": what, "object": object(name, version)}).to_string() + "\n"
}

/// The one answer to somebody who is told no.
fn refusal(code: u16, reason: &str, message: &str) -> serde_json::Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code})
}
