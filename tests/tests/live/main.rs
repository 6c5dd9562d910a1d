//! Enforcement for real: the agent as a process, real namespaces, real TCP.

mod asks;
mod attribution;
mod changes;
mod conformance;
mod control;
mod datagrams;
mod delivery;
mod deploy;
mod devices;
mod enrolment;
mod flows;
mod holes;
mod hooks;
mod inventory;
mod links;
mod node;
mod operate;
mod packets;
mod paths;
mod proxy;
mod recorded;
mod refreshed;
mod resets;
mod restart;
mod rights;
mod signed;
mod start;
mod support;
mod traces;
mod trouble;
mod unkillable;
mod uplinks;
mod verdicts;

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tests::{
    live::{
        agent::{Agent, Home},
        compile, manifests, possible, three_pods,
        traffic::{
            Echo, Met, PATIENCE, SILENCE, Talker, connect, connect_from, exchange, try_from,
            try_once,
        },
    },
    netns::Netns,
    ready::until,
    topology::{Pod, Topology},
};

const ENFORCER: &str = env!("CARGO_BIN_EXE_enforcer-under-test");
const PORT: u16 = 8080;
/// How long a start may take that fails when nearly all is done, on an emulated machine.
const LATE: Duration = Duration::from_secs(60);

/// Only `frontend` may reach `backend`.
const ONLY_FRONTEND: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-frontend, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/frontend]}}]
";

/// Nobody may reach `backend`.
const NOBODY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
";

/// Of `frontend`, only GET requests may reach `backend`: the verdict is not the kernel's to give.
const ONLY_GET: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-get, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/frontend]}}]
    to: [{operation: {methods: [GET]}}]
";

/// A node with three pods, an echo server in `backend`, and a place for an agent. Fields drop in
/// order: what is attached goes before the interfaces that it is attached to.
struct World {
    home: Home,
    manifests: String,
    server: Echo,
    net: Topology,
}

impl World {
    fn new(what: &str) -> Self {
        Self::on(three_pods(what).expect("a node with three pods"))
    }

    /// On a node of the test's own.
    fn on(net: Topology) -> Self {
        let manifests = manifests(&net);
        let server = Echo::start(net.get("backend"), PORT).expect("the port is free");
        let home = Home::new(ENFORCER, &net.node, &manifests).expect("places of its own");
        Self {
            home,
            manifests,
            server,
            net,
        }
    }

    fn bundle(&self, name: &str, policies: &str) -> PathBuf {
        let bytes = compile(&self.manifests, policies, 0).expect("the test's own policies");
        self.home.bundle(name, &bytes).expect("a file of its own")
    }

    #[track_caller]
    fn start(&self, policies: &str, options: &[&str]) -> Agent {
        let bundle = self.bundle("first.bin", policies);
        let started = self.home.start(&self.net.node, &bundle, options);
        started.expect("the agent starts on a node that `enforcer doctor` is content with")
    }

    fn pod(&self, name: &str) -> &Pod {
        self.net.get(name)
    }

    fn backend(&self) -> [IpAddr; 2] {
        self.pod("backend").addresses()
    }

    #[track_caller]
    fn expect(&self, from: &str, met: Met, why: &str) {
        let wait = if met == Met::Silence {
            SILENCE
        } else {
            PATIENCE
        };
        for address in self.backend() {
            let found = try_once(self.pod(from), address, PORT, wait);
            assert!(
                found == met,
                "from {from} to {address}: {why}: {found:?} instead of {met:?}\n{:?}\n{}",
                self.home.status().map(|status| status["counters"].clone()),
                fs::read_to_string(self.home.file("agent.log")).unwrap_or_default()
            );
        }
    }

    #[track_caller]
    fn counted(&self, reason: &str) -> u64 {
        self.home.counter(reason).expect("the agent answers")
    }
}

