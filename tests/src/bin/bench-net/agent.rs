//! The agent as it is shipped, with as many pods in its inventory as the table is to have sources.

use std::{fs, net::Ipv4Addr, path::Path};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::live::{
    self,
    agent::{Agent, Home},
};

use crate::{
    filter::{DENIED, source},
    triplet::{CLIENT, SERVER, TO_CLIENT, TO_SERVER, Triplet},
};

/// Addresses beside the sources of a flood: client, server, the source that is refused, and room
/// for the node's own below the limit of a million.
pub const OTHERS: u32 = 100;

/// Service accounts that share the sources: as many source classes.
const ACCOUNTS: u32 = 64;

/// A document has a limit, too.
const PODS_PER_FILE: usize = 100_000;

#[derive(Clone, Copy)]
pub enum Policed {
    Server,
    /// The client too, which lets the server in.
    Both,
    /// The client alone, which lets nobody in: its answers pass as those of its own connections.
    ClientDeniesAll,
}

#[derive(Clone, Copy)]
pub enum Refusal {
    Drop,
    Reset,
}

/// Fields drop in order: the agent before its files and pins.
#[expect(dead_code, reason = "held for what ends with it")]
pub struct Running {
    agent: Agent,
    home: Home,
}

pub fn start(
    triplet: &Triplet,
    enforcer: &Path,
    policed: Policed,
    refusal: Refusal,
    sources: u32,
) -> Result<Running> {
    let local = |name: &str, address, device: &str| {
        let mut pod = pod(name, name, address, "here");
        pod["metadata"]["annotations"] = json!({ "enforcer/interface": device });
        pod
    };
    let remote = |name: &str, address| pod(name, name, address, "there");
    let both = match policed {
        Policed::Server => [local("server", SERVER, TO_SERVER), remote("client", CLIENT)],
        Policed::Both => [
            local("server", SERVER, TO_SERVER),
            local("client", CLIENT, TO_CLIENT),
        ],
        Policed::ClientDeniesAll => [remote("server", SERVER), local("client", CLIENT, TO_CLIENT)],
    };
    let manifests = list(both.into_iter().chain([remote("stranger", DENIED)]));
    let home = Home::new(
        enforcer.to_str().context("paths are plain text")?,
        &triplet.node,
        &manifests,
    )?;
    let mut files = Vec::new();
    for first in (0..sources).step_by(PODS_PER_FILE) {
        let step = u32::try_from(PODS_PER_FILE)?;
        let pods = (first..sources.min(first + step)).map(|i| {
            let account = format!("account-{}", i % ACCOUNTS);
            pod(&format!("source-{i}"), &account, source(i), "there")
        });
        let path = home.file(&format!("sources-{first}.json"));
        fs::write(&path, list(pods))?;
        files.push(path.to_str().context("paths are plain text")?.to_owned());
    }
    let bundle = home.bundle(
        "bundle.bin",
        &live::compile(&manifests, &policies(policed), 0)?,
    )?;
    let refuse = match refusal {
        Refusal::Drop => "--refuse=drop",
        Refusal::Reset => "--refuse=reset",
    };
    let mut options = vec!["--node-name", "here", refuse];
    for file in &files {
        options.extend(["--inventory", file]);
    }
    let agent = home.start(&triplet.node, &bundle, &options)?;
    Ok(Running { agent, home })
}

fn policies(policed: Policed) -> String {
    let accounts: Vec<String> = (0..ACCOUNTS)
        .map(|i| format!("account-{i}"))
        .chain(["client".into()])
        .collect();
    let server = allow("server", &accounts);
    match policed {
        Policed::Server => server,
        Policed::Both => format!("{server}---\n{}", allow("client", &["server".into()])),
        Policed::ClientDeniesAll => String::from(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: client, namespace: default}\nspec:\n  selector: {matchLabels: {app: client}}\n",
        ),
    }
}

fn allow(app: &str, accounts: &[String]) -> String {
    let principals: Vec<String> = accounts
        .iter()
        .map(|account| format!("cluster.local/ns/default/sa/{account}"))
        .collect();
    let policy = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": app, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": app}},
            "rules": [{"from": [{"source": {"principals": principals}}]}]},
    });
    format!("{policy}\n")
}

fn pod(name: &str, account: &str, address: Ipv4Addr, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"nodeName": node, "serviceAccountName": account,
            "containers": [{"name": "main", "image": "none"}]},
        "status": {"phase": "Running", "podIPs": [{"ip": address}]},
    })
}

fn list(pods: impl Iterator<Item = Value>) -> String {
    let items: Vec<Value> = pods.collect();
    format!(
        "{}\n",
        json!({"apiVersion": "v1", "kind": "List", "items": items})
    )
}
