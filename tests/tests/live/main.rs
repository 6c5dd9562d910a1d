//! Enforcement for real: the agent as a process, real namespaces, real TCP.

mod control;
mod flows;
mod inventory;
mod proxy;
mod restart;
mod start;

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
        traffic::{Echo, Met, PATIENCE, SILENCE, Talker, connect, exchange, try_once},
    },
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
        let net = three_pods(what).expect("a node with three pods");
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
fn allowed_connections_pass_and_others_are_reset_in_both_families() {
    if !possible() {
        return;
    }
    let world = World::new("lv-allow");
    world.expect("other", Met::Answer, "nothing is enforced yet");
    let _agent = world.start(ONLY_FRONTEND, &[]);
    world.expect("frontend", Met::Answer, "its principal is allowed");
    let accepted = world
        .server
        .accepted
        .load(std::sync::atomic::Ordering::Relaxed);
    let start = Instant::now();
    world.expect("other", Met::Refusal, "no rule allows its principal");
    assert!(
        start.elapsed() < SILENCE,
        "a refusal is a reset, not a time-out: {:?}",
        start.elapsed()
    );
    assert_eq!(
        world
            .server
            .accepted
            .load(std::sync::atomic::Ordering::Relaxed),
        accepted,
        "the server never sees a refused connection"
    );
    assert!(world.counted("denied") >= 2, "each refused SYN is counted");
    let status = world.home.status().expect("the agent answers");
    let hits = status["hits"].as_array().cloned().unwrap_or_default();
    let allowed = hits.iter().find(|hit| hit["reason"] == "allow_rule");
    assert_eq!(
        allowed.map(|hit| (&hit["policy"], &hit["rule"], &hit["opened"])),
        Some((&"default/only-frontend".into(), &0.into(), &2.into())),
        "both families' opening segments are hits of the rule that allowed them: {hits:?}"
    );
}

#[test]
fn refuse_drop_is_silent() {
    if !possible() {
        return;
    }
    let world = World::new("lv-drop");
    let _agent = world.start(ONLY_FRONTEND, &["--refuse", "drop"]);
    world.expect("frontend", Met::Answer, "its principal is allowed");
    world.expect("other", Met::Silence, "--refuse=drop");
}

#[test]
fn audit_mode_reports_and_refuses_nothing() {
    if !possible() {
        return;
    }
    let world = World::new("lv-audit");
    let _agent = world.start(NOBODY, &["--mode", "audit"]);
    world.expect("frontend", Met::Answer, "--mode=audit");
    assert!(
        world.counted("audit_would_deny") >= 2,
        "what enforcing would refuse is counted"
    );
    assert_eq!(world.counted("denied"), 0, "nothing is refused");
}

#[test]
fn without_a_proxy_what_it_would_judge_is_refused_and_counted() {
    if !possible() {
        return;
    }
    let world = World::new("lv-ask");
    let _agent = world.start(ONLY_GET, &["--no-proxy"]);
    world.expect("frontend", Met::Refusal, "nobody can look into the request");
    world.expect("other", Met::Refusal, "no rule speaks of it");
    assert!(
        until(PATIENCE, || world.counted("redirect_unavailable") >= 2),
        "refused for want of a proxy, not by policy: {:?}",
        world.home.status().map(|s| s["counters"].clone())
    );
}

#[test]
fn a_deny_ends_established_connections_and_an_allow_keeps_them() {
    if !possible() {
        return;
    }
    let world = World::new("lv-bite");
    let _agent = world.start(ONLY_FRONTEND, &[]);
    let mut streams: Vec<_> = world
        .backend()
        .into_iter()
        .map(|address| connect(world.pod("frontend"), address, PORT, PATIENCE))
        .map(|stream| stream.expect("frontend is allowed"))
        .collect();
    for stream in &mut streams {
        assert_eq!(exchange(stream, PATIENCE), Met::Answer, "before any change");
    }
    let same = world.bundle("same.bin", ONLY_FRONTEND);
    world.home.load(&same).expect("a good bundle");
    for stream in &mut streams {
        assert_eq!(exchange(stream, PATIENCE), Met::Answer, "still allowed");
    }
    let none = world.bundle("none.bin", NOBODY);
    world.home.load(&none).expect("a good bundle");
    for stream in &mut streams {
        assert_eq!(
            exchange(stream, PATIENCE),
            Met::Refusal,
            "a change of policy bites at the next packet"
        );
    }
    world.expect("frontend", Met::Refusal, "new connections are refused, too");
}

#[test]
fn a_default_deny_pod_may_still_call_others() {
    if !possible() {
        return;
    }
    let world = World::new("lv-out");
    let _other_server = Echo::start(world.pod("other"), 9090).expect("the port is free");
    // Open before the agent comes: found in the pod's own sockets.
    let v4 = world.pod("other").v4.into();
    let mut early = connect(world.pod("backend"), v4, 9090, PATIENCE).expect("nothing enforces");
    assert_eq!(
        exchange(&mut early, PATIENCE),
        Met::Answer,
        "nothing enforces"
    );
    let agent = world.start(NOBODY, &[]);
    assert_eq!(
        exchange(&mut early, PATIENCE),
        Met::Answer,
        "a connection that the pod opened before it was guarded goes on\n{:?}\n{}",
        world.home.status().map(|status| status["counters"].clone()),
        agent.log()
    );
    for address in world.pod("other").addresses() {
        assert_eq!(
            try_once(world.pod("backend"), address, 9090, PATIENCE),
            Met::Answer,
            "answers to a connection that the pod opened are not inbound"
        );
    }
    world.expect("other", Met::Refusal, "and inbound is denied all the while");
    let outbound = || world.home.status().ok()?["pods"][0]["outbound"].as_u64();
    assert!(
        until(Duration::from_secs(30), || outbound() == Some(1)),
        "closed connections are forgotten, the open one is not: {:?}",
        outbound()
    );
}

