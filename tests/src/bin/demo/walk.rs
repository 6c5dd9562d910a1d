//! Walks through the scenario: for each stage compile, enforce, ask, and find out who decided.

use std::{
    io::{self, Write},
    net::SocketAddr,
};

use anyhow::{Context, Result, ensure};
use enforcer::report::VerdictLine;
use policyc::request::Layer;
use serde_json::Value;
use tests::{
    http::{Answer, Server, request},
    topology::Topology,
};

use crate::{
    account::{Row, table, wrapped},
    agent::{Agent, Place},
    scenario::{Ask, Expected, STAGES, Stage},
};

const PORT: u16 = 80;
/// Name and last number of both addresses, as in the manifests.
const PODS: [(&str, u8); 3] = [("frontend", 2), ("backend", 3), ("other", 4)];

/// Plays the whole scenario. Whether all was as expected.
///
/// # Errors
/// When something does not work at all.
pub fn walk(place: &Place, prefix: &str) -> Result<bool> {
    let mut net = Topology::with_prefix(prefix)?;
    for (name, last) in PODS {
        let v6 = std::net::Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, u16::from(last));
        net.pod(name, [10, 88, 0, last].into(), v6)?;
    }
    let server = Server::start(&net.get("backend").netns, "backend", PORT)?;
    let mut agent = None;
    let mut account = Vec::new();
    let mut lints_said = true;
    for stage in STAGES {
        println!("\n{}", stage.title);
        print!("{}", wrapped(stage.story, "  "));
        lints_said &= say_lints(place, stage)?;
        let bundle = place.compile(stage)?;
        let now = place.enforce(agent.take(), &net.node, stage, &bundle)?;
        let mut rows = Vec::new();
        for ask in stage.asks {
            let row = judge(&net, &server, &now, ask)
                .with_context(|| format!("{}: {}", stage.title, asked(ask)))?;
            let mark = if row.as_expected {
                "as expected"
            } else {
                "NOT AS EXPECTED"
            };
            println!("  {:<28} {:<8} {mark}", row.request, row.got);
            rows.push(row);
        }
        io::stdout().flush()?;
        account.push((stage.title, rows));
        agent = Some(now);
    }
    drop(agent);
    place.detach(&net.node)?;
    let wrong = account
        .iter()
        .flat_map(|(_, rows)| rows)
        .filter(|row| !row.as_expected)
        .count();
    println!(
        "\nEach request was sent over IPv4 and over IPv6.\n\n{}",
        table(&account)
    );
    if wrong > 0 {
        println!("{wrong} requests did not end as expected (marked `!`)");
    } else if !lints_said {
        println!("all requests ended as expected, but the compiler did not warn as it should");
    } else {
        println!("all as expected");
    }
    Ok(wrong == 0 && lints_said)
}

/// Sends a request over both families; they must agree in everything.
fn judge(net: &Topology, server: &Server, agent: &Agent, ask: &Ask) -> Result<Row> {
    let (from, to) = (net.get(ask.from), net.get("backend"));
    let mut rows = Vec::new();
    for (source, destination) in from.addresses().into_iter().zip(to.addresses()) {
        let before = server.requests();
        let target = SocketAddr::new(destination, PORT);
        let exchange = request(&from.netns, source, target, ask.method, ask.path)?;
        let verdict = agent.verdict(exchange.client)?;
        let reached = server.requests() - before;
        rows.push(row(ask, &exchange.answer, &verdict, reached));
    }
    let [v4, v6] = rows.as_slice() else {
        unreachable!("two families, two rows");
    };
    let mut row = v4.clone();
    if (&v4.got, v4.decided, &v4.by) != (&v6.got, v6.decided, &v6.by) {
        row.got = format!("{}/{}", v4.got, v6.got);
        row.by = format!("{} / {}", v4.by, v6.by);
        row.as_expected = false;
    }
    Ok(row)
}

fn row(ask: &Ask, answer: &Answer, verdict: &VerdictLine, reached: u64) -> Row {
    let got = match answer {
        Answer::Response { status, .. } => status.to_string(),
        Answer::Refused => "refused".into(),
        Answer::Silence => "nothing".into(),
    };
    let right_answer = match (ask.expected, answer) {
        (Expected::Allowed, Answer::Response { status: 200, body }) => {
            *body == format!("backend: {} {}\n", ask.method, ask.path)
        }
        (Expected::Forbidden, Answer::Response { status: 403, body }) => {
            body.trim_end() == "RBAC: access denied"
        }
        (Expected::Refused, Answer::Refused) => true,
        _ => false,
    };
    // The server saw what was allowed and nothing else.
    let right_traffic = reached == u64::from(ask.expected == Expected::Allowed);
    let right_layer = ask
        .expected
        .layer()
        .is_none_or(|layer| layer == verdict.layer);
    Row {
        request: asked(ask),
        expected: ask.expected.word(),
        got,
        decided: match verdict.layer {
            Layer::L7 => "userspace",
            Layer::L4 => "kernel",
        },
        by: by(verdict),
        as_expected: right_answer && right_traffic && right_layer,
    }
}

fn asked(ask: &Ask) -> String {
    format!("{} {} {}", ask.from, ask.method, ask.path)
}

/// `deny-all-backend 0`: the policy without its namespace, which is the same for all.
fn by(verdict: &VerdictLine) -> String {
    match (&verdict.policy, verdict.rule) {
        (Some(policy), rule) => {
            let name = policy.rsplit('/').next().unwrap_or(policy);
            rule.map_or_else(|| name.to_owned(), |rule| format!("{name} {rule}"))
        }
        (None, _) => verdict.reason.replace('_', " "),
    }
}

/// Prints what the compiler warns about where the scenario tells of it. Whether it did.
fn say_lints(place: &Place, stage: &Stage) -> Result<bool> {
    let found = place.check(stage)?;
    if stage.lint.is_empty() {
        return Ok(true);
    }
    let lint = found.iter().find(|lint| {
        let text = lint.to_string();
        stage.lint.iter().all(|word| text.contains(word))
    });
    let Some(lint) = lint else {
        println!("  (the compiler says nothing of it)");
        return Ok(false);
    };
    let said = |key: &str| lint[key].as_str().unwrap_or_default().to_owned();
    ensure!(lint["message"] != Value::Null, "a diagnostic has a message");
    print!(
        "{}",
        wrapped(
            &format!(
                "{}[{}]: {}",
                said("severity"),
                said("code"),
                said("message")
            ),
            "    | "
        )
    );
    // The fix is often a piece of YAML: its lines stay lines.
    for line in said("help").lines() {
        let text = line.trim_start();
        let indent = &line[..line.len() - text.len()];
        print!("{}", wrapped(text, &format!("    | {indent}")));
    }
    Ok(true)
}
