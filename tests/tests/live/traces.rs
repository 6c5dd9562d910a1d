//! Courses that a connection can take besides the ordinary one: both ends open at once, one end has
//! said all it has to say, nobody says anything for long, ports are used again, and the server
//! answers by cookies. Whatever happens to tables and agents meanwhile, the next packet is judged
//! right, in both directions.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use enforcer::netns::Netns as Place;
use socket2::{Domain, Protocol, Socket, Type};
use tests::{netns::run, ready::skipped};

use super::{paths::nft, *};

/// Where `other` and `frontend` listen.
const THEIRS: u16 = 9090;
/// Ports that `backend` calls from, and listens at.
const OWN: u16 = 5555;
const OPEN: u16 = 5556;
/// More than the pods' sockets hold back, so that it must be acknowledged in between.
const PIECE: usize = 60_000;

/// Both ends of a connection.
struct Pair {
    caller: TcpStream,
    callee: TcpStream,
    /// Who has called whom, and where.
    what: String,
}

impl Pair {
    fn open(world: &World, from: &str, to: &str, family: usize, port: u16) -> Self {
        let address = world.pod(to).addresses()[family];
        let listener = listen(world.pod(to), SocketAddr::new(address, port));
        let caller = connect(world.pod(from), address, port, PATIENCE).expect("it may");
        let (callee, _) = listener.accept().expect("it is connected");
        callee.set_read_timeout(Some(PATIENCE)).expect("a socket");
        callee.set_write_timeout(Some(PATIENCE)).expect("a socket");
        Self {
            caller,
            callee,
            what: format!("{from} to {to} at {address}"),
        }
    }

    #[track_caller]
    fn caller_speaks(&mut self, when: &str) {
        speak(&mut self.caller, &mut self.callee, &self.what, when);
    }

    #[track_caller]
    fn callee_speaks(&mut self, when: &str) {
        speak(&mut self.callee, &mut self.caller, &self.what, when);
    }
}

/// So many bytes go one way.
#[track_caller]
fn speak(from: &mut TcpStream, to: &mut TcpStream, what: &str, when: &str) {
    let piece = vec![7; PIECE];
    let mut got = vec![0; PIECE];
    thread::scope(|scope| {
        let written = scope.spawn(|| from.write_all(&piece));
        let read = to.read_exact(&mut got);
        let written = written.join().expect("no panic");
        assert!(
            read.is_ok() && written.is_ok(),
            "{what}, {when}: {written:?}, {read:?}"
        );
    });
    assert_eq!(got, piece, "{what}, {when}");
}

/// A listener whose address may have been used just before.
fn listen(pod: &Pod, at: SocketAddr) -> TcpListener {
    let socket = bound(pod, at);
    socket.listen(8).expect("it is bound");
    socket.into()
}

fn bound(pod: &Pod, at: SocketAddr) -> Socket {
    let socket = pod.netns.enter(|| {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&at.into())?;
        std::io::Result::Ok(socket)
    });
    socket.unwrap_or_else(|error| panic!("{at}: {error}"))
}

/// A connection from a port of one's choice.
fn call(from: &Pod, own: u16, to: SocketAddr) -> std::io::Result<TcpStream> {
    let family = usize::from(to.is_ipv6());
    let socket = bound(from, SocketAddr::new(from.addresses()[family], own));
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}

/// Frontend may call backend; backend calls whom it likes.
fn pairs(world: &World) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for family in 0..2 {
        for port in [OPEN, OPEN + 1] {
            pairs.push(Pair::open(world, "frontend", "backend", family, port));
            pairs.push(Pair::open(world, "backend", "other", family, port));
        }
    }
    pairs
}

/// A swap, a time without an agent, and another agent; `then` after each.
fn over_changes(world: &World, agent: Agent, mut then: impl FnMut(&str)) -> Agent {
    let first = world.bundle("first.bin", ONLY_FRONTEND);
    world.home.load(&first).expect("a good bundle");
    then("after a swap");
    agent.kill().expect("our own process");
    then("without an agent");
    let started = world.home.start(&world.net.node, &first, &[]);
    let agent = started.expect("an agent takes over what another has left");
    then("with another agent");
    for reason in [
        "denied",
        "reply_refused",
        "unknown_identity",
        "syn_on_live_flow",
    ] {
        assert_eq!(world.counted(reason), 0, "`{reason}`: nothing was refused");
    }
    agent
}

/// Nobody may reach backend: its callers are cut off, whom it has called itself are not.
fn over_a_deny(world: &World, pairs: &mut [Pair], mut said: impl FnMut(&mut Pair)) {
    let nobody = world.bundle("nobody.bin", NOBODY);
    world.home.load(&nobody).expect("a good bundle");
    for pair in pairs {
        if pair.what.starts_with("backend") {
            said(pair);
            continue;
        }
        let ended = until(PATIENCE, || pair.callee.write_all(b"late").is_err());
        assert!(ended, "{}: the pod goes on", pair.what);
        let read = pair.caller.read_to_end(&mut Vec::new());
        assert!(read.is_err(), "{}: the caller hears of it", pair.what);
    }
}