#[test]
fn killed_and_started_again_there_is_no_gap_either_way() {
    if !possible() {
        return;
    }
    let world = World::new("lv-kill");
    let mut agent = world.start(ONLY_FRONTEND, &[]);
    let v4 = world.backend()[0];
    let stream = connect(world.pod("frontend"), v4, PORT, PATIENCE).expect("frontend is allowed");
    let talker = Talker::start(stream);
    let bundle = world.home.file("first.bin");
    for round in 0..5 {
        agent.kill().expect("our own process");
        for _ in 0..5 {
            let met = try_once(world.pod("other"), v4, PORT, PATIENCE);
            assert_eq!(met, Met::Refusal, "nobody runs, round {round}");
        }
        let met = try_once(world.pod("frontend"), v4, PORT, PATIENCE);
        assert_eq!(met, Met::Answer, "nobody runs, round {round}");
        let again = world.home.start(&world.net.node, &bundle, &[]);
        agent = again.expect("an agent takes over what another has left");
        assert!(
            agent.log().contains("made=0"),
            "programs are replaced in place, not attached anew:\n{}",
            agent.log()
        );
        let met = try_once(world.pod("other"), v4, PORT, PATIENCE);
        assert_eq!(met, Met::Refusal, "the new one runs, round {round}");
    }
    let (count, longest, last) = talker.stop();
    assert_eq!(last, Met::Answer, "the connection lived through it all");
    assert!(count > 100, "it was talking all the time: {count}");
    assert!(
        longest < Duration::from_secs(1),
        "and never lost a segment: {longest:?}"
    );
    let epoch = world.home.status().expect("the agent answers")["epoch"].as_u64();
    assert_eq!(epoch, Some(6), "activations are counted on over restarts");
}

#[test]
fn swaps_under_traffic_lose_nothing_and_leak_nothing() {
    if !possible() {
        return;
    }
    let world = World::new("lv-swap");
    let _agent = world.start(ONLY_FRONTEND, &[]);
    let v4 = world.backend()[0];
    let stream = connect(world.pod("frontend"), v4, PORT, PATIENCE).expect("frontend is allowed");
    let talker = Talker::start(stream);
    // The same for frontend and other by different tables.
    let padding: String = (0..40)
        .map(|n| {
            format!(
                "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: pad-{n}, namespace: default}}\nspec:\n  selector: {{matchLabels: {{app: backend}}}}\n  rules:\n  - from: [{{source: {{ipBlocks: [\"192.0.2.{n}/32\"]}}}}]\n"
            )
        })
        .collect();
    let bundles = [
        world.bundle("a.bin", ONLY_FRONTEND),
        world.bundle("b.bin", &format!("{ONLY_FRONTEND}{padding}")),
    ];
    let mut slowest = Duration::ZERO;
    for round in 0..30 {
        let start = Instant::now();
        world
            .home
            .load(&bundles[(round + 1) % 2])
            .expect("a good bundle");
        slowest = slowest.max(start.elapsed());
        let met = try_once(world.pod("other"), v4, PORT, PATIENCE);
        assert_eq!(met, Met::Refusal, "in swap {round}");
    }
    let (count, longest, last) = talker.stop();
    assert_eq!(last, Met::Answer, "the connection lived through 30 swaps");
    assert!(
        longest < Duration::from_secs(1),
        "and never lost a segment: {longest:?}"
    );
    let times = world.home.status().expect("the agent answers")["times"].clone();
    println!("30 swaps, {count} answers; slowest load command {slowest:?}, last {times}");
    let hits = world.home.status().expect("the agent answers")["hits"].clone();
    let packets: u64 = hits
        .as_array()
        .into_iter()
        .flatten()
        .filter(|hit| hit["policy"] == "default/only-frontend")
        .filter_map(|hit| hit["packets"].as_u64())
        .sum();
    assert!(
        packets > count,
        "hits are summed by name over all activations: {packets} packets, {count} answers"
    );
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
    let cases: [(&[&str], &str); 3] = [
        (&["--interface", "nosuch"], "no such interface"),
        (&["--non-tcp", "enforce"], "not supported yet"),
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
        second.log().contains("another agent runs"),
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
    use std::io::{Read, Write};
    let address = world.backend()[0];
    let mut stream = match connect(world.pod(from), address, PORT + 1, PATIENCE) {
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
fn the_older_hook_enforces_restarts_and_detaches_alike() {
    if !possible() {
        return;
    }
    let world = World::new("lv-clsact");
    let options = ["--hook", "clsact"];
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
