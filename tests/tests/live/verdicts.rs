//! What connections meet: allowed, refused, asked about, and changed in between.

use super::*;

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
    assert!(longest < PATIENCE, "and never lost a segment: {longest:?}");
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
    assert!(longest < PATIENCE, "and never lost a segment: {longest:?}");
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
