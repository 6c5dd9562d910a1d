//! Operating controls: break-glass, going back, trying a bundle beside the active one, asking why.

use std::io::{BufRead, BufReader};

use super::{control::monitor, *};

/// Pauses a pod for so many seconds.
#[track_caller]
fn pause(world: &World, whom: &str, time: &str) {
    let said = world
        .home
        .call(&["pause", whom, "--for", time, "--reason", "an incident"]);
    let said = said.expect("the program is there");
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
}

/// What a command that must fail says.
#[track_caller]
fn refused(world: &World, arguments: &[&str]) -> String {
    let said = world.home.call(arguments).expect("the program is there");
    assert!(!said.status.success(), "{arguments:?} must be refused");
    String::from_utf8_lossy(&said.stderr).into_owned()
}

/// The lines of a monitor from now on, until it says no more for a while.
fn lines(monitor: &mut BufReader<std::os::unix::net::UnixStream>) -> Vec<serde_json::Value> {
    let timeout = monitor.get_ref().set_read_timeout(Some(SILENCE));
    timeout.expect("a time-out");
    let (mut line, mut lines) = (String::new(), Vec::new());
    while monitor.read_line(&mut line).is_ok_and(|read| read > 0) {
        lines.push(serde_json::from_str(&line).expect("JSON"));
        line.clear();
    }
    lines
}

#[test]
fn a_pause_opens_one_pod_is_seen_and_ends_when_told() {
    if !possible() {
        return;
    }
    let world = World::new("lv-pause");
    let _agent = world.start(ONLY_FRONTEND, &[]);
    world.expect("other", Met::Refusal, "no rule allows its principal");
    let mut monitor = monitor(&world);
    pause(&world, "default/backend", "10m");
    world.expect("other", Met::Answer, "the pod is paused");
    world.expect("frontend", Met::Answer, "and what is allowed is allowed");
    assert!(world.counted("paused") > 0, "what a pause let through");
    let status = world.home.status().expect("the agent answers");
    let pause_ = &status["pauses"][0];
    assert_eq!(pause_["pod"], "default/backend");
    assert_eq!(pause_["reason"], "an incident");
    let left = pause_["left_seconds"].as_u64().expect("a number");
    assert!((500..=600).contains(&left), "{left}");
    let shown = world.home.call(&["status"]).expect("the program is there");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("PAUSED   default/backend"), "{shown}");
    // A change of policy does not end it, and a restart of the agent does not.
    world
        .home
        .load(&world.bundle("nobody.bin", NOBODY))
        .expect("a good bundle");
    world.expect("other", Met::Answer, "the pod is still paused");
    let resumed = world.home.call(&["resume", "default/backend"]);
    assert!(resumed.expect("the program is there").status.success());
    world.expect("other", Met::Refusal, "the pause is over");
    world.expect("frontend", Met::Refusal, "the new policy is in force");

    let seen = lines(&mut monitor);
    let notices: Vec<&str> = seen.iter().flat_map(|l| l["notice"].as_str()).collect();
    assert_eq!(notices, ["paused", "active", "resumed"]);
    let paused = |l: &&serde_json::Value| l["datapath"] == "paused" && l["hook"] == "to_pod";
    let paused: Vec<_> = seen.iter().filter(paused).collect();
    assert!(!paused.is_empty(), "{seen:?}");
    for line in paused {
        assert_eq!(line["verdict"], "allow");
        assert_eq!(line["src"], "default/other");
        assert_eq!(line["src_principal"], "cluster.local/ns/default/sa/other");
        assert_eq!(line["reason"], "no_allow_matched", "what it would have met");
    }
    for (arguments, why) in [
        (
            &["pause", "default/nobody", "--for", "1m"][..],
            "no pod `default/nobody`",
        ),
        (&["pause", "default/backend", "--for", "25h"], "86400 s"),
        (&["pause", "default/backend", "--for", "0s"], "one second"),
        (
            &["pause", "backend", "--for", "1m"],
            "neither NAMESPACE/NAME nor",
        ),
        (&["resume", "default/backend"], "not paused"),
    ] {
        let said = refused(&world, arguments);
        assert!(
            said.contains(why),
            "{arguments:?} should say `{why}`: {said}"
        );
    }
}

#[test]
fn a_pause_ends_by_itself_without_an_agent_and_outlives_a_restart() {
    if !possible() {
        return;
    }
    let world = World::new("lv-pause-end");
    let agent = world.start(NOBODY, &[]);
    for whom in ["default/backend", "all"] {
        pause(&world, whom, "12s");
    }
    world.expect("other", Met::Answer, "everything is paused");
    agent.kill().expect("our own process");
    world.expect("other", Met::Answer, "the pause is the kernel's");
    let bundle = world.home.file("first.bin");
    let started = world.home.start(&world.net.node, &bundle, &[]);
    let agent = started.expect("an agent takes over what another has left");
    let status = world.home.status().expect("the agent answers");
    for pause in status["pauses"].as_array().expect("a list") {
        assert_eq!(pause["reason"], "an incident", "that is kept, too");
    }
    agent.kill().expect("our own process");
    let v4 = world.backend()[0];
    let over = until(PATIENCE * 3, || {
        try_once(world.pod("other"), v4, PORT, PATIENCE) == Met::Refusal
    });
    assert!(over, "nobody is there to end it but the kernel");
    // The next agent finds pauses that are over.
    let started = world.home.start(&world.net.node, &bundle, &[]);
    let _agent = started.expect("an agent takes over what another has left");
    let status = world.home.status().expect("the agent answers");
    assert_eq!(status["pauses"], serde_json::json!([]));
    world.expect("frontend", Met::Refusal, "nobody may");
}

