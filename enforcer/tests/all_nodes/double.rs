//! A double of the API server: nodes, agents' pods, and exec over WebSocket as kubelet serves it
//! (`v4.channel.k8s.io`, `v5.channel.k8s.io`). What is to run in a container runs here, with a socket
//! on which an agent answers what the test has it say.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, UnixListener, UnixStream},
    process::{Child, Command},
    runtime::Runtime,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

const NAMESPACE: &str = "enforcer-system";

/// What is on a node.
#[derive(Clone)]
pub enum Node {
    /// An agent with this status.
    Agent(Value),
    /// An agent that answers any question so.
    Explains(Value),
    /// An agent whose monitor has these lines, and goes on without any.
    Monitored(Vec<Value>),
    /// A container in which every program says this.
    Says(Vec<u8>),
    /// A container in which no agent listens.
    NoSocket,
    /// The user may not run anything in its pod.
    Forbidden,
    /// Its kubelet never answers.
    Hangs,
    NoAgent,
}

/// What an agent says of itself.
pub fn status(generation: u64, hash: &str) -> Value {
    json!({
        "version": "0.1.0", "mode": "enforce", "refuse": "reset", "attach": "tcx",
        "not_ready": [], "generation": generation, "epoch": 3, "hash": hash, "compiler": "0.1.0",
        "bundle": "/etc/enforcer/bundle.bin", "since": "2026-01-01T00:00:00Z",
        "times": { "read_us": 1, "link_us": 1, "publish_us": 1 },
        "table": { "words": 10, "capacity_words": 100, "slot": 1, "scopes": 1,
            "source_classes": 1, "addresses": 1, "records": 1 },
        "pods": [{ "name": "shop/cart", "interfaces": ["veth1"], "enrolled": true, "hook": "host",
            "scope": 1, "asks": false, "proxied": false, "outbound": 0 }],
        "counters": {}, "proxy": null, "hits": [], "pauses": [], "shadow": null, "history": [],
        "state": { "folder": "/run", "trouble": null }, "configuration": {}
    })
}

pub struct Cluster {
    shared: Arc<Shared>,
    folder: TempDir,
    _runtime: Runtime,
}

struct Shared {
    nodes: BTreeMap<String, Node>,
    folder: PathBuf,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    forbidden: BTreeSet<String>,
    asked: Vec<Value>,
    running: usize,
    most: usize,
}

impl Cluster {
    pub fn new<'a>(nodes: impl IntoIterator<Item = (&'a str, Node)>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let nodes = nodes
            .into_iter()
            .map(|(name, node)| (name.to_owned(), node));
        let shared = Arc::new(Shared {
            nodes: nodes.collect(),
            folder: folder.path().into(),
            seen: Mutex::default(),
        });
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        for (name, node) in &shared.nodes {
            if let Node::Agent(_) | Node::Explains(_) | Node::Monitored(_) = node {
                let _within = runtime.enter();
                let socket = UnixListener::bind(shared.socket(name)).expect("a socket");
                runtime.spawn(agent(socket, node.clone(), shared.clone()));
            }
        }
        runtime.spawn(serve(listener, shared.clone()));
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "double",
            "clusters": [{ "name": "double", "cluster": { "server": format!("http://{address}") } }],
            "users": [{ "name": "somebody", "user": { "token": "secret" } }],
            "contexts": [{ "name": "double",
                "context": { "cluster": "double", "user": "somebody" } }]
        });
        let cluster = Self {
            shared,
            folder,
            _runtime: runtime,
        };
        std::fs::write(cluster.kubeconfig(), kubeconfig.to_string()).expect("a file");
        cluster
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// From now on the user may not list these.
    pub fn forbid(&mut self, what: &str) {
        self.shared.seen().forbidden.insert(what.into());
    }

    /// The questions that agents were asked.
    pub fn asked(&self) -> Vec<Value> {
        self.shared.seen().asked.clone()
    }

    /// The most programs that ran in containers at the same time.
    pub fn most_at_once(&self) -> usize {
        self.shared.seen().most
    }

    /// Whether no program runs in a container any more, or soon none does.
    pub fn wait_until_idle(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while self.shared.seen().running > 0 {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no test has panicked with it")
    }

    fn socket(&self, node: &str) -> PathBuf {
        self.folder.join(format!("{node}.sock"))
    }
}

