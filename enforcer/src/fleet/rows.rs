//! What the status of each node comes to: one row a node, and what is wrong with it.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use serde::{Deserialize, Serialize};

use crate::inventory::Lost;

/// Digits of a hash that are shown.
const HASH_DIGITS: usize = 12;

/// The bundle that every node should enforce.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Wanted {
    pub generation: u64,
    /// SHA-256 of the payload; `None`: any bundle of the generation.
    pub hash: Option<String>,
}

/// A node.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Row {
    pub node: String,
    /// The agent's pod.
    pub agent: Option<String>,
    /// What its agent says; `None` where there is none, or it does not answer.
    pub says: Option<Says>,
    /// What is wrong; empty: nothing.
    pub wrong: Vec<String>,
}

/// What an agent says of itself, as far as a row has room for it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Says {
    pub version: String,
    pub mode: String,
    pub generation: u64,
    pub hash: String,
    pub epoch: u32,
    /// Seconds since its table became active, by our clock.
    pub age_seconds: u64,
    pub policed: usize,
    /// Guarded against spoofing, and not policed.
    pub guarded: usize,
    /// Neither, though they have a network of their own.
    pub lost: usize,
    /// Pauses that are in force.
    pub paused: usize,
    /// Of the table's words.
    pub capacity_percent: u64,
}

/// A node's status, whatever its agent's version: what is not asked for here may be there or not.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    version: String,
    mode: String,
    generation: u64,
    epoch: u32,
    hash: String,
    since: String,
    not_ready: Vec<String>,
    table: Table,
    pods: Vec<Pod>,
    pauses: Vec<serde::de::IgnoredAny>,
    #[serde(default)]
    interfaces_error: Option<String>,
    #[serde(default)]
    delivery: Option<Delivery>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Table {
    words: u64,
    capacity_words: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct Pod {
    name: String,
    interfaces: Vec<String>,
    enrolled: bool,
    #[serde(default)]
    lost: bool,
    #[serde(default)]
    not_enforced: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Delivery {
    #[serde(default)]
    trouble: Option<String>,
}

impl Row {
    /// A node that says nothing, for this reason.
    pub fn silent(node: &str, agent: Option<String>, why: String) -> Self {
        Self {
            node: node.into(),
            agent,
            says: None,
            wrong: vec![why],
        }
    }

    /// A node whose agent has answered. `now` is in seconds since 1970.
    pub fn of(node: &str, agent: &str, status: Status, now: u64) -> Self {
        let mut wrong = status.not_ready;
        wrong.extend(
            status
                .interfaces_error
                .map(|error| format!("new interfaces are not guarded: {error}")),
        );
        let trouble = status.delivery.and_then(|delivery| delivery.trouble);
        wrong.extend(trouble.map(|trouble| format!("no new bundle: {trouble}")));
        let host_network = Lost::HostNetwork.to_string();
        let is_lost = |pod: &&Pod| {
            let reason = pod.not_enforced.as_ref();
            pod.lost && reason.is_none_or(|why| *why != host_network)
        };
        let lost: Vec<&Pod> = status.pods.iter().filter(is_lost).collect();
        if let Some(first) = lost.first() {
            let more = match lost.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let why = first.not_enforced.as_deref().unwrap_or_default();
            wrong.push(format!("lost: {}{more}: {why}", first.name));
        }
        if !status.pauses.is_empty() {
            wrong.push("paused".into());
        }
        let guarded = |pod: &&Pod| !pod.enrolled && !pod.interfaces.is_empty();
        let since = seconds(&status.since);
        if since.is_none() {
            wrong.push(format!("it says `{}` for a time", status.since));
        }
        Self {
            node: node.into(),
            agent: Some(agent.into()),
            says: Some(Says {
                version: status.version,
                mode: status.mode,
                generation: status.generation,
                hash: status.hash,
                epoch: status.epoch,
                age_seconds: now.saturating_sub(since.unwrap_or(now)),
                policed: status.pods.iter().filter(|pod| pod.enrolled).count(),
                guarded: status.pods.iter().filter(guarded).count(),
                lost: lost.len(),
                paused: status.pauses.len(),
                capacity_percent: status.table.words * 100 / status.table.capacity_words.max(1),
            }),
            wrong,
        }
    }

    /// Notes where another bundle is in force than is wanted.
    pub fn compare(&mut self, wanted: &Wanted) {
        let Some(says) = &self.says else { return };
        if says.generation != wanted.generation {
            let (has, wanted) = (says.generation, wanted.generation);
            self.wrong.push(format!("generation {has}, not {wanted}"));
        } else if let Some(hash) = wanted.hash.as_ref().filter(|hash| **hash != says.hash) {
            self.wrong
                .push(format!("another bundle than {}", short(hash)));
        }
    }
}

/// Where nobody says which bundle is wanted: that of the highest generation, and of those the one
/// that most nodes have.
pub fn newest(rows: &[Row]) -> Option<Wanted> {
    let mut nodes: BTreeMap<(u64, &str), usize> = BTreeMap::new();
    for says in rows.iter().filter_map(|row| row.says.as_ref()) {
        *nodes.entry((says.generation, &says.hash)).or_default() += 1;
    }
    let ((generation, hash), _) = nodes
        .into_iter()
        .max_by_key(|((generation, _), count)| (*generation, *count))?;
    Some(Wanted {
        generation,
        hash: Some(hash.into()),
    })
}

fn seconds(rfc3339: &str) -> Option<u64> {
    policyc::clock::seconds(rfc3339).ok()
}

fn short(hash: &str) -> &str {
    hash.get(..HASH_DIGITS).unwrap_or(hash)
}

/// `37s`, `12m`, `5h`, `4d`
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

const HEAD: [&str; 13] = [
    "NODE",
    "AGENT",
    "VERSION",
    "MODE",
    "GENERATION",
    "HASH",
    "EPOCH",
    "AGE",
    "PODS",
    "GUARDED",
    "LOST",
    "PAUSED",
    "TABLE",
];

/// The rows for a terminal, what is wrong below.
pub struct Shown<'a>(pub &'a [Row]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<[String; 13]> = self.0.iter().map(cells).collect();
        let mut widths = HEAD.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.len());
            }
        }
        let mut line = |cells: &[&str]| {
            let mut text = String::new();
            for (width, cell) in widths.iter().zip(cells) {
                write!(text, "{cell:width$}  ")?;
            }
            writeln!(f, "{}", text.trim_end())
        };
        line(&HEAD)?;
        for row in &rows {
            line(&row.each_ref().map(String::as_str))?;
        }
        for row in self.0 {
            for wrong in &row.wrong {
                writeln!(f, "WRONG {}: {wrong}", row.node)?;
            }
        }
        Ok(())
    }
}

