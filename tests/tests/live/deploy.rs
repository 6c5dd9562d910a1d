//! What is deployed beside the agent speaks of things that the agent has.

use std::collections::BTreeSet;

use enforcer_ebpf::reason::Reason;

use super::*;

/// Where kubelet and Prometheus ask, in the node's namespace.
const METRICS: &str = "127.0.0.1:9964";

fn deployed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../enforcer/deploy/monitoring")
        .join(name);
    fs::read_to_string(path).expect("it is part of the repository")
}

/// Every `expr` in a document.
fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(text) if key == "expr" => found.push(text.into()),
                    _ => expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(list) => list.iter().for_each(|v| expressions(v, found)),
        _ => {}
    }
}

/// What each metric's samples are called.
fn samples(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in text.lines() {
        let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        let ends: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        names.extend(ends.iter().map(|end| format!("{name}{end}")));
    }
    names
}

fn get(world: &World, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = world
        .net
        .node
        .enter(|| std::net::TcpStream::connect(METRICS))
        .expect("the agent serves");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"
    )
    .expect("the connection stands");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the answer is text");
    answer
}

/// An agent that follows a cluster, which has more to say.
fn follow(world: &World) -> Agent {
    let double = tests::kube::double::Double::start(&world.net.node).expect("a port is free");
    let kubeconfig = world.home.file("kubeconfig");
    fs::write(&kubeconfig, double.kubeconfig()).expect("a file of its own");
    let options = ["--metrics-listen", METRICS];
    let agent = world.home.follow(&world.net.node, &kubeconfig, &options);
    let agent = agent.expect("the program is there");
    world.home.ready(agent).expect("it starts without a pod")
}

#[test]
fn alerts_and_dashboard_name_metrics_and_reasons_that_an_agent_has() {
    if !possible() {
        return;
    }
    let world = World::new("lv-metrics");
    let agent = world.start(ONLY_GET, &["--metrics-listen", METRICS]);
    for probe in ["/healthz", "/readyz"] {
        let answer = get(&world, probe);
        assert!(answer.starts_with("HTTP/1.1 200"), "{probe}: {answer}");
    }
    let answer = get(&world, "/metrics");
    let mut there = samples(&answer);
    agent.kill().expect("our own process");
    let _agent = follow(&world);
    there.extend(samples(&get(&world, "/metrics")));
    assert!(there.contains("enforcer_packets_total"), "{answer}");
    let rules: serde_json::Value =
        serde_yaml::from_str(&deployed("alerts.yaml")).expect("rules are YAML");
    let board: serde_json::Value =
        serde_json::from_str(&deployed("dashboard.json")).expect("a dashboard is JSON");
    let mut all = Vec::new();
    expressions(&rules, &mut all);
    let alerts = all.len();
    expressions(&board, &mut all);
    assert!(
        alerts > 8 && all.len() > alerts + 15,
        "{} in all",
        all.len()
    );
    let reasons: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    for expression in &all {
        for (start, _) in expression.match_indices("enforcer_") {
            let rest = &expression[start..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = &rest[..end.unwrap_or(rest.len())];
            assert!(there.contains(name), "no metric {name}: {expression}");
        }
        for part in expression.split("reason=").skip(1) {
            let quoted = part.split('"').nth(1).expect("a label's value is quoted");
            for reason in quoted.split('|') {
                assert!(reasons.contains(reason), "no reason {reason}: {expression}");
            }
        }
    }
}
