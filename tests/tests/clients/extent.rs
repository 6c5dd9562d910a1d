//! Much at once and for long: what the proxy holds must not grow with what it carries.
//!
//! CI carries some hundred megabytes and a thousand connections; `cargo xtask soak --l7` ten gigabytes
//! and ten thousand.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    sync::{atomic::Ordering, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tests::live::traffic::connect;

use super::{DECLARED_HTTP, HTTP, ONLY_OK, PATIENCE, World, has, until};

/// How much the agent may grow by while it carries a body, however long, in KiB.
const GROWTH_MAX: u64 = 24 << 10;
/// And by each connection that is idle, in KiB.
const IDLE_MAX: u64 = 64;
/// Descriptors that ten thousand connections take, twice, and more.
const DESCRIPTORS: u64 = 65_536;
const LONG: Duration = Duration::from_secs(3_600);

fn asked(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Of the agent, in KiB: what it holds, and the most that it has held since [`forget_peak`].
fn memory(world: &World) -> (u64, u64) {
    let path = PathBuf::from(format!("/proc/{}/status", world.agent.id()));
    let status = fs::read_to_string(path).expect("the agent runs");
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number =
            line.and_then(|line| line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().ok());
        number.expect("the kernel tells")
    };
    (of("VmRSS"), of("VmHWM"))
}

fn forget_peak(world: &World) {
    let path = format!("/proc/{}/clear_refs", world.agent.id());
    fs::write(path, "5").expect("the agent runs");
}

#[test]
fn bodies_of_any_size_are_streamed_in_constant_memory() {
    if !has("curl") {
        return;
    }
    let bytes = asked("ENFORCER_TEST_L7_BYTES", 512 << 20);
    let world = World::new("cl-large", ONLY_OK);
    let url = world.url(DECLARED_HTTP + HTTP);
    let client = &world.net.get("frontend").netns;
    let quarter = bytes / 4;
    let run = |what: &str, line: &str| {
        forget_peak(&world);
        let (before, _) = memory(&world);
        let start = Instant::now();
        let mut shell = std::process::Command::new("timeout");
        shell.args([&LONG.as_secs().to_string(), "sh", "-c", line]);
        let said = client.output(&mut shell).expect(what);
        let (_, peak) = memory(&world);
        let time = start.elapsed().as_secs_f64();
        println!(
            "{what}: {} MB in {time:.1} s, {before} KiB before, {peak} KiB at most",
            quarter >> 20
        );
        assert!(
            peak < before + GROWTH_MAX,
            "{what}: {before} KiB became {peak} KiB"
        );
        said
    };
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let down = format!(
            "curl -sS {version} -o /dev/null -w '%{{size_download}}' {url}/ok/large-{quarter}"
        );
        assert_eq!(run(&format!("down, {version}"), &down), quarter.to_string());
        let up = format!(
            "head -c {quarter} /dev/zero | curl -sS {version} -H 'Expect:' -T - {url}/ok/up"
        );
        let said = run(&format!("up, {version}"), &up);
        assert_eq!(said, format!("PUT /ok/up {quarter}\n"));
    }
}

#[test]
fn who_takes_nothing_is_sent_nothing_more() {
    if !tests::live::possible() {
        return;
    }
    let world = World::new("cl-slow", ONLY_OK);
    let (before, _) = memory(&world);
    let clients: Vec<TcpStream> = (0..20)
        .map(|_| get(&world, "/ok/large-10000000000"))
        .collect();
    let sent = || world.servers[0].seen.sent.load(Ordering::SeqCst);
    // What fits into sockets goes; then nothing moves any more.
    let (mut last, mut still) = (0, 0);
    let stalled = until(PATIENCE, || {
        let now = sent();
        still = if now == last && now > 0 { still + 1 } else { 0 };
        last = now;
        still == 200
    });
    assert!(
        stalled,
        "the pod is asked for more and more: {} bytes",
        sent()
    );
    let (after, _) = memory(&world);
    assert!(
        after < before + GROWTH_MAX,
        "{before} KiB became {after} KiB"
    );
    drop(clients);
    assert_nothing_is_open(&world);
}

