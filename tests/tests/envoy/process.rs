//! One Envoy with a listener for each pod of each case.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tests::ready::until;

use super::cluster::Cluster;

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";
const START: Duration = Duration::from_secs(60);

/// Ends with its owner.
pub struct Envoy {
    process: Child,
    log: PathBuf,
    folder: PathBuf,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _killed = self.process.kill();
        let _gone = self.process.wait();
        let _removed = fs::remove_dir_all(&self.folder);
    }
}

/// Ports that were free a moment ago.
pub fn ports(count: usize) -> Vec<SocketAddr> {
    let any = (Ipv4Addr::LOCALHOST, 0);
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind(any).expect("a port"))
        .collect();
    let addresses = listeners.iter();
    addresses
        .map(|listener| listener.local_addr().expect("an address"))
        .collect()
}

/// As Istio sets up a pod's inbound side: who connects, and to which port, is said by the PROXY line,
/// since the test's own addresses are not the case's.
pub fn listener(cluster: &Cluster, at: SocketAddr, filters: Vec<Value>) -> Value {
    let mut manager = json!({
        "@type": format!("{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "in",
        "http_filters": filters,
        "http_protocol_options": {"accept_http_10": true},
        "route_config": {"virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{"match": {"prefix": ""}, "direct_response": {"status": 200}}],
        }]},
    });
    let normalization = &cluster.mesh["pathNormalization"]["normalization"];
    let normalization = normalization.as_str().unwrap_or("BASE");
    if normalization != "NONE" {
        manager["normalize_path"] = true.into();
    }
    if ["MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"].contains(&normalization) {
        manager["merge_slashes"] = true.into();
    }
    if normalization == "DECODE_AND_MERGE_SLASHES" {
        manager["path_with_escaped_slashes_action"] = "UNESCAPE_AND_FORWARD".into();
    }
    let listener_filter = |name: &str| format!("{FILTERS}.listener.{name}");
    json!({
        "name": at.to_string(),
        "address": address(at),
        "listener_filters": [{
            "name": "envoy.filters.listener.proxy_protocol",
            "typed_config": {"@type": listener_filter("proxy_protocol.v3.ProxyProtocol")},
        }],
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager,
        }]}],
    })
}

pub fn router() -> Value {
    json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": format!("{FILTERS}.http.router.v3.Router")},
    })
}

fn address(at: SocketAddr) -> Value {
    json!({"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}})
}

impl Envoy {
    pub fn start(program: &Path, listeners: Vec<Value>, last: SocketAddr) -> Self {
        let folder = std::env::temp_dir().join(format!("envoy-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let config = folder.join("envoy.json");
        let bootstrap = json!({
            "node": {"id": "cases", "cluster": "cases"},
            "static_resources": {"listeners": listeners},
        });
        fs::write(&config, bootstrap.to_string()).expect("a file");
        let log = folder.join("log");
        let process = Command::new(program)
            .arg("-c")
            .arg(&config)
            .args(["--concurrency", "1", "--disable-hot-restart", "-l", "error"])
            .arg("--log-path")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut envoy = Self {
            process,
            log,
            folder,
        };
        let ready = until(START, || {
            TcpStream::connect(last).is_ok() || envoy.process.try_wait().is_ok_and(|e| e.is_some())
        });
        let runs = envoy.process.try_wait().expect("a child").is_none();
        assert!(ready && runs, "{}", envoy.said());
        envoy
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}
