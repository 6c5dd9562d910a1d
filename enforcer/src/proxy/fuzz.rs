//! What is fuzzed of the proxy: a client's bytes, whatever they are, through the code that serves
//! clients, to a pod that records. Nothing may reach the pod that the policies do not allow, nor more
//! than was judged.
//!
//! The pod reads HTTP/1 strictly and by itself: what it cannot read is a mistake of the proxy's. The
//! policies are asked by the engine, as ever; [`is_denied`] says in plain words what they mean.
//!
//! `cargo xtask fuzz` looks for new inputs; a test runs this on the seeds and on all that was found.

mod pod;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use enforcer_ebpf::words::Words;
use policyc::{
    cluster::PathNormalization,
    compile::compile,
    diagnostic::any_error,
    l7::normalize::normalize,
    link::{self, Local, NodeView},
    options::CatchAllDeny,
    read,
    request::Expected,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    runtime::{Builder, Runtime},
    sync::watch,
    task::yield_now,
    time::timeout,
};

use super::{
    Event, Flow, Flows, Judge, Maker, ProxyConfig, Reporter, Ruling, Spoken, UpstreamTarget,
    conn::{Conn, Shared},
    listener,
    rules::Rules,
};
use pod::{Heard, Request};

/// The rules whose meaning [`is_denied`] repeats.
const MANIFESTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: default}
---
apiVersion: v1
kind: Pod
metadata: {name: backend, namespace: default, labels: {app: backend}}
spec: {containers: [{name: main, image: none}]}
status: {phase: Running, podIP: 10.0.0.1}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-these, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  action: DENY
  rules:
  - to: [{operation: {paths: ["/admin*"]}}]
  - to: [{operation: {methods: [DELETE]}}]
  - to: [{operation: {notHosts: [a]}}]
  - when: [{key: "request.headers[x-bad]", values: ["*"]}]
"#;

/// The same, naively.
fn is_denied(request: &Request) -> bool {
    request.target.starts_with("/admin")
        || request.method == "DELETE"
        || !request
            .host
            .as_deref()
            .is_some_and(|host| host.eq_ignore_ascii_case("a"))
        || request
            .headers
            .iter()
            .any(|name| name.eq_ignore_ascii_case("x-bad"))
}

const POD: &str = "10.0.0.1:80";
const CLIENT: &str = "10.0.0.9:40000";
/// Longer than this nothing takes.
const PATIENCE: Duration = Duration::from_secs(5);
/// So often in a row nothing may have happened, and all has.
const QUIET: usize = 8;

/// Judges by the rules, and remembers what it has let through.
struct World {
    rules: Rules,
    changes: watch::Sender<u64>,
    /// Method, target as the pod is to see it, host.
    allowed: Mutex<Vec<(String, String, Option<String>)>>,
    /// Connections of clients and to pods.
    open: AtomicUsize,
    /// Whatever happens is counted.
    happened: AtomicUsize,
}

