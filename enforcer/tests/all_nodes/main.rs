//! `--all-nodes`, from the command line to agents that answer: the real program asks a double of the
//! API server, which runs the real program again in the place of each agent's container.

mod double;

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Output, Stdio},
    time::Duration,
};

use double::{Cluster, Node, status};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_enforcer");

fn enforcer(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(arguments)
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .env_remove("KUBECONFIG");
    command
}

fn run(cluster: &Cluster, arguments: &[&str]) -> Output {
    enforcer(cluster, arguments).output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// The row of a node.
fn row<'a>(all: &'a Value, node: &str) -> &'a Value {
    let rows = all["nodes"].as_array().expect("rows");
    let found = rows.iter().find(|row| row["node"] == node);
    found.unwrap_or_else(|| panic!("{node} is in {all:#}"))
}

#[test]
fn every_node_has_a_row_and_what_is_wrong_with_it_is_named() {
    let cluster = Cluster::new([
        ("alpha", Node::Agent(status(7, "aa"))),
        ("beta", Node::Agent(status(6, "99"))),
        ("gamma", Node::Forbidden),
        ("delta", Node::Hangs),
        ("epsilon", Node::NoAgent),
        ("zeta", Node::NoSocket),
        ("eta", Node::Says(b"no status at all".to_vec())),
    ]);
    // All that the hanging one costs, and time enough for the others on a busy machine.
    let patience = ["--node-timeout", "20"];
    let json = ["status", "--all-nodes", "--format", "json"];
    let output = run(&cluster, &[&json[..], &patience].concat());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let all: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(all["wanted"], json!({ "generation": 7, "hash": "aa" }));
    assert_eq!(all["nodes"].as_array().map(Vec::len), Some(7));
    assert_eq!(all["wrong"], 6);
    let alpha = row(&all, "alpha");
    assert_eq!(alpha["wrong"], json!([]));
    assert_eq!(alpha["agent"], "enforcer-alpha");
    assert_eq!(alpha["says"]["generation"], 7);
    assert_eq!(alpha["says"]["policed"], 1);
    let wrong = |node: &str| row(&all, node)["wrong"].to_string();
    assert_eq!(wrong("beta"), r#"["generation 6, not 7"]"#);
    let refused = wrong("gamma");
    assert!(refused.contains("get and create on pods/exec"), "{refused}");
    assert!(refused.contains("enforcer-system"), "{refused}");
    assert_eq!(wrong("delta"), r#"["it did not answer within 20 s"]"#);
    assert_eq!(wrong("epsilon"), r#"["no agent runs on it"]"#);
    assert!(wrong("zeta").contains("no agent listens on"), "{all:#}");
    assert!(
        wrong("eta").contains("its status cannot be read"),
        "{all:#}"
    );

    let two = [
        "status",
        "--all-nodes",
        "--node",
        "alpha",
        "--node",
        "epsilon",
    ];
    let output = run(&cluster, &two);
    assert_eq!(output.status.code(), Some(1));
    let table = text(&output.stdout);
    assert!(table.starts_with("NODE "), "{table}");
    for line in [
        "WRONG epsilon: no agent runs on it",
        "2 nodes, something is wrong with 1",
    ] {
        assert!(table.lines().any(|l| l == line), "{line} is in\n{table}");
    }
}

#[test]
fn all_is_well_where_every_node_has_the_wanted_bundle() {
    let cluster = Cluster::new([
        ("alpha", Node::Agent(status(7, "aa"))),
        ("beta", Node::Agent(status(7, "aa"))),
    ]);
    let output = run(&cluster, &["status", "--all-nodes"]);
    let told = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    let output = run(&cluster, &["status", "--all-nodes", "--wanted", "8"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("WRONG beta: generation 7, not 8"));
    let output = run(&cluster, &["status", "--all-nodes", "--node", "beta"]);
    assert!(text(&output.stdout).contains("1 nodes"), "{output:?}");
    let output = run(&cluster, &["status", "--all-nodes", "--node", "omega"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn who_may_not_list_is_told_which_verb_is_missing() {
    let mut cluster = Cluster::new([("alpha", Node::Agent(status(7, "aa")))]);
    cluster.forbid("nodes");
    let output = run(&cluster, &["status", "--all-nodes"]);
    assert_eq!(output.status.code(), Some(1), "all of it was not seen");
    assert!(text(&output.stdout).contains("the verb list on nodes"));
    cluster.forbid("pods");
    let output = run(&cluster, &["status", "--all-nodes"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("the verb list on pods in namespace `enforcer-system`"));
}

#[test]
fn more_nodes_than_are_asked_at_once_are_all_asked_and_never_more_at_once() {
    let names: Vec<String> = (0..40).map(|n| format!("node-{n:02}")).collect();
    let nodes = names.iter().map(|name| {
        let said = serde_json::to_vec(&status(7, "aa")).expect("JSON");
        (name.as_str(), Node::Says(said))
    });
    let cluster = Cluster::new(nodes);
    let output = run(&cluster, &["status", "--all-nodes", "--at-once", "4"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).contains("40 nodes"));
    assert!(cluster.most_at_once() <= 4, "{}", cluster.most_at_once());
}

#[test]
fn verdicts_of_all_nodes_come_as_one_stream_and_agents_end_with_it() {
    let notice = |second: u32| {
        json!({ "time": format!("2026-01-01T00:00:0{second}.5Z"), "notice": "active",
            "about": format!("generation {second}") })
    };
    let cluster = Cluster::new([
        ("alpha", Node::Monitored(vec![notice(1), notice(3)])),
        (
            "beta",
            Node::Monitored(vec![notice(2), json!({ "lost": 4 }), notice(4)]),
        ),
        ("gamma", Node::NoAgent),
    ]);
    let mut monitor = enforcer(&cluster, &["monitor", "--all-nodes", "--format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let lines = BufReader::new(monitor.stdout.take().expect("a pipe")).lines();
    let lines: Vec<Value> = lines
        .take(5)
        .map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON"))
        .collect();
    let mut aside = BufReader::new(monitor.stderr.take().expect("a pipe"));
    let mut first = String::new();
    aside.read_line(&mut first).expect("a line");
    assert_eq!(first, "enforcer: not heard: gamma: no agent runs on it\n");
    let seen: Vec<(&str, &str)> = lines
        .iter()
        .map(|line| {
            let about = line["about"].as_str().unwrap_or("lost");
            (line["node"].as_str().expect("a node"), about)
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("alpha", "generation 1"),
            ("beta", "generation 2"),
            ("beta", "lost"),
            ("alpha", "generation 3"),
            ("beta", "generation 4"),
        ]
    );
    monitor.kill().expect("it runs");
    monitor.wait().expect("it ends");
    // Nobody reads their lines any more, and none will come: only their standard input tells them.
    assert!(
        cluster.wait_until_idle(Duration::from_secs(20)),
        "the agents' own monitors have ended"
    );
}

#[test]
fn one_account_stands_for_all_nodes_that_give_it() {
    let account = |verdict: &str, epoch: u32| {
        json!({ "explained": { "text": format!("verdict: {verdict}\n"), "json": "{}",
            "epoch": epoch, "live": { "agrees": { "cell": 1, "verdict": verdict } } } })
    };
    let cluster = Cluster::new([
        ("alpha", Node::Explains(account("deny", 1))),
        ("beta", Node::Explains(account("deny", 9))),
    ]);
    let arguments = [
        "explain",
        "--all-nodes",
        "--from",
        "shop/web",
        "--to",
        "shop/cart",
        "--port",
        "80",
    ];
    let output = run(&cluster, &arguments);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        told.starts_with("== alpha, beta\nverdict: deny\n"),
        "{told}"
    );
    assert!(
        told.contains("beta: the table in the kernel, epoch 9: deny"),
        "{told}"
    );
    let asked = cluster.asked();
    let request = asked.iter().find(|request| request["command"] == "explain");
    let request = request.expect("an agent was asked");
    assert_eq!(request["request"]["port"], 80);
    assert_eq!(request["request"]["dst"], "shop/cart");
}
