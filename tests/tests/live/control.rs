//! Orders over the socket: detaching, monitoring, loading; and a second agent on the node.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    thread,
};

use super::*;

#[test]
fn detach_says_what_it_took_away_and_many_may_ask_at_once() {
    if !possible() {
        return;
    }
    let world = World::new("lv-told");
    for running in [true, false] {
        let agent = world.start(NOBODY, &[]);
        let mut agent = match running {
            true => Some(agent),
            false => {
                agent.kill().expect("our own process");
                None
            }
        };
        let said: Vec<String> = thread::scope(|scope| {
            let detach = || {
                let said = world.home.detach(&world.net.node);
                said.expect("detach, whoever is first")
            };
            let callers: Vec<_> = (0..3).map(|_| scope.spawn(detach)).collect();
            callers
                .into_iter()
                .map(|caller| caller.join().expect("it panics for its own reasons"))
                .collect()
        });
        let linked = |said: &String| said.contains(" links") && !said.contains(" 0 links");
        let placed = |said: &String| said.contains("namespace");
        // Without an agent, what one of them took away another may have found gone.
        let told = match running {
            true => said.iter().any(|said| linked(said) && placed(said)),
            false => said.iter().any(linked) && said.iter().any(placed),
        };
        assert!(told, "what was there is said: {said:?}");
        if let Some(agent) = &mut agent {
            assert!(agent.ends_within(PATIENCE), "the agent goes");
        }
        assert_nothing_left(&world);
    }
}

#[test]
fn a_monitor_that_goes_away_leaves_nothing_in_the_agent() {
    if !possible() {
        return;
    }
    let world = World::new("lv-mon");
    let agent = world.start(ONLY_FRONTEND, &[]);
    let open = || {
        fs::read_dir(format!("/proc/{}/fd", agent.id()))
            .map(Iterator::count)
            .unwrap_or(0)
    };
    // It opens others for a moment: to clean, or to answer who waits for it to be ready.
    let mut before = usize::MAX;
    let settled = until(SILENCE, || {
        before = before.min(open());
        false
    });
    assert!(!settled, "it is looked at for a while");
    drop((0..8).map(|_| monitor(&world)).collect::<Vec<_>>());
    assert!(
        until(PATIENCE, || open() <= before),
        "no verdict needs to fall for the agent to notice: {} descriptors, {before} before",
        open()
    );
    let mut monitor = monitor(&world);
    world.expect("other", Met::Refusal, "no rule allows its principal");
    let mut line = String::new();
    monitor.read_line(&mut line).expect("a verdict");
    assert!(line.contains("\"deny\""), "{line}");
}

pub fn monitor(world: &World) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(world.home.file("socket")).expect("the agent listens");
    let mut stream = BufReader::new(stream);
    writeln!(stream.get_mut(), "{{\"command\":\"monitor\"}}").expect("the agent reads");
    let mut answer = String::new();
    stream.read_line(&mut answer).expect("the agent answers");
    assert!(answer.contains("monitoring"), "{answer}");
    stream
}

#[test]
fn a_bundle_without_a_number_does_not_let_an_older_one_in() {
    if !possible() {
        return;
    }
    let world = World::new("lv-older");
    let _agent = world.start(ONLY_FRONTEND, &[]);
    let bundle = |generation: u64| {
        let bytes = compile(&world.manifests, NOBODY, generation).expect("the test's own policies");
        let name = format!("{generation}.bin");
        world.home.bundle(&name, &bytes).expect("a file of its own")
    };
    world.home.load(&bundle(5)).expect("newer than none");
    world.home.load(&bundle(0)).expect("it is unordered");
    let error = world
        .home
        .load(&bundle(3))
        .expect_err("5 was active")
        .to_string();
    assert!(error.contains("generation 5"), "{error}");
    world
        .home
        .load(&bundle(5))
        .expect("no older than the newest");
}

