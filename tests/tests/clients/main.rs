//! The proxy before the clients and servers that people use: curl, nghttp2, gRPC and WebSocket in
//! Python, openssl. A client in one pod, the kernel's own steering, the agent as a process, a server
//! in another pod.
//!
//! `cargo xtask test` installs the clients. Where one is missing its tests say so and are skipped;
//! under `CI=true` that is a failure.

mod cells;
mod curl;
mod extent;
mod grpc;
mod nghttp;
mod server;
mod sly;
mod trouble;
mod websocket;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use tests::{
    live::{
        agent::{Agent, Home},
        compile, manifests, possible, three_pods,
    },
    netns::Process,
    ready::{skipped, until},
    topology::Topology,
};

use server::Server;

const ENFORCER: &str = env!("CARGO_BIN_EXE_enforcer-under-test");
/// On a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ports of `backend` by what is declared for them; each tens digit stands for what is spoken there.
const DECLARED_HTTP: u16 = 8100;
const DECLARED_TCP: u16 = 8200;
const UNDECLARED: u16 = 8300;
/// Added to one of them.
const HTTP: u16 = 1;
const BYTES: u16 = 2;
const TLS: u16 = 3;
/// Free for a test's own server.
const OWN: u16 = 4;

/// GET and POST below `/ok` may reach `backend`, and nothing else.
const ONLY_OK: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-ok, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/frontend]}}]
    to: [{operation: {methods: [GET, HEAD, POST, PUT], paths: [/ok, /ok/*]}}]
";

/// A node with pods, an HTTP server in `backend`, and an agent. Fields drop in order: what is attached
/// goes before the interfaces that it is attached to.
struct World {
    agent: Agent,
    home: Home,
    manifests: String,
    /// On port [`HTTP`] of everything declared.
    servers: Vec<Server>,
    net: Topology,
}

impl World {
    /// With policies of the test's own.
    #[track_caller]
    fn new(what: &str, policies: &str) -> Self {
        Self::with(what, policies, &[])
    }

    #[track_caller]
    fn with(what: &str, policies: &str, options: &[&str]) -> Self {
        let net = three_pods(what).expect("a node with three pods");
        let mut ports = String::from("    image: none\n    ports:\n");
        for (first, name) in [(DECLARED_HTTP, "http"), (DECLARED_TCP, "tcp")] {
            for spoken in [HTTP, BYTES, TLS, OWN] {
                let port = first + spoken;
                ports += &format!("    - {{name: {name}-{port}, containerPort: {port}}}\n");
            }
        }
        let manifests = manifests(&net).replace("    image: none\n", &ports);
        let home = Home::new(ENFORCER, &net.node, &manifests).expect("places of its own");
        let backend = &net.get("backend").netns;
        let servers = [DECLARED_HTTP, DECLARED_TCP, UNDECLARED]
            .map(|first| Server::start(backend, first + HTTP).expect("the port is free"));
        let bytes = compile(&manifests, policies, 0).expect("the test's own policies");
        let bundle = home.bundle("first.bin", &bytes).expect("a file of its own");
        let agent = home.start(&net.node, &bundle, options);
        Self {
            agent: agent
                .expect("the agent starts on a node that `enforcer doctor` is content with"),
            home,
            manifests,
            servers: servers.into(),
            net,
        }
    }

    /// Puts other policies into force.
    #[track_caller]
    fn load(&self, policies: &str) {
        let bytes = compile(&self.manifests, policies, 0).expect("the test's own policies");
        let bundle = self.home.bundle("next.bin", &bytes);
        let loaded = self.home.load(&bundle.expect("a file of its own"));
        loaded.expect("the agent takes a sound bundle");
    }

    /// `backend`'s addresses.
    fn backend(&self) -> [IpAddr; 2] {
        self.net.get("backend").addresses()
    }

    /// `http://` and a port of `backend`, by IPv4.
    fn url(&self, port: u16) -> String {
        format!("http://{}:{port}", self.backend()[0])
    }

    /// Runs a client in `frontend` to its end; whether it was content, and what it has said.
    #[track_caller]
    fn client(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Said {
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=1", &PATIENCE.as_secs().to_string()])
            .arg(program.as_ref())
            .args(arguments)
            .stdin(Stdio::null());
        let netns = &self.net.get("frontend").netns;
        let output = netns.enter(|| command.output()).expect("it is there");
        let said = Said {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        assert_ne!(
            said.code,
            Some(124),
            "it hangs: {said:?}\n{}",
            self.agent.log()
        );
        said
    }

    /// Starts a server in `backend` and waits until it listens.
    #[track_caller]
    fn serve(&self, command: &mut Command, port: u16) -> Process {
        let netns = &self.net.get("backend").netns;
        command.stdin(Stdio::null());
        let process = netns.process(command).expect("it is there");
        let listens = until(PATIENCE, || {
            netns.enter(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
        });
        assert!(listens, "nothing listens on port {port}");
        process
    }

    fn counted(&self, reason: &str) -> u64 {
        self.home.counter(reason).expect("the agent answers")
    }
}

/// What a program has said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Whether a test with this client can run.
fn has(program: &str) -> bool {
    if !possible() {
        return false;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !there {
        skipped(&format!("there is no `{program}`: run `cargo xtask setup`"));
    }
    there
}

/// The Python that has the clients' modules, if a test with it can run.
fn python() -> Option<PathBuf> {
    if !possible() {
        return None;
    }
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients/bin/python3");
    if !python.exists() {
        skipped("there are no clients in Python: run `cargo xtask setup`");
        return None;
    }
    Some(python)
}

/// A script beside the tests.
fn script(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    folder.join(name).to_string_lossy().into_owned()
}

/// The lines of a child's output, as they come.
struct Lines(mpsc::Receiver<String>);

impl Lines {
    fn of(child: &mut Child) -> Self {
        use std::io::{BufRead, BufReader};
        let output = child.stdout.take().expect("a pipe");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self(lines)
    }

    /// The next line; panics where none comes.
    #[track_caller]
    fn next(&self) -> String {
        self.0.recv_timeout(PATIENCE).expect("a line in time")
    }
}