#[test]
fn a_bad_bundle_changes_nothing_and_says_why() {
    if !possible() {
        return;
    }
    let world = World::new("lv-bad");
    let _agent = world.start(ONLY_FRONTEND, &[]);
    let good = compile(&world.manifests, NOBODY, 0).expect("the test's own policies");
    let mut damaged = good.clone();
    if let Some(last) = damaged.last_mut() {
        *last ^= 1;
    }
    let mut version = good.clone();
    version[8] = 99;
    let cases: [(&str, &[u8], &str); 4] = [
        ("truncated.bin", &good[..good.len() / 2], "ends early"),
        ("damaged.bin", &damaged, "checksum"),
        (
            "foreign.bin",
            b"\x7fELF and so on, long enough to be something",
            "not a bundle",
        ),
        ("version.bin", &version, "format 99"),
    ];
    for (name, bytes, why) in cases {
        let path = world.home.bundle(name, bytes).expect("a file of its own");
        let error = world.home.load(&path).expect_err(name).to_string();
        assert!(error.contains(why), "{name} should say `{why}`: {error}");
        assert!(error.contains(name), "{name} should be named: {error}");
    }
    let missing = world.home.file("missing.bin");
    let error = world
        .home
        .load(&missing)
        .expect_err("no such file")
        .to_string();
    assert!(error.contains("No such file"), "{error}");
    world.expect("frontend", Met::Answer, "the old table is still in force");
    world.expect("other", Met::Refusal, "the old table is still in force");
    let status = world.home.status().expect("the agent answers");
    assert_eq!(status["epoch"], 1, "no activation was counted");
}

#[test]
fn an_agent_that_cannot_start_leaves_nothing_behind() {
    if !possible() {
        return;
    }
    let world = World::new("lv-nostart");
    let bundle = world.bundle("first.bin", ONLY_FRONTEND);
    let cases: [(&[&str], &str); 2] = [
        (&["--interface", "nosuch"], "no such interface"),
        (&["--capacity", "99999999"], "99999999 words"),
    ];
    for (options, why) in cases {
        let mut agent = world
            .home
            .spawn(&world.net.node, &bundle, options)
            .expect("the program is there");
        assert!(agent.ends_within(PATIENCE), "{options:?} must be refused");
        assert!(
            agent.log().contains(why),
            "{options:?} should say `{why}`:\n{}",
            agent.log()
        );
        assert_nothing_left(&world);
    }
    let broken = world.manifests.replace("vbackend", "vgone");
    fs::write(world.home.file("inventory.yaml"), broken).expect("a file of its own");
    let mut agent = world
        .home
        .spawn(&world.net.node, &bundle, &[])
        .expect("the program is there");
    assert!(
        agent.ends_within(PATIENCE),
        "a missing interface must be refused"
    );
    assert!(
        agent.log().contains("no interface `vgone`"),
        "{}",
        agent.log()
    );
    assert_nothing_left(&world);
    world.expect("other", Met::Answer, "nothing is enforced");
}

#[test]
fn a_second_agent_says_so_and_leaves() {
    if !possible() {
        return;
    }
    let world = World::new("lv-two");
    let _agent = world.start(ONLY_FRONTEND, &[]);
    let bundle = world.bundle("second.bin", NOBODY);
    let mut second = world
        .home
        .spawn(&world.net.node, &bundle, &[])
        .expect("the program is there");
    assert!(second.ends_within(PATIENCE), "it must not stay");
    assert!(
        second.log().contains("another agent listens"),
        "{}",
        second.log()
    );
    world.expect("frontend", Met::Answer, "the first one is undisturbed");
    assert!(world.home.status().is_ok(), "and still answers");
}

#[test]
fn detach_leaves_nothing_with_and_without_an_agent() {
    if !possible() {
        return;
    }
    let world = World::new("lv-detach");
    let mut agent = world.start(NOBODY, &[]);
    world.expect("frontend", Met::Refusal, "nobody may");
    world
        .home
        .detach(&world.net.node)
        .expect("detach with an agent");
    assert!(
        agent.ends_within(PATIENCE),
        "the agent goes when it is told to detach"
    );
    assert_nothing_left(&world);
    world.expect("frontend", Met::Answer, "nothing is enforced any more");

    let agent = world.start(NOBODY, &[]);
    agent.kill().expect("our own process");
    world.expect("frontend", Met::Refusal, "enforcement outlives the agent");
    world
        .home
        .detach(&world.net.node)
        .expect("detach without an agent");
    assert_nothing_left(&world);
    world.expect("frontend", Met::Answer, "nothing is enforced any more");
    let again = world
        .home
        .detach(&world.net.node)
        .expect("detach twice is fine");
    assert_eq!(again.trim(), "nothing was attached");
}

#[track_caller]
fn assert_nothing_left(world: &World) {
    let pins = world.home.pins();
    assert!(!pins.exists(), "pins are left: {}", pins.display());
    let netns = Path::new("/run/netns").join(world.home.netns());
    assert!(!netns.exists(), "the proxy's namespace is left");
    let state = world.home.file("socket.state");
    assert!(!state.exists(), "the agent's state is left");
    let links = links(world);
    assert!(!links.contains("enf-"), "an interface is left:\n{links}");
}