#[test]
fn every_verdict_names_the_policy_of_the_table_that_gave_it() {
    if !possible() {
        return;
    }
    let world = World::new("lv-named-by");
    // Many records, so that there is much to be known before a table may judge.
    let many = |name: &str| {
        let rule = |n: u32| {
            format!(
                "  - {{from: [{{source: {{ipBlocks: [192.0.2.{n}]}}}}], to: [{{operation: {{ports: [\"{}\"]}}}}]}}\n",
                1 + n
            )
        };
        let rules: String = (0..200).map(rule).collect();
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, \
             namespace: default}}\nspec:\n  selector: {{matchLabels: {{app: backend}}}}\n  action: \
             DENY\n  rules:\n  - from: [{{source: {{principals: [cluster.local/ns/default/sa/other]}}}}]\n{rules}"
        )
    };
    let names = ["one", "two"];
    let bundles = names.map(|name| world.bundle(&format!("{name}.bin"), &many(name)));
    let _agent = world
        .home
        .start(&world.net.node, &bundles[0], &[])
        .expect("the agent starts");
    let mut monitor = monitor(&world);
    let timeout = monitor.get_ref().set_read_timeout(Some(SILENCE));
    timeout.expect("a time-out");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let v4 = world.backend()[0];
    let verdicts = thread::scope(|scope| {
        let knocking = scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let met = try_once(world.pod("other"), v4, PORT, PATIENCE);
                assert_eq!(met, Met::Refusal, "both bundles deny it");
            }
        });
        let reading = scope.spawn(|| {
            let (mut line, mut verdicts) = (String::new(), Vec::new());
            while monitor.read_line(&mut line).is_ok_and(|read| read > 0) {
                let verdict: serde_json::Value = serde_json::from_str(&line).expect("JSON");
                verdicts.push(verdict);
                line.clear();
            }
            verdicts
        });
        for round in 0..12 {
            let loaded = world.home.load(&bundles[(round + 1) % 2]);
            loaded.expect("a good bundle");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        knocking.join().expect("both bundles deny it");
        reading.join().expect("the agent sends JSON")
    });
    let seen: Vec<_> = verdicts
        .iter()
        .filter(|line| line.get("verdict").is_some())
        .collect();
    assert!(
        seen.len() > 20,
        "verdicts fell all the time: {}",
        seen.len()
    );
    for verdict in seen {
        let epoch = verdict["epoch"].as_u64().expect("each has one");
        let name = names[usize::from(epoch % 2 == 0)];
        let policy = format!("default/{name}");
        assert_eq!(verdict["policy"], policy, "of epoch {epoch}: {verdict}");
    }
}

#[test]
fn a_second_agent_with_places_of_its_own_leaves_the_first_alone() {
    if !possible() {
        return;
    }
    let world = World::new("lv-own");
    // Classifiers have no pins that would say whose they are.
    let _agent = world.start(ONLY_GET, &["--attach", "clsact"]);
    let bundle = world.bundle("second.bin", NOBODY);
    let second = Home::new(
        ENFORCER,
        &tests::netns::Netns::create(&format!("{}-2", world.net.node.name()))
            .expect("a name of its own"),
        &world.manifests,
    );
    let second = second.expect("places of its own");
    let cases = [
        (world.home.file("socket"), "another agent listens"),
        (second.file("socket"), "leads to another namespace"),
    ];
    for (socket, why) in cases {
        let spawned = second.spawn_at(&socket, &world.net.node, &bundle, &[]);
        let mut agent = spawned.expect("the program is there");
        assert!(agent.ends_within(LATE), "it must not stay");
        assert!(agent.log().contains(why), "{}", agent.log());
        assert!(!second.pins().exists(), "it leaves nothing");
        let netns = Path::new("/run/netns").join(second.netns());
        assert!(!netns.exists(), "it leaves no namespace");
    }
    serve_http(world.pod("backend"), PORT + 1);
    assert_eq!(
        request(&world, "frontend", "POST /a"),
        "HTTP/1.1 403 Forbidden",
        "the first one still judges, its proxy too"
    );
    world.expect("other", Met::Refusal, "no rule speaks of it");
}