#[test]
fn a_pause_of_all_reaches_the_proxy_too() {
    if !possible() {
        return;
    }
    let world = World::new("lv-pause-l7");
    serve_http(world.pod("backend"), PORT + 1);
    let _agent = world.start(ONLY_GET, &[]);
    assert_eq!(
        request(&world, "frontend", "POST /a"),
        "HTTP/1.1 403 Forbidden"
    );
    // A connection that the proxy holds, and goes on holding.
    let v4 = world.backend()[0];
    let stream = connect(world.pod("frontend"), v4, PORT + 1, PATIENCE);
    let mut stream = stream.expect("frontend may connect");
    pause(&world, "all", "10m");
    use std::io::{Read, Write};
    stream
        .write_all(b"POST /a HTTP/1.1\r\nHost: backend\r\nConnection: close\r\n\r\n")
        .expect("the connection stands");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(request(&world, "frontend", "POST /a").starts_with("HTTP/1.1 200"));
    assert!(request(&world, "other", "POST /a").starts_with("HTTP/1.1 200"));
    let resumed = world.home.call(&["resume", "all"]);
    assert!(resumed.expect("the program is there").status.success());
    assert_eq!(
        request(&world, "frontend", "POST /a"),
        "HTTP/1.1 403 Forbidden"
    );
    assert_eq!(request(&world, "other", "GET /a"), "connection refused");
}

#[test]
fn rollback_goes_back_over_restarts_and_no_further_than_there_is() {
    if !possible() {
        return;
    }
    let world = World::new("lv-back");
    let agent = world.start(ONLY_FRONTEND, &[]);
    assert!(refused(&world, &["rollback"]).contains("nothing to go back to"));
    let bytes = compile(&world.manifests, NOBODY, 7).expect("the test's own policies");
    let nobody = world.home.bundle("nobody.bin", &bytes).expect("a file");
    world.home.load(&nobody).expect("a good bundle");
    world.expect("frontend", Met::Refusal, "nobody may");
    // Whoever wrote over the file has not changed what was active.
    fs::write(world.home.file("first.bin"), b"damaged").expect("a file of its own");
    let back = world
        .home
        .call(&["rollback"])
        .expect("the program is there");
    let said = String::from_utf8_lossy(&back.stdout).into_owned();
    assert!(said.contains("generation 0"), "older than 7: {said}");
    world.expect("frontend", Met::Answer, "the first bundle is back");
    assert!(refused(&world, &["rollback"]).contains("nothing to go back to"));
    let bytes = compile(&world.manifests, NOBODY, 6).expect("the test's own policies");
    let older = world.home.bundle("older.bin", &bytes).expect("a file");
    let error = world
        .home
        .load(&older)
        .expect_err("7 was active")
        .to_string();
    assert!(error.contains("generation 7"), "{error}");

    world.home.load(&nobody).expect("as new as the newest");
    agent.kill().expect("our own process");
    let started = world.home.start(&world.net.node, &nobody, &[]);
    let _agent = started.expect("an agent takes over what another has left");
    let error = world
        .home
        .load(&older)
        .expect_err("7 is active")
        .to_string();
    assert!(error.contains("generation 7"), "{error}");
    let back = world
        .home
        .call(&["rollback"])
        .expect("the program is there");
    assert!(back.status.success(), "the history is kept");
    world.expect("frontend", Met::Answer, "the first bundle is back");
}