#[test]
fn idle_connections_cost_little_and_are_all_served_again() {
    if !tests::live::possible() {
        return;
    }
    let descriptors = raise_descriptors();
    let wanted = asked("ENFORCER_TEST_L7_CONNECTIONS", 1_000);
    let first = many("cl-idle0");
    // An agent holds two of each, and the servers are all of this process.
    let each = status_of(&first, "connections_max") - 100;
    let most = descriptors - 1_000;
    assert!(wanted <= most, "{wanted} of {most} possible connections");
    let nodes = wanted.div_ceil(each);
    let rest = (1..nodes).map(|node| many(&format!("cl-idle{node}")));
    let worlds: Vec<World> = std::iter::once(first).chain(rest).collect();
    let before: Vec<u64> = worlds.iter().map(|world| memory(world).0).collect();
    let count = |node| wanted / nodes + u64::from(node < wanted % nodes);
    thread::scope(|scope| {
        let crowds: Vec<Crowd> = (0..)
            .zip(&worlds)
            .map(|(node, world)| Crowd::begin(scope, world, count(node)))
            .collect();
        for crowd in &crowds {
            crowd.step("open");
        }
        for ((node, world), before) in (0..).zip(&worlds).zip(before) {
            let count = count(node);
            let open = status_of(world, "open");
            assert_eq!(open, count, "all are open at the same time");
            let (after, _) = memory(world);
            println!("{count} idle connections: {before} KiB became {after} KiB");
            assert!(
                after < before + GROWTH_MAX / 2 + count * IDLE_MAX,
                "{before} KiB became {after} KiB"
            );
        }
        let all: u64 = worlds.iter().map(|world| status_of(world, "open")).sum();
        println!("{all} of {wanted} at the same time, through {nodes} agents");
        assert_eq!(all, wanted);
        for crowd in &crowds {
            crowd.step("ask again");
        }
    });
    for world in &worlds {
        assert_nothing_is_open(world);
    }
}

fn many(what: &str) -> World {
    let many = [
        "--proxy-connections",
        "20000",
        "--proxy-connections-per-source",
        "20000",
    ];
    World::with(what, ONLY_OK, &many)
}

fn status_of(world: &World, what: &str) -> u64 {
    let status = world.home.status().expect("the agent answers");
    status["proxy"][what].as_u64().expect("a number")
}

/// Clients on a thread that has descriptors of its own: the server's ends are this process's.
struct Crowd {
    go: mpsc::Sender<()>,
    done: mpsc::Receiver<()>,
}

impl Crowd {
    /// To be called while few descriptors are open: the thread begins with a copy of each.
    fn begin<'scope>(
        scope: &'scope thread::Scope<'scope, '_>,
        world: &'scope World,
        count: u64,
    ) -> Self {
        let (go, went) = mpsc::channel();
        let (finished, done) = mpsc::channel();
        scope.spawn(move || {
            own_descriptors();
            let _ready = finished.send(());
            // Who has let go of the other end has failed.
            if went.recv().is_err() {
                return;
            }
            let mut clients: Vec<TcpStream> = (0..count).map(|_| get(world, "/ok")).collect();
            for client in &mut clients {
                assert_eq!(status(client), "200");
            }
            if finished.send(()).is_err() || went.recv().is_err() {
                return;
            }
            for client in &mut clients {
                client.write_all(&request("/no")).expect("it stands");
            }
            for client in &mut clients {
                assert_eq!(status(client), "403");
            }
            let _told = finished.send(());
        });
        let crowd = Self { go, done };
        crowd.wait("begin");
        crowd
    }

    fn step(&self, what: &str) {
        self.go.send(()).expect(what);
        self.wait(what);
    }

    fn wait(&self, what: &str) {
        self.done.recv().expect(what);
    }
}

#[expect(unsafe_code, reason = "descriptors are known by number")]
fn own_descriptors() {
    // SAFETY: the thread uses its own connections and, by number, the namespaces that are open already
    // and stay so as long as it runs.
    let own = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FILES) };
    own.expect("the kernel has room for a table");
}

/// As far as this process may; what it starts inherits it. Returns how many there may be.
fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    for maximum in [hard.max(DESCRIPTORS), hard] {
        let raised = Rlimit {
            current: Some(maximum.min(DESCRIPTORS)),
            maximum: limit.maximum.and(Some(maximum)),
        };
        // Beyond the hard limit goes who may administer the system.
        if setrlimit(Resource::Nofile, raised).is_ok() {
            break;
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: backend\r\n\r\n").into_bytes()
}

/// A connection on which that was asked.
fn get(world: &World, path: &str) -> TcpStream {
    let frontend = world.net.get("frontend");
    let stream = connect(frontend, world.backend()[0], DECLARED_HTTP + HTTP, PATIENCE);
    let mut stream = stream.expect("the proxy accepts");
    stream.write_all(&request(path)).expect("it stands");
    stream
}

/// Reads one answer; its status.
fn status(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    stream
        .read_exact(&mut vec![0; length.unwrap_or(0)])
        .expect("a body");
    head.split(' ').nth(1).unwrap_or_default().to_owned()
}

/// Neither seats nor descriptors are kept.
#[track_caller]
fn assert_nothing_is_open(world: &World) {
    let open = || {
        let status = world.home.status().expect("the agent answers");
        status["proxy"]["open"].as_u64()
    };
    assert!(
        until(PATIENCE, || open() == Some(0)),
        "{:?} are open",
        open()
    );
}
