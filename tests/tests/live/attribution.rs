//! Who is named for a verdict, how often, and what is said when there are too many to be told.

use std::io::{BufRead, BufReader};

use tests::live::traffic::openings;

use super::{control::monitor, *};

/// Watches what frontend does, and would deny it.
const WATCHED: &str = "
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: watch, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  action: AUDIT
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/frontend]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: tried
  namespace: default
  annotations: {istio.io/dry-run: \"true\"}
spec:
  selector: {matchLabels: {app: backend}}
  action: DENY
  rules:
  - from: [{source: {namespaces: [elsewhere]}}]
  - from: [{source: {principals: [cluster.local/ns/default/sa/frontend]}}]
";

/// Opening segments and requests that were hits of a rule.
#[track_caller]
fn hits(world: &World, reason: &str, policy: &str, rule: u64) -> (u64, u64) {
    let status = world.home.status().expect("the agent answers");
    let hits = status["hits"].as_array().cloned().unwrap_or_default();
    let hit = hits
        .iter()
        .find(|hit| hit["reason"] == reason && hit["policy"] == policy && hit["rule"] == rule);
    hit.map_or((0, 0), |hit| {
        let count = |what: &str| hit[what].as_u64().expect("a number");
        (count("opened"), count("requests"))
    })
}

#[test]
fn hits_are_counted_on_over_loads_crashes_and_larger_tables() {
    if !possible() {
        return;
    }
    let world = World::new("lv-counts");
    let text = format!("{ONLY_FRONTEND}{WATCHED}");
    let bundle = world.bundle("watched.bin", &text);
    let other = world.bundle("other.bin", NOBODY);
    let mut expected = 0;
    let mut capacity = 0;
    for round in 0..3 {
        // The last two agents find a table of their predecessor's, the last one makes larger ones.
        let larger = ["--capacity", "1000000"];
        let options: &[&str] = if round == 2 { &larger } else { &[] };
        let started = world.home.start(&world.net.node, &bundle, options);
        let agent = started.expect("an agent takes over what another has left");
        for load in 0..3 {
            world.expect("frontend", Met::Answer, "its principal is allowed");
            expected += 2;
            let all = [
                hits(&world, "allow_rule", "default/only-frontend", 0),
                hits(&world, "audit", "default/watch", 0),
                hits(&world, "dry_run_deny", "default/tried", 1),
                hits(&world, "dry_run_deny", "default/tried", 0),
            ];
            let one = (expected, 0);
            assert_eq!(all, [one, one, one, (0, 0)], "round {round}, load {load}");
            if load < 2 {
                world.home.load(&other).expect("a good bundle");
                world.home.load(&bundle).expect("a good bundle");
            }
        }
        let status = world.home.status().expect("the agent answers");
        assert_eq!(status["state"]["trouble"], serde_json::Value::Null);
        let now = status["table"]["capacity_words"]
            .as_u64()
            .expect("a number");
        assert_eq!(round == 2, now > capacity && capacity > 0, "{now} words");
        capacity = now;
        agent.kill().expect("our own process");
        // Nobody is there, and the kernel goes on counting.
        world.expect("frontend", Met::Answer, "its principal is allowed");
        expected += 2;
    }
    let started = world.home.start(&world.net.node, &bundle, &[]);
    let _agent = started.expect("an agent takes over what another has left");
    let counted = hits(&world, "allow_rule", "default/only-frontend", 0);
    assert_eq!(counted, (expected, 0));
    let said = world.home.call(&["status", "--hits"]).expect("it is there");
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    for name in [
        "allow_rule default/only-frontend[0]",
        "audit default/watch[0]",
    ] {
        assert!(said.contains(name), "{said}");
    }
}

#[test]
fn requests_are_hits_of_the_rules_that_judged_them() {
    if !possible() {
        return;
    }
    let world = World::new("lv-requests");
    serve_http(world.pod("backend"), PORT + 1);
    let agent = world.start(&format!("{ONLY_GET}{WATCHED}"), &[]);
    let mut agent = Some(agent);
    for round in 1..3 {
        for line in ["GET /a", "GET /b", "POST /a"] {
            request(&world, "frontend", line);
        }
        let allowed = hits(&world, "allow_rule", "default/only-get", 0);
        assert_eq!(allowed, (0, 2 * round), "the kernel did not decide");
        let watched = hits(&world, "audit", "default/watch", 0);
        assert_eq!(watched.1, 3 * round, "of all requests");
        let tried = hits(&world, "dry_run_deny", "default/tried", 1);
        assert_eq!(tried.1, 3 * round, "of all requests");
        let mut old = agent.take().expect("one is running");
        old.interrupt().expect("our own process");
        assert!(old.ends_within(PATIENCE), "it was told to stop");
        let bundle = world.home.file("first.bin");
        let started = world.home.start(&world.net.node, &bundle, &[]);
        agent = Some(started.expect("an agent takes over what another has left"));
        let kept = hits(&world, "allow_rule", "default/only-get", 0);
        assert_eq!(kept, allowed, "it has kept what only it knew");
    }
}

#[test]
fn a_monitor_shows_what_is_asked_for_and_says_what_it_was_not_told() {
    if !possible() {
        return;
    }
    let world = World::new("lv-told-of");
    let _agent = world.start(ONLY_FRONTEND, &["--events", "all"]);
    let shown = |filter: &str| {
        let mut stream = monitor_with(&world, filter);
        world.expect("frontend", Met::Answer, "its principal is allowed");
        world.expect("other", Met::Refusal, "no rule allows its principal");
        let timeout = stream.get_ref().set_read_timeout(Some(SILENCE));
        timeout.expect("a time-out");
        let (mut line, mut lines) = (String::new(), Vec::new());
        while stream.read_line(&mut line).is_ok_and(|read| read > 0) {
            let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            lines.push(value);
            line.clear();
        }
        lines
    };
    let principal = "cluster.local/ns/default/sa/other";
    for (filter, count, source, reason) in [
        (
            r#"{"reason":"allow_rule"}"#.to_owned(),
            2,
            "default/frontend",
            "allow_rule",
        ),
        (
            format!(r#"{{"source":"{principal}","verdict":"deny"}}"#),
            2,
            "default/other",
            "no_allow_matched",
        ),
        (
            r#"{"source":"10.88.0.4","verdict":"deny"}"#.to_owned(),
            1,
            "default/other",
            "no_allow_matched",
        ),
    ] {
        let lines = shown(&filter);
        assert_eq!(lines.len(), count, "{filter}: {lines:?}");
        for line in &lines {
            assert_eq!(
                (&line["src"], &line["reason"]),
                (&source.into(), &reason.into())
            );
            for field in ["dst", "dst_ip", "src_principal", "epoch", "datapath"] {
                assert!(!line[field].is_null(), "{field}: {line}");
            }
        }
    }

    // More than may be told of: openings to as many ports at once.
    let mut stream = monitor(&world);
    let before = world.counted("event_dropped");
    let v4 = world.backend()[0];
    let flooded = until(PATIENCE * 3, || {
        openings(world.pod("other"), v4, 4_000);
        world.counted("event_dropped") > before
    });
    assert!(flooded, "so many verdicts cannot all be told of");
    let timeout = stream.get_ref().set_read_timeout(Some(PATIENCE));
    timeout.expect("a time-out");
    let mut line = String::new();
    let told = loop {
        line.clear();
        let read = stream.read_line(&mut line).expect("a line");
        assert!(read > 0, "the agent goes on");
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        if let Some(dropped) = value["dropped"].as_u64() {
            break dropped;
        }
    };
    assert!(told > 0 && told <= world.counted("event_dropped") - before);
}

fn monitor_with(world: &World, filter: &str) -> BufReader<std::os::unix::net::UnixStream> {
    use std::io::Write;
    let stream = std::os::unix::net::UnixStream::connect(world.home.file("socket"));
    let mut stream = BufReader::new(stream.expect("the agent listens"));
    writeln!(
        stream.get_mut(),
        "{{\"command\":\"monitor\",\"filter\":{filter}}}"
    )
    .expect("the agent reads");
    let mut answer = String::new();
    stream.read_line(&mut answer).expect("the agent answers");
    assert!(answer.contains("monitoring"), "{answer}");
    stream
}
