//! SIGKILL at any moment: while an agent starts, loads, swaps, grows its tables, tries a shadow.
//! Enforcement never opens and never closes, and what the next agent takes over is what a fresh one
//! would have made. `cargo xtask soak --kills N` does it N times.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use aya::maps::{Map, MapData};
use enforcer::table::Tables;
use enforcer_ebpf::{
    maps::{ACTIVE, TABLES},
    words::header,
};

use super::*;

/// Kills, unless `ENFORCER_TEST_KILLS` says otherwise.
const KILLS: u32 = 20;

/// Frontend may connect to the one port, and send GET to the other.
fn policies(padding: u32) -> String {
    let pad: String = (0..padding)
        .map(|n| format!("  - from: [{{source: {{ipBlocks: [192.0.2.{n}]}}}}]\n    to: [{{operation: {{ports: [\"{n}\"]}}}}]\n"))
        .collect();
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: some, namespace: default}}
spec:
  selector: {{matchLabels: {{app: backend}}}}
  action: ALLOW
  rules:
{pad}  - from: [{{source: {{principals: [cluster.local/ns/default/sa/frontend]}}}}]
    to: [{{operation: {{ports: [\"8080\"]}}}}]
  - from: [{{source: {{principals: [cluster.local/ns/default/sa/frontend]}}}}]
    to: [{{operation: {{ports: [\"8081\"], methods: [GET]}}}}]
"
    )
}

#[test]
fn killed_at_any_moment_enforcement_neither_opens_nor_closes() {
    if !possible() {
        return;
    }
    let kills = std::env::var("ENFORCER_TEST_KILLS").ok();
    let kills = kills.map_or(KILLS, |text| text.parse().expect("a number of kills"));
    let seed = std::env::var("ENFORCER_TEST_SEED").ok();
    let seed = seed.map_or_else(|| fastrand::u64(..), |text| text.parse().expect("a seed"));
    println!("ENFORCER_TEST_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let world = World::new("lv-unkill");
    serve_http(world.pod("backend"), PORT + 1);
    let bundles = [
        world.bundle("first.bin", &policies(1)),
        world.bundle("second.bin", &policies(30)),
    ];
    let started = world.home.start(&world.net.node, &bundles[0], &[]);
    let mut agent = started.expect("an agent on a fresh node");
    let v4 = world.backend()[0];
    let stream = connect(world.pod("frontend"), v4, PORT, PATIENCE).expect("frontend is allowed");
    let talker = Talker::start(stream);
    let stop = AtomicBool::new(false);
    let (knocks, agent) = thread::scope(|scope| {
        let knocking = scope.spawn(|| {
            let mut knocks = 0u32;
            while !stop.load(Ordering::Relaxed) {
                let met = try_once(world.pod("other"), v4, PORT, PATIENCE);
                assert_eq!(met, Met::Refusal, "other is never let in");
                let answer = post(&world);
                assert!(!answer.contains("200"), "a POST is never let in: {answer}");
                knocks += 1;
                thread::sleep(Duration::from_millis(2));
            }
            knocks
        });
        // The knocker's panic is told of, and not that of who waits for it.
        let guard = StopOnDrop(&stop);
        let mut capacity = 300_000u32;
        for kill in 0..kills {
            let wait = Duration::from_micros(rng.u64(0..400_000));
            match rng.u32(0..4) {
                // While it serves: loads, shadows, going back.
                0 => {
                    let orders = scope.spawn(|| orders(&world, &bundles));
                    thread::sleep(wait);
                    agent.kill().expect("our own process");
                    orders.join().expect("orders may fail, and not panic");
                }
                // As it stands.
                1 => agent.kill().expect("our own process"),
                // While another takes over, whose tables may be larger.
                choice => {
                    agent.kill().expect("our own process");
                    let larger = capacity.to_string();
                    let options = ["--capacity", &larger];
                    let options: &[&str] = if choice == 2 { &[] } else { &options };
                    capacity += 1_000;
                    let bundle = &bundles[rng.usize(0..2)];
                    let spawned = world.home.spawn(&world.net.node, bundle, options);
                    let next = spawned.expect("the program is there");
                    thread::sleep(wait);
                    next.kill().expect("our own process");
                }
            }
            let bundle = &bundles[rng.usize(0..2)];
            let started = world.home.start(&world.net.node, bundle, &[]);
            agent = started.unwrap_or_else(|error| panic!("after kill {kill}: {error:#}"));
        }
        drop(guard);
        let knocks = knocking.join().expect("nothing was let in");
        (knocks, agent)
    });
    let (count, longest, last) = talker.stop();
    assert_eq!(last, Met::Answer, "the connection lived through it all");
    assert!(
        longest < Duration::from_secs(3),
        "without a gap: {longest:?}"
    );
    // Each knock of other's was one opening segment. Of a growth that was broken off, counts may be
    // lost with its maps; nothing is ever counted twice.
    let counted = refused(&world);
    println!("{counted} of {knocks} knocks were counted");
    assert!(counted <= u64::from(knocks), "{counted} of {knocks}");
    assert!(
        counted * 10 >= u64::from(knocks) * 9,
        "{counted} of {knocks}"
    );
    println!("{kills} kills, {knocks} knocks, {count} answers, longest wait {longest:?}");

    // What has come of all that is what a fresh agent makes.
    agent.kill().expect("our own process");
    let started = world.home.start(&world.net.node, &bundles[1], &[]);
    let agent = started.expect("an agent takes over what another has left");
    let taken_over = active_words(&world);
    agent.kill().expect("our own process");
    world
        .home
        .detach(&world.net.node)
        .expect("without an agent");
    let started = world.home.start(&world.net.node, &bundles[1], &[]);
    let agent = started.expect("an agent on a fresh node");
    agent.kill().expect("our own process");
    // Once more: the first one has not known the addresses of interfaces that it made itself.
    let started = world.home.start(&world.net.node, &bundles[1], &[]);
    let _agent = started.expect("an agent takes over what another has left");
    let fresh = active_words(&world);
    assert_eq!(taken_over.len(), fresh.len(), "words");
    for (at, (taken, fresh)) in taken_over.iter().zip(&fresh).enumerate() {
        assert_eq!(taken, fresh, "word {at}");
    }
}

/// What a POST of frontend's meets; a proxy that is killed meanwhile says nothing.
fn post(world: &World) -> String {
    use std::io::{Read, Write};
    let connected = connect(
        world.pod("frontend"),
        world.backend()[0],
        PORT + 1,
        PATIENCE,
    );
    let Ok(mut stream) = connected else {
        return String::new();
    };
    let mut answer = String::new();
    let sent = stream.write_all(b"POST /a HTTP/1.1\r\nHost: backend\r\nConnection: close\r\n\r\n");
    let read = sent.and_then(|()| stream.read_to_string(&mut answer));
    // Cut off, it is judged by what came.
    let _cut_off = read;
    answer
}

/// Opening segments that no rule allowed.
fn refused(world: &World) -> u64 {
    let status = world.home.status().expect("the agent answers");
    let hits = status["hits"].as_array().cloned().unwrap_or_default();
    hits.iter()
        .filter(|hit| hit["reason"] == "no_allow_matched")
        .filter_map(|hit| hit["opened"].as_u64())
        .sum()
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Orders until one fails: the agent is gone.
fn orders(world: &World, bundles: &[PathBuf; 2]) {
    let path = bundles[1].to_str().expect("plain text");
    for round in 0.. {
        let done = match round % 4 {
            0 => world.home.call(&["shadow", "load", path]),
            1 => world.home.call(&["shadow", "promote"]),
            2 => world
                .home
                .call(&["load", bundles[0].to_str().expect("text")]),
            _ => world.home.call(&["rollback"]),
        };
        if !done.is_ok_and(|output| output.status.success()) {
            return;
        }
    }
}

/// The table that judges, as the kernel has it, but for the number of its activation.
fn active_words(world: &World) -> Vec<u32> {
    let maps = world.home.pins().join("v1/maps");
    let outer = MapData::from_pin(maps.join(TABLES)).expect("it is pinned");
    let outer = Map::from_map_data(outer).expect("of a known type");
    let active = MapData::from_pin(maps.join(ACTIVE)).expect("it is pinned");
    let status = world.home.status().expect("the agent answers");
    let capacity = status["table"]["capacity_words"]
        .as_u64()
        .expect("a number");
    let capacity = u32::try_from(capacity).expect("words");
    let tables = Tables::adopt(outer, &active, capacity).expect("tables of this version");
    let mut words = tables.active_words();
    words[header::EPOCH as usize] = 0;
    words
}