#[test]
fn a_shadow_is_asked_decides_nothing_and_is_promoted() {
    if !possible() {
        return;
    }
    let world = World::new("lv-shadow");
    let _agent = world.start(ONLY_FRONTEND, &[]);
    assert!(refused(&world, &["shadow", "promote"]).contains("no shadow"));
    let candidate = world.bundle("nobody.bin", NOBODY);
    let path = candidate.to_str().expect("plain text");
    let mut monitor = monitor(&world);
    let loaded = world.home.call(&["shadow", "load", path]);
    let loaded = loaded.expect("the program is there");
    assert!(
        loaded.status.success(),
        "{}",
        String::from_utf8_lossy(&loaded.stderr)
    );
    world.expect("frontend", Met::Answer, "the active one decides");
    world.expect("other", Met::Refusal, "the active one decides");
    // A load leaves it where it is.
    world
        .home
        .load(&world.home.file("first.bin"))
        .expect("a good bundle");
    world.expect("frontend", Met::Answer, "the active one decides");

    let status = world.home.status().expect("the agent answers");
    let shadow = &status["shadow"];
    assert_eq!(shadow["bundle"], path);
    // By frontend, over both families, twice; by other, once.
    assert_eq!(
        (&shadow["asked"], &shadow["disagreed"]),
        (&6.into(), &4.into())
    );
    let rule = &shadow["rules"][0];
    assert_eq!(rule["verdict"], "deny");
    assert_eq!(rule["reason"], "no_allow_matched");
    assert_eq!((&rule["asked"], &rule["disagreed"]), (&6.into(), &4.into()));
    assert_eq!(world.counted("shadow_disagrees"), 4);
    let seen = lines(&mut monitor);
    let told: Vec<_> = seen.iter().filter(|l| l.get("shadow").is_some()).collect();
    assert_eq!(told.len(), 4, "{seen:?}");
    for line in told {
        assert_eq!(line["src"], "default/frontend");
        assert_eq!(
            (&line["verdict"], &line["reason"]),
            (&"allow".into(), &"allow_rule".into())
        );
        assert_eq!(line["policy"], "default/only-frontend");
        assert_eq!(line["shadow"]["verdict"], "deny");
        assert_eq!(line["shadow"]["reason"], "no_allow_matched");
        assert_ne!(line["shadow"]["epoch"], line["epoch"]);
    }

    pause(&world, "default/other", "10m");
    let promoted = world.home.call(&["shadow", "promote"]);
    assert!(promoted.expect("the program is there").status.success());
    world.expect("frontend", Met::Refusal, "the shadow decides now");
    let status = world.home.status().expect("the agent answers");
    assert_eq!(status["shadow"], serde_json::Value::Null);
    assert_eq!(status["bundle"], path);
    assert_eq!(
        status["pauses"][0]["pod"], "default/other",
        "pauses are brought over"
    );
    let hits = status["hits"].as_array().cloned().unwrap_or_default();
    let denied = |hit: &&serde_json::Value| hit["reason"] == "no_allow_matched";
    let opened: u64 = hits
        .iter()
        .filter(denied)
        .flat_map(|h| h["opened"].as_u64())
        .sum();
    assert_eq!(
        opened, 4,
        "what it was asked as a shadow is no hit: {hits:?}"
    );

    // The turns of the slots go on.
    for name in ["first.bin", "nobody.bin", "first.bin"] {
        world
            .home
            .load(&world.home.file(name))
            .expect("a good bundle");
    }
    world.expect("frontend", Met::Answer, "the first bundle again");
    let loaded = world.home.call(&["shadow", "load", path]);
    assert!(loaded.expect("the program is there").status.success());
    let dropped = world.home.call(&["shadow", "drop"]);
    assert!(dropped.expect("the program is there").status.success());
    world.expect("frontend", Met::Answer, "still");
    assert_eq!(world.counted("shadow_disagrees"), 4, "nobody was asked");
    assert!(refused(&world, &["shadow", "drop"]).contains("no shadow"));
}

#[test]
fn why_is_answered_as_the_compiler_answers_it_and_the_kernel_agrees() {
    if !possible() {
        return;
    }
    let world = World::new("lv-why");
    let _agent = world.start(ONLY_GET, &[]);
    let (loaded, _) = policyc::read::load_str("live.yaml", &world.manifests, None);
    let bundle = fs::read(world.home.file("first.bin")).expect("a file of its own");
    let program = policyc::bundle::read(&bundle).expect("a bundle").program;
    for (from, extra, verdict) in [
        ("default/frontend", &["--method", "GET"][..], "allow"),
        ("default/frontend", &["--method", "POST"], "deny"),
        ("default/other", &[], "deny"),
        ("192.0.2.7", &[], "deny"),
    ] {
        #[derive(clap::Parser)]
        struct Arguments {
            #[command(flatten)]
            request: policyc::explain::arguments::RequestArgs,
        }
        let mut arguments = vec!["explain", "--from", from, "--to", "default/backend"];
        arguments.extend(["--port", "8080", "--now", "2026-01-01T00:00:00Z"]);
        arguments.extend(extra);
        let parsed = <Arguments as clap::Parser>::parse_from(&arguments).request;
        let request = parsed.request().expect("a request");
        let now = parsed.now.expect("given");
        let expected = policyc::explain::explain(&program, &loaded.cluster, &request, now);
        let expected = expected.expect("it can be judged");
        let said = world.home.call(&arguments).expect("the program is there");
        let errors = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.success(), "{errors}");
        assert_eq!(String::from_utf8_lossy(&said.stdout), expected.to_string());
        assert!(
            errors.contains("the table in the kernel, epoch 1:"),
            "{errors}"
        );
        arguments.extend(["--format", "json"]);
        let said = world.home.call(&arguments).expect("the program is there");
        let json: serde_json::Value = serde_json::from_slice(&said.stdout).expect("JSON");
        assert_eq!(json, serde_json::to_value(&expected).expect("JSON"));
        assert_eq!(json["judgement"]["verdict"], verdict);
    }
    let unknown = [
        "explain",
        "--from",
        "default/nobody",
        "--to",
        "default/backend",
    ];
    let said = refused(&world, &[&unknown[..], &["--port", "8080"]].concat());
    assert!(said.contains("default/nobody"), "{said}");
}