/// An agent's control socket.
async fn agent(socket: UnixListener, node: Node, shared: Arc<Shared>) {
    while let Ok((stream, _)) = socket.accept().await {
        let (node, shared) = (node.clone(), shared.clone());
        tokio::spawn(async move { answer(stream, node, &shared).await });
    }
}

async fn answer(stream: UnixStream, node: Node, shared: &Shared) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut question = String::new();
    stream.read_line(&mut question).await?;
    let question: Value = serde_json::from_str(&question)?;
    shared.seen().asked.push(question);
    let lines = match node {
        Node::Agent(status) => vec![json!({ "status": status })],
        Node::Explains(answer) => vec![answer],
        Node::Monitored(lines) => [vec![json!({ "monitoring": {} })], lines].concat(),
        _ => Vec::new(),
    };
    for line in lines {
        stream.write_all(format!("{line}\n").as_bytes()).await?;
    }
    // Open until the client goes.
    stream.read_line(&mut String::new()).await?;
    Ok(())
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let shared = shared.clone();
                async move { Ok::<_, Infallible>(respond(request, shared).await) }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // The program goes away when it has seen enough.
            let _gone = connection.with_upgrades().await;
        });
    }
}

async fn respond(request: Request<Incoming>, shared: Arc<Shared>) -> Response<Full<Bytes>> {
    if request
        .headers()
        .get("authorization")
        .is_none_or(|a| a != "Bearer secret")
    {
        return refuse(401, "Unauthorized");
    }
    let path = request.uri().path().to_owned();
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let forbidden = |what: &str| shared.seen().forbidden.contains(what);
    if path == "/api/v1/nodes" {
        return match forbidden("nodes") {
            true => refuse(403, "nodes is forbidden"),
            false => list(&shared, |name, _| {
                Some(json!({ "metadata": { "name": name } }))
            }),
        };
    }
    if path == pods {
        return match forbidden("pods") {
            true => refuse(403, "pods is forbidden"),
            false => list(&shared, pod),
        };
    }
    let name = path
        .strip_prefix(&format!("{pods}/enforcer-"))
        .and_then(|rest| rest.strip_suffix("/exec"))
        .unwrap_or_default()
        .to_owned();
    match shared.nodes.get(&name) {
        None | Some(Node::NoAgent) => refuse(404, "pods not found"),
        Some(Node::Forbidden) => refuse(403, "cannot create resource \"pods/exec\""),
        Some(Node::Hangs) => std::future::pending().await,
        Some(node) => upgrade(request, &name, node.clone(), shared.clone()),
    }
}

fn pod(name: &str, node: &Node) -> Option<Value> {
    (!matches!(node, Node::NoAgent)).then(|| {
        json!({
            "metadata": { "name": format!("enforcer-{name}"), "uid": name },
            "spec": { "nodeName": name, "containers": [] }, "status": { "phase": "Running" }
        })
    })
}

fn list(shared: &Shared, object: impl Fn(&str, &Node) -> Option<Value>) -> Response<Full<Bytes>> {
    let nodes = shared.nodes.iter();
    let items: Vec<Value> = nodes
        .filter_map(|(name, node)| object(name, node))
        .collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items });
    plain(200, &list)
}

