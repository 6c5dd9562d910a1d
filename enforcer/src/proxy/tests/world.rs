//! A judge that says what it is told, a pod that records, a client that writes raw bytes.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    thread,
    time::Duration,
};

use policyc::{
    ir::{
        Alternative, Atom, AtomId, Clause, Literal, Otherwise, PathPattern, Pattern, PolicyId,
        Program, Residual, ResidualRule, RuleRef, Stages,
    },
    l7::Engine,
    request::{Cause, Expected},
};
use tokio::sync::watch;

use crate::proxy::{
    Authorizers, Decision, Event, Flow, Flows, Judge, Maker, Proxy, ProxyConfig, Refusal, Reporter,
    Ruling, Spoken, UpstreamTarget, Why, start,
};

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says `decision`, and remembers everything.
pub struct World {
    pub decision: Mutex<Decision>,
    changes: watch::Sender<u64>,
    pub events: Mutex<Vec<(Expected, Cause, Option<String>)>>,
    pub refusals: Mutex<Vec<Refusal>>,
    /// Verdict, method and target of each request that was judged.
    pub judged: Mutex<Vec<(Expected, String, String)>>,
    pub authorizers: Mutex<Option<Arc<dyn Authorizers>>>,
    /// Clients that were announced and have not ended.
    pub clients: AtomicI64,
    pub open: AtomicI64,
    pub opened: AtomicI64,
}

impl World {
    pub fn decide(&self, decision: Decision) {
        *lock(&self.decision) = decision;
        self.changes.send_modify(|epoch| *epoch += 1);
    }
}

