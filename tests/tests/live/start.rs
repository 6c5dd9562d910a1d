//! The first start on a node: what it must not cut, and what must not be left when it fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::*;

#[test]
fn a_start_that_fails_late_leaves_nothing() {
    if !possible() {
        return;
    }
    let world = World::new("lv-late");
    let bundle = world.bundle("first.bin", NOBODY);
    let file = world.home.file("not-a-socket");
    fs::write(&file, "precious").expect("a file of its own");
    let sockets = [
        (Path::new("/proc/x/y.sock"), "the control socket"),
        (&*file, "is not a socket"),
    ];
    for (socket, why) in sockets {
        let spawned = world.home.spawn_at(socket, &world.net.node, &bundle, &[]);
        let mut agent = spawned.expect("the program is there");
        assert!(agent.ends_within(LATE), "{socket:?} must be refused");
        assert!(
            agent.log().contains(why),
            "{socket:?} should say `{why}`:\n{}",
            agent.log()
        );
        assert_nothing_left(&world);
        world.expect("other", Met::Answer, "nothing is enforced");
    }
    let kept = fs::read_to_string(&file).expect("it is still there");
    assert_eq!(kept, "precious", "only sockets are replaced");
}

#[test]
fn a_proxy_that_cannot_start_undoes_the_start() {
    if !possible() {
        return;
    }
    let world = World::new("lv-noproxy");
    let bundle = world.bundle("first.bin", NOBODY);
    // The proxy's port is somebody else's, in a namespace that was there before.
    let netns = tests::netns::Netns::create(world.home.netns()).expect("a name of its own");
    let taken = netns.enter(|| std::net::TcpListener::bind(("::", 15006)));
    let _taken = taken.expect("the port is free");
    let mut agent = world
        .home
        .spawn(&world.net.node, &bundle, &[])
        .expect("the program is there");
    assert!(agent.ends_within(LATE), "it cannot start");
    assert!(
        agent.log().contains("cannot start the proxy"),
        "{}",
        agent.log()
    );
    assert!(!world.home.file("socket").exists(), "nobody listens");
    assert!(!world.home.pins().exists(), "nothing is attached or pinned");
    let links = links(&world);
    assert!(!links.contains("enf-"), "an interface is left:\n{links}");
    assert!(netns.path().exists(), "what was there before stays");
    world.expect("other", Met::Answer, "nothing is enforced");
}

#[test]
fn an_interrupted_start_leaves_nothing() {
    if !possible() {
        return;
    }
    let world = World::new("lv-int");
    let bundle = world.bundle("first.bin", NOBODY);
    let mut early = 0;
    for wait in (0..7).map(|n| Duration::from_millis(n * 24)) {
        let before = fs::read_to_string(world.home.file("agent.log")).unwrap_or_default();
        let mut agent = world
            .home
            .spawn(&world.net.node, &bundle, &[])
            .expect("the program is there");
        thread::sleep(wait);
        agent.interrupt().expect("our own process");
        // A shell has its background processes ignore the signal: there, one that comes before the
        // agent listens is lost.
        if !agent.ends_within(Duration::from_secs(2)) {
            agent.interrupt().expect("our own process");
        }
        assert!(agent.ends_within(LATE), "interrupted after {wait:?}");
        if agent.log()[before.len()..].contains("ready_ms") {
            let detached = world.home.detach(&world.net.node);
            detached.expect("detach without an agent");
        } else {
            early += 1;
        }
        assert_nothing_left(&world);
        assert!(!world.home.file("socket").exists(), "nobody listens");
    }
    assert!(
        early > 0,
        "some starts were interrupted before they were done"
    );
    world.expect("other", Met::Answer, "nothing is enforced");
}

#[test]
fn a_start_that_is_killed_is_made_good_by_the_next() {
    if !possible() {
        return;
    }
    let world = World::new("lv-killed");
    let bundle = world.bundle("first.bin", ONLY_FRONTEND);
    for wait in (1..5).map(|n| Duration::from_millis(n * 40)) {
        let agent = world
            .home
            .spawn(&world.net.node, &bundle, &[])
            .expect("the program is there");
        thread::sleep(wait);
        agent.kill().expect("our own process");
        let agent = world.start(ONLY_FRONTEND, &[]);
        let context = format!("killed after {wait:?}\n{}", agent.log());
        world.expect("frontend", Met::Answer, &context);
        world.expect("other", Met::Refusal, &context);
        assert_eq!(
            world.home.detach(&world.net.node).map(|_| ()).ok(),
            Some(()),
            "{context}"
        );
        assert_nothing_left(&world);
    }
}

#[test]
fn connections_that_a_pod_opens_while_it_is_attached_are_not_cut() {
    if !possible() {
        return;
    }
    let world = World::new("lv-while");
    let _other_server = Echo::start(world.pod("other"), 9090).expect("the port is free");
    let v4: IpAddr = world.pod("other").v4.into();
    for round in 0..2 {
        let stop = Arc::new(AtomicBool::new(false));
        let met = thread::scope(|scope| {
            // Each of them is opened before, and talks on after, some step of the start.
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut all = Vec::new();
                        while !stop.load(Ordering::Relaxed) {
                            let stream = connect(world.pod("backend"), v4, 9090, PATIENCE);
                            let mut stream = stream.expect("a pod may call others");
                            for _ in 0..20 {
                                all.push(exchange(&mut stream, PATIENCE));
                                thread::sleep(Duration::from_millis(1));
                            }
                        }
                        all
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(20));
            let _agent = world.start(NOBODY, &[]);
            world.expect("other", Met::Refusal, "inbound is denied");
            stop.store(true, Ordering::Relaxed);
            let met: Vec<Met> = callers
                .into_iter()
                .flat_map(|caller| caller.join().expect("it panics for its own reasons"))
                .collect();
            met
        });
        assert!(
            met.iter().all(|met| *met == Met::Answer),
            "in round {round}, of {} exchanges not all were answered",
            met.len()
        );
        let detached = world.home.detach(&world.net.node);
        detached.expect("detach without an agent");
    }
}
