//! An agent that waits for the API server's first lists says so, and for what.

use std::net::Ipv4Addr;

use tests::http::{Answer, request};

use super::{double::joined, *};

const METRICS: u16 = 9964;

/// What the agent answers a probe.
fn probe(world: &World, path: &str) -> Option<(u16, String)> {
    let here = Ipv4Addr::LOCALHOST.into();
    let exchange = request(&world.net.node, here, (here, METRICS).into(), "GET", path);
    match exchange.ok()?.answer {
        Answer::Response { status, body } => Some((status, body)),
        _ => None,
    }
}

#[test]
fn status_and_probes_say_what_is_awaited_and_orders_wait() {
    let Some((world, double)) = joined("kb-waits") else {
        return;
    };
    double.set("authorizationpolicies", policy(NOT_OTHER));
    double.forbid("pods", true);
    let kubeconfig = world.kubeconfig(&double.kubeconfig());
    let listen = format!("127.0.0.1:{METRICS}");
    let options = ["--metrics-listen", &listen];
    let agent = world.home.follow(&world.net.node, &kubeconfig, &options);
    let agent = agent.expect("the program is there");
    let mut said = String::new();
    let told = until(NEWS, || {
        let status = world.home.call(&["status"]).expect("the program is there");
        said = String::from_utf8_lossy(&status.stdout).into_owned();
        assert_eq!(
            status.status.code().filter(|code| *code == 0),
            None,
            "{said}"
        );
        said.contains("NOT READY pods are not known yet") && said.contains("ClusterRole")
    });
    assert!(told, "{said}\n{}", agent.log());
    assert!(said.contains("waits since"), "since when: {said}");
    assert!(
        !said.contains("NOT READY nodes"),
        "what has come is not awaited: {said}"
    );
    let json = world.home.call(&["status", "--format", "json"]);
    let json = json.expect("the program is there");
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let kinds = json["cluster"]["kinds"].as_array().expect("kinds");
    let pods = kinds.iter().find(|kind| kind["kind"] == "pods");
    assert_eq!(pods.expect("pods")["state"], "failing", "{json}");

    assert_eq!(probe(&world, "/healthz"), Some((200, "ok\n".into())));
    let (status, why) = probe(&world, "/readyz").expect("it answers");
    assert_eq!(status, 503, "{why}");
    assert!(why.contains("pods are not known yet"), "{why}");
    let (_, metrics) = probe(&world, "/metrics").expect("it answers");
    let down = "enforcer_watch_up{kind=\"pods\"} 0";
    assert!(metrics.contains(down), "{metrics}");

    let order = world.home.call(&["pause", "all", "--for", "1m"]);
    let order = order.expect("the program is there");
    let refusal = String::from_utf8_lossy(&order.stderr).into_owned();
    assert!(
        !order.status.success() && refusal.contains("no table yet"),
        "{refusal}"
    );

    double.forbid("pods", false);
    let agent = world
        .home
        .ready(agent)
        .expect("it need not be started again");
    world.expect("other", Met::Refusal, "the policy is in force");
    let ready = until(NEWS, || {
        probe(&world, "/readyz").is_some_and(|(s, _)| s == 200)
    });
    assert!(ready, "{:?}", probe(&world, "/readyz"));
    // Nothing is put in force that the next change in the cluster would undo.
    let bundle = world.home.file("kubeconfig").display().to_string();
    let orders: [&[&str]; 3] = [&["rollback"], &["load", &bundle], &["shadow", "promote"]];
    for order in orders {
        let answer = world.home.call(order).expect("the program is there");
        let refusal = String::from_utf8_lossy(&answer.stderr).into_owned();
        assert!(
            !answer.status.success() && refusal.contains("kubectl apply"),
            "{order:?}: {refusal}"
        );
    }
    world.expect("other", Met::Refusal, "and nothing has changed");
    drop(agent);
}

#[test]
fn an_agent_that_waits_gives_way_to_whoever_detaches() {
    let Some((world, double)) = joined("kb-waitdet") else {
        return;
    };
    double.forbid("pods", true);
    let kubeconfig = world.kubeconfig(&double.kubeconfig());
    let agent = world.home.follow(&world.net.node, &kubeconfig, &[]);
    let mut agent = agent.expect("the program is there");
    let socket = world.home.file("socket");
    assert!(until(NEWS, || socket.exists()), "{}", agent.log());
    let said = world.home.detach(&world.net.node).expect("it detaches");
    assert_eq!(said.trim(), "nothing was attached");
    assert!(agent.ends_within(PATIENCE), "{}", agent.log());
    assert!(!socket.exists(), "its socket goes with it");
}
