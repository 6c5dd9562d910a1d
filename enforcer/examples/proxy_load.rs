//! Requests per second through the proxy on loopback, and the CPU time of its threads for each:
//! `cargo run --release -p enforcer --example proxy_load [CONNECTIONS] [SECONDS] [RULES]`.

use std::{
    fs, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use enforcer::proxy::{
    Decision, Event, Flow, Flows, Judge, Maker, ProxyConfig, Reporter, Ruling, UpstreamTarget,
    start,
};
use policyc::{
    ir::{
        Alternative, Atom, AtomId, Clause, Literal, Otherwise, PathPattern, Pattern, PolicyId,
        Program, Residual, ResidualRule, RuleRef, Stages,
    },
    l7::{CompiledResidual, Engine},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

struct World {
    engine: Arc<Engine>,
    residual: Arc<CompiledResidual>,
    changes: watch::Sender<u64>,
}

impl Judge for World {
    fn ruling(&self, _: Flow, _: Maker) -> Option<Ruling> {
        Some(Ruling {
            epoch: 1,
            decision: Decision::Ask {
                engine: Arc::clone(&self.engine),
                residual: Arc::clone(&self.residual),
            },
        })
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
    fn policy_name(&self, _: u32, _: RuleRef) -> Option<String> {
        None
    }
}

impl Flows for World {
    fn client_opened(&self, _: Flow) -> Maker {
        Maker::Unknown
    }
    fn upstream_opening(&self, _: Flow) -> io::Result<()> {
        Ok(())
    }
    fn upstream_closed(&self, _: Flow) {}
    fn client_closed(&self, _: Flow) {}
}

impl Reporter for World {
    fn verdict(&self, _: &Event<'_>) {}
}

fn main() -> io::Result<()> {
    let number = |at: usize, default: usize| {
        let given = std::env::args().nth(at).and_then(|text| text.parse().ok());
        given.unwrap_or(default)
    };
    let (connections, seconds, rules) = (number(1, 32), number(2, 5), number(3, 100));
    let load = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("load")
        .enable_all()
        .build()?;
    let pod = load.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = pod.local_addr()?;
    load.spawn(serve(pod));
    let world = Arc::new(world(rules));
    let config = ProxyConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        upstream: UpstreamTarget::Fixed(address),
        workers: 1,
        ..ProxyConfig::default()
    };
    let (judge, flows, reporter) = (world.clone(), world.clone(), world);
    let proxy = start(config, judge, flows, reporter, || Ok(()), |_| Ok(()))?;
    let allowed = format!(
        "GET /api/v1/service-{}/items HTTP/1.1\r\nhost: shop\r\naccept: */*\r\n\r\n",
        rules / 2
    );
    let refused = "GET /none HTTP/1.1\r\nhost: shop\r\naccept: */*\r\n\r\n";
    for (name, to, request) in [
        ("without the proxy", address, &*allowed),
        ("allowed", proxy.address, &allowed),
        ("refused", proxy.address, refused),
    ] {
        let before = cpu_of("proxy")?;
        let start = Instant::now();
        let until = start + Duration::from_secs(seconds as u64);
        let done = load.block_on(drive(to, request, connections, until));
        let wall = start.elapsed().as_secs_f64();
        let cpu = (cpu_of("proxy")? - before) as f64 / 1e3;
        println!(
            "{name:<18} {rules} rules {connections} connections: {:>8.0} requests/s, {:>6.1} us of the proxy's CPU each",
            done as f64 / wall,
            cpu / done as f64
        );
    }
    Ok(())
}

/// ALLOW of as many paths as there are rules.
fn world(rules: usize) -> World {
    let numbers = 0..u32::try_from(rules).expect("few rules");
    let path = |i| format!("/api/v1/service-{i}/items");
    let program = Program {
        atoms: numbers
            .clone()
            .map(|i| Atom::Path(PathPattern::Plain(Pattern::Exact(path(i)))))
            .collect(),
        ..Program::default()
    };
    let rule = |i| ResidualRule {
        rule: RuleRef {
            policy: PolicyId(i),
            rule: 0,
        },
        clauses: vec![Clause {
            any: vec![Alternative {
                all: vec![Literal {
                    any: vec![AtomId(i)],
                    negated: false,
                }],
            }],
        }],
    };
    let residual = Residual {
        http: Some(Stages {
            allow: numbers.map(rule).collect(),
            otherwise: Otherwise::Deny,
            ..Stages::default()
        }),
        ..Residual::default()
    };
    let engine = Engine::new(&program);
    let residual = engine.compile(&residual).expect("a sound residual");
    World {
        engine: Arc::new(engine),
        residual: Arc::new(residual),
        changes: watch::Sender::new(0),
    }
}

/// A pod that answers whatever ends in an empty line.
async fn serve(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut buffer = [0; 4_096];
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            while let Ok(1..) = stream.read(&mut buffer).await {
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn drive(to: SocketAddr, request: &str, connections: usize, until: Instant) -> u64 {
    let done = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..connections {
        let (done, request) = (Arc::clone(&done), request.to_string());
        tasks.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(to).await.expect("a listener");
            let mut buffer = [0; 4_096];
            while Instant::now() < until {
                stream.write_all(request.as_bytes()).await.expect("sent");
                let count = stream.read(&mut buffer).await.expect("an answer");
                assert!(count > 0, "the connection stays open");
                done.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for task in tasks {
        task.await.expect("a client");
    }
    done.load(Ordering::Relaxed)
}

/// CPU time of this process's threads of that name, in nanoseconds.
fn cpu_of(name: &str) -> io::Result<u64> {
    let mut total = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let path = task?.path();
        if fs::read_to_string(path.join("comm"))?.trim_end() == name {
            let stat = fs::read_to_string(path.join("schedstat"))?;
            let spent: Option<u64> = stat.split(' ').next().and_then(|n| n.parse().ok());
            total += spent.unwrap_or(0);
        }
    }
    Ok(total)
}