fn cells(row: &Row) -> [String; 13] {
    let nothing = || "-".to_owned();
    let node = row.node.clone();
    let agent = row.agent.clone().unwrap_or_else(|| "none".into());
    match &row.says {
        None => {
            let mut cells = std::array::from_fn(|_| nothing());
            cells[0] = node;
            cells[1] = agent;
            cells
        }
        Some(says) => [
            node,
            agent,
            says.version.clone(),
            says.mode.clone(),
            says.generation.to_string(),
            short(&says.hash).into(),
            says.epoch.to_string(),
            age(says.age_seconds),
            says.policed.to_string(),
            says.guarded.to_string(),
            says.lost.to_string(),
            says.paused.to_string(),
            format!("{} %", says.capacity_percent),
        ],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(node: &str, generation: u64, hash: &str, rest: serde_json::Value) -> Row {
        let mut status = json!({
            "version": "1", "mode": "enforce", "generation": generation, "epoch": 3, "hash": hash,
            "since": "1970-01-01T00:01:40Z", "not_ready": [], "pods": [], "pauses": [],
            "table": { "words": 50, "capacity_words": 200, "slot": 1 }, "unheard_of": true
        });
        for (key, value) in rest.as_object().expect("an object") {
            status[key] = value.clone();
        }
        let status = serde_json::from_value(status).expect("a status");
        Row::of(node, "agent", status, 160)
    }

    #[test]
    fn a_row_counts_pods_and_says_what_is_wrong() {
        let pod = |name: &str, interfaces: &[&str], enrolled: bool, why: Option<&str>| {
            json!({ "name": name, "interfaces": interfaces, "enrolled": enrolled,
                "lost": interfaces.is_empty(), "not_enforced": why })
        };
        let row = row(
            "one",
            7,
            "aa",
            json!({ "pods": [
                pod("shop/a", &["veth1"], true, None),
                pod("kube-system/b", &["veth2"], false, Some("its namespace is excluded")),
                pod("shop/c", &[], false, Some("gone")),
                pod("kube-system/d", &[], false, Some(&Lost::HostNetwork.to_string())),
            ], "not_ready": ["shop/e: skipped"], "pauses": [{}],
            "delivery": { "source": "oci:x", "trouble": "401" } }),
        );
        let says = row.says.expect("it answered");
        assert_eq!((says.policed, says.guarded, says.lost), (1, 1, 1));
        assert_eq!((says.age_seconds, says.capacity_percent), (60, 25));
        assert_eq!(
            row.wrong,
            [
                "shop/e: skipped",
                "no new bundle: 401",
                "lost: shop/c: gone",
                "paused"
            ]
        );
    }

    #[test]
    fn nodes_that_differ_from_the_newest_bundle_are_wrong() {
        let mut rows = vec![
            row("one", 7, "aa", json!({})),
            row("two", 6, "99", json!({})),
            row("three", 7, "aa", json!({})),
            row("four", 7, "bb", json!({})),
            Row::silent("five", None, "no agent".into()),
        ];
        let wanted = newest(&rows).expect("somebody answered");
        assert_eq!((wanted.generation, wanted.hash.as_deref()), (7, Some("aa")));
        for row in &mut rows {
            row.compare(&wanted);
        }
        let wrong: Vec<String> = rows.iter().map(|row| row.wrong.join(", ")).collect();
        let expected = [
            "",
            "generation 6, not 7",
            "",
            "another bundle than aa",
            "no agent",
        ];
        assert_eq!(wrong, expected);
        assert_eq!(newest(&[]), None);
    }
}
