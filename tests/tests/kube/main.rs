//! An agent that follows a cluster: objects come and go at an API server, and connections between
//! pods meet what follows from them.
//!
//! [`server`] and [`migration`] have a real API server, [`double`], [`unknown`] and [`waiting`] what that
//! one cannot be made to show.

mod double;
mod migration;
mod server;
mod unknown;
mod waiting;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::IpAddr,
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    live::{
        agent::{Agent, Home},
        possible,
        traffic::{Echo, Met, PATIENCE, SILENCE, try_once},
    },
    ready::until,
    topology::{Pod, Topology},
};

const ENFORCER: &str = env!("CARGO_BIN_EXE_enforcer-under-test");
const PORT: u16 = 8080;

/// How long news may take from the API server to the kernel, on a busy machine.
const NEWS: Duration = Duration::from_secs(60);

/// `other` may not reach `backend`.
const NOT_OTHER: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-other, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  action: DENY
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/other]}}]
";

/// What the API server takes, and the compiler does not.
const WRONG: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: wrong, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  rules:
  - from: [{source: {ipBlocks: [10.0.0.0/99]}}]
";

/// A node with pods, an echo server in `backend`, and a place for an agent. Fields drop in order:
/// what is attached goes before the interfaces that it is attached to.
struct World {
    home: Home,
    _server: Echo,
    net: Topology,
}

impl World {
    fn new(what: &str) -> Self {
        let net = tests::live::three_pods(what).expect("a node with three pods");
        let server = Echo::start(net.get("backend"), PORT).expect("the port is free");
        let home = Home::new(ENFORCER, &net.node, "").expect("places of its own");
        Self {
            home,
            _server: server,
            net,
        }
    }

    fn kubeconfig(&self, text: &str) -> PathBuf {
        let path = self.home.file("kubeconfig");
        fs::write(&path, text).expect("a file of its own");
        path
    }

    /// Starts an agent and waits until it is ready.
    #[track_caller]
    fn follow(&self, kubeconfig: &str, options: &[&str]) -> Agent {
        let agent = self
            .home
            .follow(&self.net.node, &self.kubeconfig(kubeconfig), options);
        let agent = self.home.ready(agent.expect("the program is there"));
        agent.expect("the agent starts on a node that `enforcer doctor` is content with")
    }

    /// A pod of the node, as the cluster has it.
    fn pod(&self, name: &str) -> Value {
        object_of(self.net.get(name))
    }

    /// Waits until connections from a pod meet this, over both protocols.
    #[track_caller]
    fn becomes(&self, from: &str, met: Met, why: &str) {
        let mut found = Vec::new();
        let wait = if met == Met::Silence {
            SILENCE
        } else {
            PATIENCE
        };
        let became = until(NEWS, || {
            let to = self.net.get("backend").addresses();
            let met_by = |address: IpAddr| try_once(self.net.get(from), address, PORT, wait);
            found = to.map(met_by).to_vec();
            found.iter().all(|found| *found == met)
        });
        assert!(
            became,
            "from {from}: {why}: {found:?}, not {met:?}\n{}",
            self.said()
        );
    }

    /// That connections from a pod meet this, and do not only come to.
    #[track_caller]
    fn expect(&self, from: &str, met: Met, why: &str) {
        for address in self.net.get("backend").addresses() {
            let found = try_once(self.net.get(from), address, PORT, PATIENCE);
            assert!(
                found == met,
                "from {from} to {address}: {why}: {found:?}, not {met:?}\n{}",
                self.said()
            );
        }
    }

    /// Of the agent's status, what it says of the cluster.
    fn cluster(&self) -> Value {
        self.home
            .status()
            .map_or(Value::Null, |status| status["cluster"].clone())
    }

    fn kind(&self, name: &str) -> Value {
        let cluster = self.cluster();
        let kinds = cluster["kinds"].as_array().cloned().unwrap_or_default();
        let found = kinds.iter().find(|kind| kind["kind"] == name).cloned();
        found.unwrap_or(Value::Null)
    }

    fn said(&self) -> String {
        let log = fs::read_to_string(self.home.file("agent.log")).unwrap_or_default();
        format!("{:#}\n{log}", self.cluster())
    }

    /// The first verdict about a connection from a pod, as a monitor is told it.
    #[track_caller]
    fn verdict(&self, from: &str) -> Value {
        let stream = UnixStream::connect(self.home.file("socket")).expect("the agent listens");
        let limit = stream.set_read_timeout(Some(PATIENCE));
        limit.expect("a socket may have a limit");
        let mut stream = BufReader::new(stream);
        writeln!(stream.get_mut(), "{{\"command\":\"monitor\"}}").expect("the agent reads");
        let mut line = String::new();
        stream.read_line(&mut line).expect("the agent answers");
        assert!(line.contains("monitoring"), "{line}");
        let to = self.net.get("backend").v4.into();
        let _met = try_once(self.net.get(from), to, PORT, PATIENCE);
        let source = self.net.get(from).v4.to_string();
        loop {
            line.clear();
            stream.read_line(&mut line).expect("a verdict in time");
            let verdict: Value = serde_json::from_str(&line).expect("a line is JSON");
            if verdict["src_ip"] == source.as_str() {
                return verdict;
            }
        }
    }
}

/// A pod as the cluster has it, with a service account of its own name, on node `n1`.
fn object_of(pod: &Pod) -> Value {
    let name = &pod.name;
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"app": name},
            "annotations": {
                "enforcer/interface": pod.interface,
                "enforcer/netns": pod.netns_path().display().to_string(),
            },
        },
        "spec": {
            "nodeName": "n1",
            "serviceAccountName": name,
            "containers": [{"name": "main", "image": "none"}],
        },
        "status": {
            "phase": "Running",
            "podIP": pod.v4.to_string(),
            "podIPs": [{"ip": pod.v4.to_string()}, {"ip": pod.v6.to_string()}],
        },
    })
}

/// A policy as the API server has it.
fn policy(text: &str) -> Value {
    serde_yaml::from_str(text).expect("the test's own policy")
}

/// The node, and which addresses its pods have.
fn node_object() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n1"},
        "spec": {"podCIDR": "10.88.0.0/24", "podCIDRs": ["10.88.0.0/24", "fd88::/64"]},
    })
}