#[test]
fn a_connection_of_which_one_end_is_closed_goes_on_the_other_way() {
    if !possible() {
        return;
    }
    let world = World::new("lv-half");
    let agent = world.start(ONLY_FRONTEND, &[]);
    let mut pairs = pairs(&world);
    // Of two alike, each end of one.
    for (n, pair) in pairs.iter_mut().enumerate() {
        let [closes, hears] = match n / 2 % 2 {
            0 => [&mut pair.caller, &mut pair.callee],
            _ => [&mut pair.callee, &mut pair.caller],
        };
        closes.shutdown(Shutdown::Write).expect("it is connected");
        let read = hears.read(&mut [0; 8]).expect("the end is told");
        assert_eq!(read, 0, "{}", pair.what);
    }
    let say = |pairs: &mut [Pair], when: &str| {
        for (n, pair) in pairs.iter_mut().enumerate() {
            match n / 2 % 2 {
                0 => pair.callee_speaks(when),
                _ => pair.caller_speaks(when),
            }
        }
    };
    say(&mut pairs, "at first");
    let _agent = over_changes(&world, agent, |when| say(&mut pairs, when));
    let nobody = world.bundle("nobody.bin", NOBODY);
    world.home.load(&nobody).expect("a good bundle");
    for (n, pair) in pairs.iter_mut().enumerate() {
        let Pair {
            caller,
            callee,
            what,
        } = pair;
        let (speaks, hears) = match n / 2 % 2 {
            0 => (callee, caller),
            _ => (caller, callee),
        };
        if what.starts_with("backend") {
            speak(speaks, hears, what, "after a deny");
            continue;
        }
        let ended = until(PATIENCE, || speaks.write_all(b"late").is_err());
        assert!(ended, "{what}: it goes on");
    }
}

#[test]
fn a_connection_that_was_silent_over_changes_is_judged_at_its_next_packet() {
    if !possible() {
        return;
    }
    let world = World::new("lv-silent");
    let mut agent = world.start(ONLY_FRONTEND, &[]);
    let mut pairs = pairs(&world);
    for pair in &mut pairs {
        pair.caller_speaks("at first");
    }
    agent = over_changes(&world, agent, |_| {});
    // Either end may be the first that speaks again.
    for (n, pair) in pairs.iter_mut().enumerate() {
        if n / 2 % 2 == 0 {
            pair.callee_speaks("after all that");
        }
        pair.caller_speaks("after all that");
        pair.callee_speaks("after all that");
    }
    agent = over_changes(&world, agent, |_| {});
    over_a_deny(&world, &mut pairs, |pair| {
        pair.callee_speaks("after a deny");
        pair.caller_speaks("after a deny");
    });
    drop(agent);
}

#[test]
fn both_ends_may_open_at_once_but_only_with_a_pod_that_does() {
    if !possible() {
        return;
    }
    if run(Command::new("nft").arg("--version")).is_err() {
        return skipped("no nft on this machine");
    }
    let world = World::new("lv-atonce");
    let _agent = world.start(NOBODY, &[]);
    let [frontend, backend] = ["frontend", "backend"].map(|name| world.pod(name));
    for family in 0..2 {
        let [theirs, ours] = [frontend, backend].map(|pod| pod.addresses()[family]);
        let opened = world.counted("outbound_opened");
        let seen = |more| {
            until(PATIENCE, || {
                world.counted("outbound_opened") >= opened + more
            })
        };
        // The first segments are lost, so that the next ones cross.
        nft(
            &world,
            "table inet lost { chain forward { type filter hook forward priority -300; tcp flags syn drop; }; }",
        );
        let [there, here] = thread::scope(|scope| {
            // Frontend's is repeated first: it meets a socket that has sent its own.
            let there = scope.spawn(|| call(frontend, THEIRS, SocketAddr::new(ours, OWN)));
            assert!(seen(1), "frontend's segment is on its way");
            let here = scope.spawn(|| call(backend, OWN, SocketAddr::new(theirs, THEIRS)));
            assert!(seen(2), "backend's segment is on its way");
            nft(&world, "delete table inet lost");
            [there, here].map(|thread| thread.join().expect("no panic"))
        });
        let mut pair = Pair {
            caller: here.expect("backend may call"),
            callee: there.expect("frontend is being called"),
            what: "both at once".into(),
        };
        pair.caller_speaks("at first");
        pair.callee_speaks("at first");
        assert_eq!(world.counted("denied"), 0, "no segment was refused");
    }
    world.expect("frontend", Met::Refusal, "nobody calls it");
}