fn refuse(code: u16, message: &str) -> Response<Full<Bytes>> {
    let reason = if code == 403 { "Forbidden" } else { "Other" };
    let status = json!({ "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code });
    plain(code, &status)
}

fn plain(code: u16, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = StatusCode::from_u16(code).expect("a status");
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", json);
    response
}

/// Begins a WebSocket, and what is to run at its other end.
fn upgrade(
    request: Request<Incoming>,
    name: &str,
    node: Node,
    shared: Arc<Shared>,
) -> Response<Full<Bytes>> {
    let headers = request.headers();
    let offered = header(headers, "sec-websocket-protocol");
    // Clusters of today speak the one, older ones the other.
    let protocol = match name {
        "beta" => "v4.channel.k8s.io",
        _ => "v5.channel.k8s.io",
    };
    assert!(offered.contains(protocol), "{offered}");
    let accept = derive_accept_key(header(headers, "sec-websocket-key").as_bytes());
    let query: Vec<(String, String)> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.into(), decoded(value)))
        .collect();
    let of = |wanted: &str| {
        let values = query.iter().filter(|(key, _)| key == wanted);
        values.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("container"), ["enforcer"]);
    let (command, stdin) = (of("command"), of("stdin") == ["true"]);
    let socket = shared.socket(name);
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(request).await.expect("it upgrades");
        let stream = TokioIo::new(upgraded);
        let stream = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        {
            let mut seen = shared.seen();
            seen.running += 1;
            seen.most = seen.most.max(seen.running);
        }
        match node {
            Node::Says(text) => say(stream, text).await,
            _ => exec(stream, start(&command, stdin, &socket)).await,
        }
        shared.seen().running -= 1;
    });
    Response::builder()
        .status(101)
        .header("upgrade", "websocket")
        .header("connection", "Upgrade")
        .header("sec-websocket-accept", accept)
        .header("sec-websocket-protocol", protocol)
        .body(Full::default())
        .expect("a response")
}

fn start(command: &[String], stdin: bool, socket: &Path) -> Child {
    assert_eq!(command[0], "enforcer", "{command:?}");
    Command::new(super::PROGRAM)
        .args(&command[1..])
        .env("ENFORCER_SOCKET", socket)
        .stdin(if stdin { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts")
}

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

async fn say(mut stream: Socket, text: Vec<u8>) {
    let success = json!({ "metadata": {}, "status": "Success" }).to_string();
    for (channel, text) in [(1, text), (3, success.into_bytes())] {
        let _gone = stream.send(frame(channel, &text)).await;
    }
    let _gone = stream.close(None).await;
}

/// Like a kubelet: the program's standard input ends with the connection, the program does not.
async fn exec(stream: Socket, mut child: Child) {
    let (mut send, mut receive) = stream.split();
    let mut stdin = child.stdin.take();
    let mut out = child.stdout.take().expect("a pipe");
    let mut aside = child.stderr.take().expect("a pipe");
    let (mut bytes, mut aside_bytes) = (vec![0; 8192], vec![0; 8192]);
    let (mut out_open, mut aside_open, mut there) = (true, true, true);
    while out_open || aside_open {
        tokio::select! {
            read = out.read(&mut bytes), if out_open => match read {
                Ok(n) if n > 0 => drop(send.send(frame(1, &bytes[..n])).await),
                _ => out_open = false,
            },
            read = aside.read(&mut aside_bytes), if aside_open => match read {
                Ok(n) if n > 0 => drop(send.send(frame(2, &aside_bytes[..n])).await),
                _ => aside_open = false,
            },
            message = receive.next(), if there => match message {
                Some(Ok(Message::Binary(data))) => {
                    if let (Some(stdin), Some((0, text))) = (&mut stdin, data.split_first()) {
                        let _gone = stdin.write_all(text).await;
                    }
                    if data[..] == [255, 0] {
                        stdin = None;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => (there, stdin) = (false, None),
                Some(Ok(_)) => {}
            },
        }
    }
    let code = child.wait().await.expect("it ends").code().unwrap_or(137);
    let status = match code {
        0 => json!({ "metadata": {}, "status": "Success" }),
        code => json!({ "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: {code}"),
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] } }),
    };
    let _gone = send.send(frame(3, status.to_string().as_bytes())).await;
    let _gone = send.close().await;
}

fn frame(channel: u8, text: &[u8]) -> Message {
    Message::binary([&[channel], text].concat())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

/// A value of a query.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next(), rest.next()].map(|d| d.unwrap_or(b'0'));
                let digits = std::str::from_utf8(&digits).expect("digits");
                u8::from_str_radix(digits, 16).expect("digits")
            }
            other => other,
        });
    }
    String::from_utf8(bytes).expect("text")
}
