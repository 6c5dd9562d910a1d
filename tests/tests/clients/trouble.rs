//! What goes wrong around the proxy: slow clients, too few descriptors, pods that do not answer. Each is
//! refused with its reason, nothing hangs, and others are served.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tests::live::traffic::{Met, connect, try_once};

use super::{BYTES, DECLARED_HTTP, HTTP, ONLY_OK, OWN, PATIENCE, World, has, until};

/// What curl is answered, for whatever reason nothing.
fn code(world: &World, port: u16, path: &str) -> String {
    let url = format!("{}{path}", world.url(port));
    let said = world.client(
        "curl",
        &["-s", "-o", "/dev/null", "-w", "%{http_code}", &url],
    );
    said.out
}

fn refusals(world: &World, reason: &str) -> u64 {
    let status = world.home.status().expect("the agent answers");
    status["proxy"]["refusals"][reason].as_u64().unwrap_or(0)
}

fn stream(world: &World, port: u16) -> std::io::Result<TcpStream> {
    connect(
        world.net.get("frontend"),
        world.backend()[0],
        port,
        PATIENCE,
    )
}

#[test]
fn heads_that_come_byte_by_byte_are_ended_and_others_served() {
    if !has("curl") {
        return;
    }
    let world = World::with("cl-loris", ONLY_OK, &["--proxy-head-timeout", "2s"]);
    let mut clients: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = stream(&world, DECLARED_HTTP + HTTP).expect("it accepts");
            stream
                .write_all(b"GET /ok HTTP/1.1\r\nHost: b\r\nX: ")
                .expect("it stands");
            stream
        })
        .collect();
    let mut rounds = 0;
    let ended = until(PATIENCE, || {
        rounds += 1;
        for client in &mut clients {
            // Ended ones do not take it.
            let _sent = client.write_all(b"x");
        }
        if rounds == 1 {
            assert_eq!(code(&world, DECLARED_HTTP + HTTP, "/ok"), "200");
        }
        refusals(&world, "head_timeout") >= 100
    });
    assert!(ended, "{} ended", refusals(&world, "head_timeout"));
    for mut client in clients {
        let mut all = String::new();
        // The reset may have been told to whoever wrote last.
        let _reset = client.read_to_string(&mut all);
        assert_eq!(all, "", "no answer");
    }
    assert_eq!(code(&world, DECLARED_HTTP + HTTP, "/ok"), "200");
}

/// A refusal that takes longer is silence.
const PROMPT: Duration = Duration::from_secs(10);

#[test]
fn without_descriptors_connections_are_refused_with_that_reason_until_there_are_some_again() {
    if !has("curl") {
        return;
    }
    let world = World::new("cl-files", ONLY_OK);
    let agent = i32::try_from(world.agent.id()).ok().and_then(Pid::from_raw);
    let agent = agent.expect("a process");
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = |descriptors| {
        let current = descriptors;
        prlimit(Some(agent), Resource::Nofile, Rlimit { current, maximum }).expect("root may")
    };
    let files = || {
        let list = fs::read_dir(format!("/proc/{}/fd", world.agent.id()));
        list.expect("the agent runs").count() as u64
    };
    assert_eq!(code(&world, DECLARED_HTTP + HTTP, "/ok"), "200");
    // With an odd one, the last goes to a client, and the way to its pod finds none.
    for left in [20, 1, 2, 3] {
        let before = refusals(&world, "proxy_out_of_descriptors");
        let limit_before = limit(Some(files() + left));
        let clients: Vec<_> = (0..40).map(|_| ask(&world)).collect();
        let served = clients.iter().filter(|(served, _)| *served).count();
        assert!(
            served < clients.len() && (served > 0 || left < 20),
            "{served} served, {left} were left"
        );
        // The limit is as low as before, and there is room again.
        drop(clients);
        let again = until(PATIENCE, || {
            left < 20 || code(&world, DECLARED_HTTP + HTTP, "/ok") == "200"
        });
        assert!(again, "{}", world.agent.log());
        limit(limit_before.current);
        assert!(until(PATIENCE, || {
            code(&world, DECLARED_HTTP + HTTP, "/ok") == "200"
        }));
        assert!(refusals(&world, "proxy_out_of_descriptors") > before);
    }
}

/// Asks once; whether it was served, and the connection, which may be kept. An answer or a reset, never
/// silence.
#[track_caller]
fn ask(world: &World) -> (bool, Option<TcpStream>) {
    let Ok(mut stream) = stream(world, DECLARED_HTTP + HTTP) else {
        return (false, None);
    };
    stream.set_read_timeout(Some(PROMPT)).expect("a time-out");
    let asked = stream.write_all(b"GET /ok HTTP/1.1\r\nHost: b\r\n\r\n");
    let mut answer = [0; 12];
    match asked.and_then(|()| stream.read_exact(&mut answer)) {
        Ok(()) if &answer == b"HTTP/1.1 200" => (true, Some(stream)),
        Ok(()) => {
            let unavailable = b"HTTP/1.1 503";
            assert_eq!(&answer, unavailable, "the way to the pod takes one, too");
            (false, Some(stream))
        }
        Err(error) => {
            assert_ne!(error.kind(), ErrorKind::WouldBlock, "silence");
            (false, None)
        }
    }
}

#[test]
fn pods_that_do_not_listen_do_not_answer_or_are_not_there_are_told_apart() {
    if !has("curl") || !has("nft") {
        return;
    }
    let options = [
        "--proxy-idle-timeout",
        "2s",
        "--proxy-connect-timeout",
        "1s",
    ];
    let world = World::with("cl-pods", ONLY_OK, &options);
    assert_eq!(
        code(&world, DECLARED_HTTP + OWN, "/ok"),
        "503",
        "nobody listens"
    );
    assert!(refusals(&world, "upstream_refused") > 0);
    assert_eq!(
        code(&world, DECLARED_HTTP + HTTP, "/ok/hung"),
        "504",
        "no answer"
    );
    assert!(refusals(&world, "upstream_timeout") > 0);
    let before = refusals(&world, "upstream_timeout");
    let mut drop = std::process::Command::new("nft");
    let rule = format!("tcp dport {} drop", DECLARED_HTTP + OWN);
    drop.arg(format!(
        "table inet t {{\nchain c {{\ntype filter hook input priority 0\n{rule}\n}}\n}}"
    ));
    world
        .net
        .get("backend")
        .netns
        .output(&mut drop)
        .expect("nft is there");
    let found = code(&world, DECLARED_HTTP + OWN, "/ok");
    assert_eq!(found, "504", "segments vanish: {}", world.agent.log());
    assert!(refusals(&world, "upstream_timeout") > before);
    // The same for bytes: a reset.
    let frontend = world.net.get("frontend");
    let met = try_once(
        frontend,
        world.backend()[0],
        DECLARED_HTTP + BYTES,
        PATIENCE,
    );
    assert_eq!(met, Met::Refusal);
    assert_eq!(
        code(&world, DECLARED_HTTP + HTTP, "/ok"),
        "200",
        "others are served"
    );
}
