//! Which pods are found, and what is said of those that are not.

use super::*;

/// The world's pods on node `n1`, without a word on where they are.
pub(super) fn unannotated(world: &World) -> String {
    let lines: Vec<&str> = world
        .manifests
        .lines()
        .filter(|line| !line.contains("enforcer/") && !line.contains("annotations:"))
        .collect();
    lines
        .join("\n")
        .replace("\nspec:\n", "\nspec:\n  nodeName: n1\n")
}

#[track_caller]
fn pod_row(world: &World, name: &str) -> serde_json::Value {
    let status = world.home.status().expect("the agent answers");
    let pods = status["pods"].as_array().cloned().unwrap_or_default();
    let row = pods.iter().find(|pod| pod["name"] == name).cloned();
    row.unwrap_or_else(|| panic!("no row of {name} in {pods:?}"))
}

#[test]
fn pods_of_this_node_are_found_by_their_addresses() {
    if !possible() {
        return;
    }
    let world = World::new("lv-find");
    let lost = "
---
apiVersion: v1
kind: Pod
metadata: {name: lost, namespace: default, labels: {app: backend}}
spec: {nodeName: n1, containers: [{name: main, image: none}]}
status: {phase: Running, podIP: 10.88.0.77, podIPs: [{ip: 10.88.0.77}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: default}
spec: {nodeName: n1, hostNetwork: true, containers: [{name: main, image: none}]}
status: {phase: Running, podIP: 192.0.2.1, podIPs: [{ip: 192.0.2.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: elsewhere, namespace: default}
spec: {nodeName: n2, containers: [{name: main, image: none}]}
status: {phase: Running, podIP: 10.88.1.1, podIPs: [{ip: 10.88.1.1}]}
";
    let inventory = format!("{}{lost}", unannotated(&world));
    fs::write(world.home.file("inventory.yaml"), inventory).expect("a file of its own");
    let agent = world.start(ONLY_FRONTEND, &["--node-name", "n1"]);
    world.expect("frontend", Met::Answer, "its principal is allowed");
    world.expect("other", Met::Refusal, "no rule allows its principal");
    let found = pod_row(&world, "default/backend");
    assert_eq!(found["interfaces"][0], "vbackend", "{found}");
    for (name, why) in [
        ("default/lost", "no network namespace on this node"),
        ("default/host", "on the node's own network"),
    ] {
        let row = pod_row(&world, name);
        let reason = row["not_enforced"].as_str().unwrap_or_default();
        assert!(reason.contains(why), "{name} should say `{why}`: {row}");
        assert!(agent.log().contains(name), "{name} is warned about");
    }
    let shown = world.home.call(&["status"]).expect("the program is there");
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(
        shown.contains("not enforced: it is on the node's own network"),
        "{shown}"
    );
    assert!(
        !shown.contains("elsewhere"),
        "another node's pod is not a row:\n{shown}"
    );
}

#[test]
fn pods_behind_other_interfaces_are_guarded_and_not_policed() {
    if !possible() {
        return;
    }
    let world = World::new("lv-named");
    let nobody_anywhere = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody-anywhere, namespace: default}
spec: {}
";
    let _server = Echo::start(world.pod("frontend"), PORT).expect("the port is free");
    let _agent = world.start(nobody_anywhere, &["--interface", "vbackend"]);
    world.expect("frontend", Met::Refusal, "backend is policed");
    for address in world.pod("frontend").addresses() {
        assert_eq!(
            try_once(world.pod("other"), address, PORT, PATIENCE),
            Met::Answer,
            "frontend is not"
        );
    }
    let row = pod_row(&world, "default/frontend");
    assert_eq!(row["enrolled"], false, "{row}");
    assert!(
        row["not_enforced"]
            .as_str()
            .is_some_and(|r| r.contains("--interface")),
        "{row}"
    );
    // Another pod's address, sent from where it does not belong.
    let (frontend, other) = (world.pod("frontend"), world.pod("other"));
    let borrowed = frontend
        .netns
        .ip(&format!("addr add {}/32 dev eth0", other.v4));
    borrowed.expect("its own device");
    let before = world.counted("spoofed_pod_source");
    let from = std::net::SocketAddr::new(other.v4.into(), 0);
    let to = std::net::SocketAddr::new(world.pod("backend").v4.into(), PORT);
    let sent = frontend.netns.enter(|| {
        let socket = std::net::UdpSocket::bind(from)?;
        socket.send_to(b"x", to)
    });
    sent.expect("the pod may try");
    assert!(
        until(PATIENCE, || world.counted("spoofed_pod_source") > before),
        "verdicts about backend's clients rest on their addresses"
    );
}

#[test]
fn a_node_without_pods_runs_and_says_so() {
    if !possible() {
        return;
    }
    let world = World::new("lv-empty");
    fs::write(world.home.file("inventory.yaml"), unannotated(&world)).expect("a file of its own");
    let agent = world.start(NOBODY, &["--node-name", "n2"]);
    assert!(
        agent.log().contains("no pod of this node"),
        "{}",
        agent.log()
    );
    let status = world.home.status().expect("the agent answers");
    assert_eq!(status["pods"].as_array().map(Vec::len), Some(0));
    world.expect("other", Met::Answer, "nothing is enforced here");
    agent.kill().expect("our own process");
    // The pods come, and go again.
    for (node, met) in [("n1", Met::Refusal), ("n2", Met::Answer)] {
        let bundle = world.home.file("first.bin");
        let started = world
            .home
            .start(&world.net.node, &bundle, &["--node-name", node]);
        let agent = started.expect("an agent takes over what another has left");
        world.expect("other", met, node);
        agent.kill().expect("our own process");
    }
}