impl Judge for World {
    fn ruling(&self, _: Flow, _: Maker) -> Option<Ruling> {
        let decision = lock(&self.decision).clone();
        Some(Ruling { epoch: 1, decision })
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
    fn policy_name(&self, _: u32, rule: RuleRef) -> Option<String> {
        Some(format!("ns/p{}", rule.policy.0))
    }
    fn authorizers(&self) -> Option<Arc<dyn Authorizers>> {
        lock(&self.authorizers).clone()
    }
}

impl Flows for World {
    fn client_opened(&self, _: Flow) -> Maker {
        self.clients.fetch_add(1, Ordering::SeqCst);
        Maker::Unknown
    }
    fn upstream_opening(&self, _: Flow) -> io::Result<()> {
        self.open.fetch_add(1, Ordering::SeqCst);
        self.opened.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn upstream_closed(&self, _: Flow) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
    fn client_closed(&self, _: Flow) {
        self.clients.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Reporter for World {
    fn verdict(&self, event: &Event<'_>) {
        let policy = event.policy.map(String::from);
        if let Spoken::Http { method, target, .. } = event.spoken {
            lock(&self.judged).push((event.verdict, method.into(), target.into()));
        }
        match event.why {
            Why::Policy(cause) => lock(&self.events).push((event.verdict, cause, policy)),
            Why::Proxy(refusal) => lock(&self.refusals).push(refusal),
        }
    }
}

pub fn settled(verdict: Expected) -> Decision {
    Decision::Settled {
        verdict,
        cause: Cause::NoAllowMatched,
        rule: None,
    }
}

/// DENY of paths under /admin on HTTP; on anything else DENY of the server name `bad.example`, and
/// `tcp` for the rest.
pub fn deny_admin(tcp: Otherwise) -> Decision {
    let program = Program {
        atoms: vec![
            Atom::Path(PathPattern::Plain(Pattern::parse("/admin*"))),
            Atom::Sni(Pattern::parse("bad.example")),
        ],
        ..Program::default()
    };
    let rule = |atom| ResidualRule {
        rule: RuleRef {
            policy: PolicyId(atom),
            rule: 0,
        },
        clauses: vec![Clause {
            any: vec![Alternative {
                all: vec![Literal {
                    any: vec![AtomId(atom)],
                    negated: false,
                }],
            }],
        }],
    };
    let residual = Residual {
        http: Some(Stages {
            deny: vec![rule(0)],
            otherwise: Otherwise::Allow,
            ..Stages::default()
        }),
        tcp: Stages {
            deny: vec![rule(1)],
            otherwise: tcp,
            ..Stages::default()
        },
        forwarded_for: 1,
    };
    let engine = Engine::new(&program);
    let residual = engine.compile(&residual).expect("a sound residual");
    Decision::Ask {
        engine: Arc::new(engine),
        residual: Arc::new(residual),
    }
}

pub struct Bed {
    pub world: Arc<World>,
    pub proxy: Proxy,
    pub heads: Arc<Mutex<Vec<String>>>,
}

impl Bed {
    /// A proxy before a pod that answers each request with 200 and `ok`, and keeps its head.
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// The same with other limits.
    pub fn with(change: impl FnOnce(&mut ProxyConfig)) -> Self {
        let heads = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heads);
        let pod = pod(move |mut stream| {
            let kept = Arc::clone(&kept);
            thread::spawn(move || while answer(&mut stream, &kept).is_ok() {});
        });
        Self {
            heads,
            ..Self::before(pod, change)
        }
    }

    pub fn before(pod: SocketAddr, change: impl FnOnce(&mut ProxyConfig)) -> Self {
        let world = Arc::new(World {
            decision: Mutex::new(deny_admin(Otherwise::Deny)),
            changes: watch::Sender::new(0),
            events: Mutex::default(),
            refusals: Mutex::default(),
            judged: Mutex::default(),
            authorizers: Mutex::default(),
            clients: AtomicI64::new(0),
            open: AtomicI64::new(0),
            opened: AtomicI64::new(0),
        });
        let mut config = ProxyConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            upstream: UpstreamTarget::Fixed(pod),
            sniff_timeout: Duration::from_millis(300),
            ..ProxyConfig::default()
        };
        change(&mut config);
        let (judge, flows, reporter) = (world.clone(), world.clone(), world.clone());
        let proxy = start(config, judge, flows, reporter, || Ok(()), |_| Ok(()));
        Self {
            world,
            proxy: proxy.expect("a proxy on loopback"),
            heads: Arc::default(),
        }
    }

    pub fn client(&self) -> TcpStream {
        let stream = TcpStream::connect(self.proxy.address).expect("the proxy listens");
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).expect("a time-out");
        stream
    }

    /// Sends raw bytes on a new connection; the status of the answer, if there is one.
    pub fn status(&self, bytes: &[u8]) -> Option<u16> {
        let mut stream = self.client();
        stream.write_all(bytes).expect("the proxy reads");
        response(&mut stream).ok().map(|r| r.status)
    }

    pub fn heads(&self) -> Vec<String> {
        lock(&self.heads).clone()
    }
}

/// A listener on loopback whose connections go to `serve`.
pub fn pod(serve: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.expect("a connection"));
        }
    });
    address
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

pub fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

/// Reads one response with a Content-Length.
pub fn response(stream: &mut TcpStream) -> io::Result<Response> {
    let head = read_head(stream)?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|l| l.split(' ').nth(1)?.parse().ok());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_string()))
        .collect();
    let length = headers.get("content-length").and_then(|l| l.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    Ok(Response {
        status: status.ok_or(io::ErrorKind::InvalidData)?,
        headers,
        body,
    })
}

fn answer(stream: &mut TcpStream, kept: &Mutex<Vec<String>>) -> io::Result<()> {
    let head = read_head(stream)?;
    let lower = head.to_ascii_lowercase();
    let length = lower
        .lines()
        .find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    if lower.contains("transfer-encoding: chunked") {
        let mut tail = Vec::new();
        let mut byte = [0];
        while !tail.ends_with(b"0\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            tail.push(byte[0]);
        }
    }
    lock(kept).push(head);
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-pod: yes\r\n\r\nok")
}