#[test]
fn a_port_that_is_used_again_brings_nothing_of_the_connection_before() {
    if !possible() {
        return;
    }
    // Other may call one of the two.
    let policy = ONLY_FRONTEND.replace(
        "sa/frontend]}}]",
        &format!("sa/other]}}}}]\n    to: [{{operation: {{ports: [\"{OPEN}\"]}}}}]"),
    );
    let world = World::new("lv-reuse");
    let agent = world.start(&policy, &[]);
    // Nobody cleans up what is remembered.
    agent.kill().expect("our own process");
    let [backend, other] = ["backend", "other"].map(|name| world.pod(name));
    for family in 0..2 {
        let [ours, theirs] = [backend, other].map(|pod| pod.addresses()[family]);
        for (own, met) in [(OWN, Met::Refusal), (OPEN, Met::Answer)] {
            let at = SocketAddr::new(theirs, THEIRS);
            let listener = listen(other, at);
            let caller = call(backend, own, at).expect("backend may call");
            let (mut callee, _) = listener.accept().expect("it is connected");
            // Reset, so that no socket is left of it; only our entry.
            let caller = Socket::from(caller);
            caller.set_linger(Some(Duration::ZERO)).expect("a socket");
            drop((caller, listener));
            assert!(callee.read(&mut [0; 8]).is_err(), "it is reset");
            drop(callee);
            // The other way round, between the same ports.
            let listener = listen(backend, SocketAddr::new(ours, own));
            let found = match call(other, THEIRS, SocketAddr::new(ours, own)) {
                Ok(mut stream) => {
                    let (mut served, _) = listener.accept().expect("it is connected");
                    speak(&mut stream, &mut served, "other to backend", "at first");
                    // The port is free again at once.
                    let stream = Socket::from(stream);
                    stream.set_linger(Some(Duration::ZERO)).expect("a socket");
                    Met::Answer
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Met::Refusal,
                Err(error) => panic!("{ours} at {own}: {error}"),
            };
            assert_eq!(found, met, "{ours} at {own}");
        }
    }
}

#[test]
fn servers_that_answer_by_cookies_are_reached_by_the_same_clients() {
    if !possible() {
        return;
    }
    const HTTP: u16 = PORT + 1;
    let policy = ONLY_FRONTEND.to_owned()
        + &format!(
            "    to: [{{operation: {{ports: [\"{PORT}\"]}}}}]
  - from: [{{source: {{principals: [cluster.local/ns/default/sa/frontend]}}}}]
    to: [{{operation: {{ports: [\"{HTTP}\"], methods: [GET]}}}}]
"
        );
    let world = World::new("lv-cookies");
    serve_http(world.pod("backend"), HTTP);
    let _server = Echo::start(world.pod("other"), THEIRS).expect("the port is free");
    let _agent = world.start(&policy, &[]);
    let always = || fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2");
    let received = || {
        let text = fs::read_to_string("/proc/thread-self/net/netstat").expect("readable");
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let [names, values] = [lines.next(), lines.next()].map(|line| line.unwrap_or_default());
        let mut both = names.split(' ').zip(values.split(' '));
        let found = both.find(|(name, _)| *name == "SyncookiesRecv");
        let (_, value) = found.expect("this kernel has cookies");
        value.parse::<u64>().expect("a number")
    };
    let proxy = Place::named(world.home.netns()).expect("readable");
    let proxy = proxy.expect("the agent has made it");
    proxy.enter(always).expect("entered").expect("written");
    for name in ["backend", "other"] {
        world.pod(name).netns.enter(always).expect("written");
    }
    world.expect("frontend", Met::Answer, "its principal is allowed");
    world.expect("other", Met::Refusal, "no rule allows its principal");
    for to in world.backend() {
        let frontend = &world.pod("frontend").netns;
        let answer = request_to(frontend, to, HTTP, "GET /");
        assert!(answer.starts_with("HTTP/1.1 200"), "{to}: {answer}");
        let answer = request_to(frontend, to, HTTP, "POST /");
        assert_eq!(answer, "HTTP/1.1 403 Forbidden", "{to}");
    }
    for to in world.pod("other").addresses() {
        let met = try_once(world.pod("backend"), to, THEIRS, PATIENCE);
        assert_eq!(met, Met::Answer, "backend may call {to}");
    }
    let by_cookie = [
        ("backend", world.pod("backend").netns.enter(received)),
        ("other", world.pod("other").netns.enter(received)),
        ("the proxy", proxy.enter(received).expect("entered")),
    ];
    for (whose, count) in by_cookie {
        assert!(count > 0, "{whose}: no handshake was by cookie");
    }
}