/// The node's interfaces.
fn links(world: &World) -> String {
    let mut list = Command::new("ip");
    list.args(["-o", "link"]);
    world.net.node.output(&mut list).expect("ip is there")
}

/// What a request over plain HTTP/1.1 was answered, first line only.
fn request(world: &World, from: &str, line: &str) -> String {
    request_to(&world.pod(from).netns, world.backend()[0], PORT + 1, line)
}

/// The same from any namespace to any address.
fn request_to(from: &Netns, address: IpAddr, port: u16, line: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = match connect_from(from, address, port, PATIENCE) {
        Ok(stream) => stream,
        Err(error) => return error.kind().to_string(),
    };
    let head = format!("{line} HTTP/1.1\r\nHost: backend\r\nConnection: close\r\n\r\n");
    stream
        .write_all(head.as_bytes())
        .expect("the connection stands");
    let mut answer = String::new();
    match stream.read_to_string(&mut answer) {
        Ok(_) => answer.lines().next().unwrap_or_default().to_owned(),
        Err(error) => error.kind().to_string(),
    }
}

/// Answers every request with 200 and the client's address as it sees it.
fn serve_http(pod: &Pod, port: u16) {
    use std::io::{BufRead, BufReader, Write};
    let listener = pod
        .netns
        .enter(|| std::net::TcpListener::bind((IpAddr::from([0u16; 8]), port)))
        .expect("the port is free");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let peer = stream
                .peer_addr()
                .expect("it is connected")
                .ip()
                .to_canonical();
            let mut lines = BufReader::new(&stream).lines();
            while lines
                .next()
                .is_some_and(|line| line.is_ok_and(|l| !l.is_empty()))
            {}
            let answer =
                format!("HTTP/1.1 200 {peer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            // A client that has gone has seen enough.
            let _sent = (&stream).write_all(answer.as_bytes());
        }
    });
}

#[test]
fn requests_are_judged_by_the_proxy_and_keep_the_clients_address() {
    if !possible() {
        return;
    }
    let world = World::new("lv-http");
    serve_http(world.pod("backend"), PORT + 1);
    let agent = world.start(ONLY_GET, &[]);
    let v4 = world.pod("frontend").v4;
    let state = || {
        format!(
            "{:?}\n{}",
            world.home.status().map(|s| s["counters"].clone()),
            agent.log()
        )
    };
    assert_eq!(
        request(&world, "frontend", "GET /a"),
        format!("HTTP/1.1 200 {v4}"),
        "a GET of frontend's is allowed, and the pod sees frontend's own address\n{}",
        state()
    );
    assert_eq!(
        request(&world, "frontend", "POST /a"),
        "HTTP/1.1 403 Forbidden",
        "no rule allows a POST\n{}",
        state()
    );
    assert_eq!(
        request(&world, "other", "GET /a"),
        "connection refused",
        "what no request could mend is refused in the kernel\n{}",
        state()
    );
    assert!(
        world.counted("steered") >= 2,
        "both requests went to the proxy"
    );
    assert_eq!(world.counted("redirect_unavailable"), 0, "and found it");
}

#[test]
fn clsact_enforces_restarts_and_detaches_alike() {
    if !possible() {
        return;
    }
    let world = World::new("lv-clsact");
    let options = ["--attach", "clsact"];
    let agent = world.start(ONLY_FRONTEND, &options);
    world.expect("frontend", Met::Answer, "its principal is allowed");
    world.expect("other", Met::Refusal, "no rule allows its principal");
    let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).unwrap_or_default();
    let resident = status.lines().find(|line| line.starts_with("VmRSS"));
    println!("agent: {}", resident.unwrap_or("no VmRSS"));
    agent.kill().expect("our own process");
    world.expect("other", Met::Refusal, "enforcement outlives the agent");
    let bundle = world.home.file("first.bin");
    let again = world.home.start(&world.net.node, &bundle, &options);
    let mut again = again.expect("an agent takes over what another has left");
    world.expect("frontend", Met::Answer, "the new one runs");
    world.expect("other", Met::Refusal, "the new one runs");
    world
        .home
        .detach(&world.net.node)
        .expect("detach with an agent");
    assert!(
        again.ends_within(PATIENCE),
        "the agent goes when it is told to detach"
    );
    assert_nothing_left(&world);
    world.expect("other", Met::Answer, "nothing is enforced any more");
}
