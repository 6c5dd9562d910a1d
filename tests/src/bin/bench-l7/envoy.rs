//! Envoy with what Istio makes of the policies.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Command,
};

use anyhow::Result;
use serde_json::{Value, json};

use super::policies::{Kind, address, path};

const TYPE: &str = "type.googleapis.com/envoy.extensions.filters";

/// How to start it, and where it will listen.
pub fn command(
    program: &Path,
    folder: &Path,
    kind: Kind,
    count: usize,
    backend: SocketAddr,
) -> Result<(Command, SocketAddr)> {
    // Free a moment ago, and asked for at once.
    let at = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let config = folder.join(format!("envoy-{kind:?}-{count}.json"));
    fs::write(&config, bootstrap(kind, count, at, backend).to_string())?;
    let mut command = Command::new("taskset");
    command
        .args(["-c", &super::load::proxy_cpu().to_string()])
        .arg(program)
        .arg("-c")
        .arg(config)
        .args(["--concurrency", "1", "--disable-hot-restart", "-l", "error"]);
    Ok((command, at))
}

fn bootstrap(kind: Kind, count: usize, at: SocketAddr, backend: SocketAddr) -> Value {
    let socket = |address: SocketAddr| {
        json!({"socket_address": {
            "address": address.ip().to_string(), "port_value": address.port()}})
    };
    json!({
        "node": {"id": "bench", "cluster": "bench"},
        "static_resources": {
            "listeners": [{
                "name": "in",
                "address": socket(at),
                "filter_chains": [{"filters": filters(kind, count)}],
            }],
            "clusters": [{
                "name": "pod",
                "type": "STATIC",
                "connect_timeout": "1s",
                "load_assignment": {
                    "cluster_name": "pod",
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(backend)}}]}],
                },
            }],
        },
    })
}

fn filters(kind: Kind, count: usize) -> Value {
    if kind == Kind::Tcp {
        return json!([{
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {
                "@type": format!("{TYPE}.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": "t",
                "cluster": "pod",
            },
        }]);
    }
    let mut chain = Vec::new();
    if count > 0 {
        chain.push(json!({
            "name": "envoy.filters.http.rbac",
            "typed_config": {
                "@type": format!("{TYPE}.http.rbac.v3.RBAC"),
                "rules": {"action": "ALLOW", "policies": policies(kind, count)},
            },
        }));
    }
    chain.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": format!("{TYPE}.http.router.v3.Router")},
    }));
    json!([{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": format!("{TYPE}.network.http_connection_manager.v3.HttpConnectionManager"),
            "stat_prefix": "h",
            "http_filters": chain,
            "route_config": {"virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "pod", "timeout": "0s"}}],
            }]},
        },
    }])
}

/// In the shape that Istio gives a rule with principals, methods and paths. Without mutual TLS an
/// address stands for the principal.
fn policies(kind: Kind, count: usize) -> Value {
    let mut all = serde_json::Map::new();
    for i in 0..count {
        let path = json!({"or_rules": {"rules": [
            {"url_path": {"path": {"exact": path(kind, i, count)}}}]}});
        let method = json!({"or_rules": {"rules": [
            {"header": {"name": ":method", "string_match": {"exact": "GET"}}}]}});
        let from = json!({"direct_remote_ip": {
            "address_prefix": address(i, count), "prefix_len": 32}});
        // Envoy asks them in the order of their names.
        let name = format!("ns[default]-policy[p{i:05}]-rule[0]");
        all.insert(
            name,
            json!({
                "permissions": [{"and_rules": {"rules": [path, method]}}],
                "principals": [{"and_ids": {"ids": [{"or_ids": {"ids": [from]}}]}}],
            }),
        );
    }
    all.into()
}