impl World {
    fn happens(&self) {
        self.happened.fetch_add(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Judge for World {
    fn ruling(&self, flow: Flow, maker: Maker) -> Option<Ruling> {
        Some(self.rules.ruling(flow, maker))
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
    fn policy_name(&self, _: u32, _: policyc::ir::RuleRef) -> Option<String> {
        None
    }
}

impl Flows for World {
    fn client_opened(&self, _: Flow) -> Maker {
        self.open.fetch_add(1, Ordering::SeqCst);
        Maker::Unknown
    }
    fn upstream_opening(&self, _: Flow) -> io::Result<()> {
        self.happens();
        self.open.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn upstream_closed(&self, _: Flow) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
    fn client_closed(&self, _: Flow) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Reporter for World {
    fn verdict(&self, event: &Event<'_>) {
        self.happens();
        let Spoken::Http {
            method,
            target,
            host,
        } = event.spoken
        else {
            return;
        };
        if event.verdict == Expected::Allow {
            let normal = normalize(target, PathNormalization::Base);
            let target = match normal {
                Ok(normal) => format!("{}{}", normal.path, normal.query),
                Err(_) => panic!("`{target}` was allowed, and has no normal form"),
            };
            lock(&self.allowed).push((method.into(), target, host.map(str::to_owned)));
        }
    }
}

/// The proxy and its pod, on one thread.
struct Bed {
    runtime: Runtime,
    world: Arc<World>,
    shared: Arc<Shared>,
    heard: Arc<Heard>,
}

thread_local! {
    static BED: RefCell<Option<Bed>> = const { RefCell::new(None) };
}

/// A client's connection from its first byte to its last.
pub fn client_bytes(data: &[u8]) {
    BED.with_borrow_mut(|bed| bed.get_or_insert_with(Bed::new).run(data));
}

impl Bed {
    fn new() -> Self {
        let runtime = Builder::new_current_thread()
            .enable_all()
            // What is ready is seen at once: that nothing happens means that nothing will.
            .event_interval(1)
            .build()
            .expect("a runtime");
        let heard = Arc::new(Heard::default());
        let pod = runtime.block_on(pod::start(Arc::clone(&heard)));
        let world = Arc::new(World {
            rules: rules(),
            changes: watch::Sender::new(0),
            allowed: Mutex::default(),
            open: AtomicUsize::new(0),
            happened: AtomicUsize::new(0),
        });
        let config = ProxyConfig {
            upstream: UpstreamTarget::Fixed(pod),
            ..ProxyConfig::default()
        };
        let shared = Arc::new(Shared {
            judge: world.clone(),
            flows: world.clone(),
            reporter: world.clone(),
            stats: Arc::default(),
            config,
        });
        Self {
            runtime,
            world,
            shared,
            heard,
        }
    }

    fn run(&self, data: &[u8]) {
        self.runtime.block_on(async {
            let done = timeout(PATIENCE, self.carry(data)).await;
            assert!(done.is_ok(), "it does not end");
        });
        let mut allowed = std::mem::take(&mut *lock(&self.world.allowed));
        for heard in self.heard.take() {
            let request = match heard {
                Ok(request) => request,
                Err(why) => panic!("the pod was sent what is no HTTP: {why}"),
            };
            assert!(!is_denied(&request), "denied, and sent: {request:?}");
            let judged = allowed.iter().position(|(method, target, host)| {
                *method == request.method && *target == request.target && *host == request.host
            });
            match judged {
                Some(judged) => allowed.swap_remove(judged),
                None => panic!("never judged, and sent: {request:?}; judged: {allowed:?}"),
            };
        }
    }

    async fn carry(&self, data: &[u8]) {
        let (client, served) = UnixStream::pair().expect("a pair of sockets");
        // A socket is a socket: what serves clients asks nothing of it that only TCP has.
        let served = served
            .into_std()
            .map(OwnedFd::from)
            .map(std::net::TcpStream::from);
        let served = served.and_then(TcpStream::from_std).expect("a stream");
        let [client_at, pod_at] = [CLIENT, POD].map(|at| at.parse().expect("an address"));
        let conn = Arc::new(Conn::new(Arc::clone(&self.shared), client_at, pod_at));
        let serving = tokio::spawn(listener::converse(conn, served));
        let (mut from, mut to) = client.into_split();
        let world = Arc::clone(&self.world);
        let reading = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok(1..) = from.read(&mut buffer).await {
                world.happens();
            }
        });
        // The first byte says how the rest is cut.
        let (size, data) = data.split_first().unwrap_or((&0, b""));
        for part in data.chunks(1 + usize::from(*size) * 8) {
            // A refusal may come before the last byte.
            if to.write_all(part).await.is_err() {
                break;
            }
            yield_now().await;
        }
        self.settle().await;
        drop(to);
        let served = serving.await;
        assert!(!served.is_err_and(|error| error.is_panic()), "a panic");
        let _ended = reading.await;
        while self.world.open.load(Ordering::SeqCst) > 0 || self.heard.open() > 0 {
            yield_now().await;
        }
    }

    /// Until nothing happens any more.
    async fn settle(&self) {
        let happened = || self.world.happened.load(Ordering::Relaxed) + self.heard.happened();
        let (mut quiet, mut before) = (0, happened());
        while quiet < QUIET {
            yield_now().await;
            let after = happened();
            quiet = if after == before { quiet + 1 } else { 0 };
            before = after;
        }
    }
}

/// The table's words.
struct Kept(Vec<u32>);

impl Words for Kept {
    fn at(&self, index: u32) -> u32 {
        self.0.as_slice().at(index)
    }
}

fn rules() -> Rules {
    let (loaded, found) = read::load_str("fuzz.yaml", MANIFESTS, None);
    assert!(!any_error(&found), "{found:?}");
    let program = compile(&loaded, CatchAllDeny::DenyAll, &BTreeMap::new()).expect("they compile");
    let node = NodeView {
        local: Local::Only([("default".into(), "backend".into())].into()),
        epoch: 1,
        ..NodeView::default()
    };
    let linked = link::link(&program, &loaded.cluster, &node, &[]).expect("they fit");
    let words = Box::new(Kept(linked.words.clone()));
    Rules::new(1, &program, &linked, words).expect("they are sound")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn inputs() -> Vec<(String, Vec<u8>)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
        let entries = fs::read_dir(&folder).expect("the folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let read = paths.map(|path| {
            let name = path.display().to_string();
            (name, fs::read(&path).expect("a file"))
        });
        read.collect()
    }

    #[test]
    fn seeds_and_what_was_found_reach_the_pod_only_as_judged() {
        let seeds = inputs();
        assert!(seeds.len() > 10, "there are seeds");
        for (name, data) in seeds {
            println!("{name}");
            client_bytes(&data);
        }
    }

    #[test]
    fn what_is_allowed_comes_to_the_pod_in_both_versions() {
        for seed in ["get.http1", "two-streams.http2"] {
            let bed = Bed::new();
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("fuzz/seeds")
                .join(seed);
            let data = fs::read(path).expect("a seed");
            bed.runtime.block_on(bed.carry(&data));
            let heard = bed.heard.take();
            assert!(!heard.is_empty(), "{seed}: {:?}", lock(&bed.world.allowed));
        }
    }
}
