//! `enforcer explain --all-nodes`: why, by what is active on each node. Nodes that say the same are
//! told of once.

use std::{collections::BTreeMap, process::ExitCode};

use policyc::request::Request;
use serde_json::json;

use super::{
    super::{Failure, Format},
    aside, ask_all, command,
};
use crate::{
    fleet::{Fleet, ask::Said},
    report::line,
};

/// Asks all nodes. Exit status 1 where one gives no account, or they differ.
pub async fn run(
    fleet: Fleet,
    request: &Request,
    now: u64,
    format: Format,
) -> Result<ExitCode, Failure> {
    let request = serde_json::to_string(request)?;
    let now = line::rfc3339(i128::from(now) * 1_000_000_000);
    let how = match format {
        Format::Human => "human",
        Format::Json => "json",
    };
    let words = [
        "explain",
        "--request",
        request.as_str(),
        "--now",
        &now,
        "--format",
        how,
    ];
    let nodes = fleet.nodes().await?;
    let heard = ask_all(&fleet, &nodes, &command(&words)).await;
    if let Some(unlisted) = &nodes.unlisted {
        eprintln!("enforcer: {unlisted}");
    }
    let (mut accounts, mut silent) = (Accounts::default(), BTreeMap::new());
    for heard in heard {
        match heard.said {
            Ok(said) if said.code == 0 || !said.out.is_empty() => accounts.add(heard.node, said),
            Ok(said) => drop(silent.insert(heard.node, aside(&said))),
            Err(why) => drop(silent.insert(heard.node, why)),
        }
    }
    match format {
        Format::Human => {
            print!("{}", accounts.human());
            for (node, why) in &silent {
                println!("== {node}: no account: {why}");
            }
        }
        Format::Json => {
            let all = json!({
                "accounts": accounts.json()?, "silent": silent, "unlisted": nodes.unlisted
            });
            println!("{}", serde_json::to_string_pretty(&all)?);
        }
    }
    let same = accounts.0.len() == 1 && accounts.0.keys().all(|(_, code)| *code == 0);
    let well = same && silent.is_empty() && nodes.unlisted.is_none();
    Ok(match well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// By account and exit status: the nodes that give it, each with what its table in the kernel says.
#[derive(Default)]
struct Accounts(BTreeMap<(String, i32), Vec<(String, String)>>);

impl Accounts {
    fn add(&mut self, node: String, said: Said) {
        let table = match said.aside.trim() {
            "" => String::new(),
            _ => aside(&said),
        };
        let nodes = self.0.entry((said.out, said.code)).or_default();
        nodes.push((node, table));
    }

    fn human(&self) -> String {
        let mut text = String::new();
        for ((account, _), nodes) in &self.0 {
            let names: Vec<&str> = nodes.iter().map(|(node, _)| node.as_str()).collect();
            text += &format!("== {}\n{account}", names.join(", "));
            for (node, table) in nodes {
                text += &format!("{node}: {table}\n");
            }
        }
        text
    }

    fn json(&self) -> Result<Vec<serde_json::Value>, Failure> {
        let mut accounts = Vec::new();
        for ((account, code), nodes) in &self.0 {
            let tables: BTreeMap<&str, &str> = nodes
                .iter()
                .map(|(node, table)| (node.as_str(), table.as_str()))
                .collect();
            let account: serde_json::Value = serde_json::from_str(account)?;
            accounts.push(json!({ "nodes": tables, "exit": code, "account": account }));
        }
        Ok(accounts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_say_the_same_are_told_of_once() {
        let said = |out: &str, aside: &str, code| Said {
            out: out.into(),
            aside: aside.into(),
            code,
        };
        let mut accounts = Accounts::default();
        accounts.add("one".into(), said("deny\n", "epoch 1: deny\n", 0));
        accounts.add("two".into(), said("deny\n", "epoch 9: deny\n", 0));
        accounts.add("three".into(), said("allow\n", "epoch 4: allow\n", 0));
        assert_eq!(
            accounts.human(),
            "== three\nallow\nthree: epoch 4: allow\n\
             == one, two\ndeny\none: epoch 1: deny\ntwo: epoch 9: deny\n"
        );
    }
}
