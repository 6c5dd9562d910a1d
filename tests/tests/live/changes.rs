//! A change of policy, seen from connections that are open.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::mpsc,
};

use super::*;

/// A server in backend that says something only when it is told to.
fn pusher(world: &World, port: u16) -> mpsc::Sender<()> {
    let listener = world
        .pod("backend")
        .netns
        .enter(|| TcpListener::bind((IpAddr::from([0u16; 8]), port)))
        .expect("the port is free");
    let (push, told) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        while told.recv().is_ok() {
            // A peer that was reset is what is tested.
            let _refused = stream.write_all(b"pushed");
        }
    });
    push
}

#[test]
fn a_deny_silences_the_pod_as_well_by_reset_and_by_drop() {
    if !possible() {
        return;
    }
    for refuse in ["reset", "drop"] {
        let world = World::new(&format!("lv-push-{refuse}"));
        let push = pusher(&world, PORT + 2);
        let _agent = world.start(ONLY_FRONTEND, &["--refuse", refuse]);
        let v4 = world.backend()[0];
        let stream = connect(world.pod("frontend"), v4, PORT + 2, PATIENCE);
        let mut client = stream.expect("frontend is allowed");
        let mut talking = connect(world.pod("frontend"), v4, PORT, PATIENCE).expect("allowed");
        assert_eq!(exchange(&mut talking, PATIENCE), Met::Answer);
        let mut bytes = [0; 6];
        push.send(()).expect("the server lives");
        client.read_exact(&mut bytes).expect("what is pushed comes");
        let nobody = world.bundle("nobody.bin", NOBODY);
        world.home.load(&nobody).expect("a good bundle");
        // The client says nothing, so it is the pod's segment that must not pass.
        push.send(()).expect("the server lives");
        client.set_read_timeout(Some(SILENCE)).expect("a time-out");
        let read = client.read(&mut bytes);
        assert!(!matches!(read, Ok(1..)), "{refuse}: {read:?} came through");
        // Whether the kernel refused the segment, or the agent had ended the pod's socket before, is a
        // matter of moments.
        let expected = match refuse {
            "reset" => Met::Refusal,
            _ => Met::Silence,
        };
        let met = exchange(&mut talking, SILENCE);
        assert_eq!(met, expected, "{refuse}, from the client's side");
        // An ALLOW opens at once.
        let first = world.home.file("first.bin");
        world.home.load(&first).expect("a good bundle");
        world.expect("frontend", Met::Answer, "allowed again");
    }
}

#[test]
fn from_the_kernel_to_the_proxy_open_connections_end_and_new_ones_are_judged() {
    if !possible() {
        return;
    }
    let world = World::new("lv-to-l7");
    serve_http(world.pod("backend"), PORT + 1);
    let _agent = world.start(ONLY_FRONTEND, &[]);
    let v4 = world.backend()[0];
    let mut open = connect(world.pod("frontend"), v4, PORT, PATIENCE).expect("allowed");
    assert_eq!(exchange(&mut open, PATIENCE), Met::Answer);
    let get = world.bundle("get.bin", ONLY_GET);
    world.home.load(&get).expect("a good bundle");
    // The proxy holds no other half of it, so nobody can judge what it carries.
    assert_eq!(exchange(&mut open, PATIENCE), Met::Refusal);
    let own = format!("HTTP/1.1 200 {}", world.pod("frontend").v4);
    assert_eq!(request(&world, "frontend", "GET /a"), own);
    let refused = "HTTP/1.1 403 Forbidden";
    assert_eq!(request(&world, "frontend", "POST /a"), refused);
    // And back: what begins from now on is the kernel's alone.
    let steered = world.counted("steered");
    let first = world.home.file("first.bin");
    world.home.load(&first).expect("a good bundle");
    assert_eq!(request(&world, "frontend", "POST /a"), own);
    assert_eq!(world.counted("steered"), steered);
}
