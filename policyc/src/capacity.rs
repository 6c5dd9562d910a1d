//! How much of each limit a table uses, and which rules use it.

mod cost;

use std::{collections::BTreeSet, fmt};

use enforcer_ebpf::{flow, words};
use serde::Serialize;

pub use cost::{RuleCost, costs};

use crate::{
    ir::{Atom, Program},
    link::Linked,
};

/// A limit, and how much of it is used.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Occupancy {
    /// As the README's table of limits names it.
    pub what: &'static str,
    /// `None`: what is used shows only while the agent runs.
    pub count: Option<usize>,
    pub limit: usize,
}

/// Every limit of the README's table.
pub fn limits(program: &Program, linked: &Linked) -> Vec<Occupancy> {
    let blocks: BTreeSet<_> = program
        .atoms
        .iter()
        .filter_map(|atom| match atom {
            Atom::SourceIp(net) | Atom::RemoteIp(net) => Some(net),
            _ => None,
        })
        .collect();
    let table = linked.summary;
    let used = |what, count, limit: u32| Occupancy {
        what,
        count: Some(count),
        limit: limit as usize,
    };
    let later = |what, limit: u32| Occupancy {
        what,
        count: None,
        limit: limit as usize,
    };
    vec![
        used("table words", table.words, words::CAPACITY_MAX),
        used("source addresses", table.addresses, words::ADDRESSES_MAX),
        used("source classes", table.source_classes, words::CLASSES_MAX),
        used(
            "IP blocks that policies name",
            blocks.len(),
            words::IP_BLOCKS_MAX,
        ),
        used("pods on one node", linked.pods.len(), words::LOCAL_PODS_MAX),
        used(
            "distinct scopes on one node",
            table.scopes,
            words::LOCAL_SCOPES_MAX,
        ),
        // Record 0, which no cell names, takes a place as well.
        used(
            "attribution records on one node",
            table.records + 1,
            words::RECORDS_MAX,
        ),
        later("connections that one pod holds open", flow::OUT_PER_POD_MAX),
        later(
            "connections that all pods of a node hold open",
            flow::OUT_MAX,
        ),
        later("connections through the proxy", PROXY_CONNECTIONS_MAX),
        later(
            "connections through the proxy from one source",
            PROXY_CONNECTIONS_PER_SOURCE_MAX,
        ),
    ]
}

/// The agent's own default; fewer where it may not open so many sockets.
const PROXY_CONNECTIONS_MAX: u32 = 16_384;
const PROXY_CONNECTIONS_PER_SOURCE_MAX: u32 = 4_096;

/// `source classes    812 of 65536, 1.2 %`
impl fmt::Display for Occupancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, count, limit } = self;
        match count {
            Some(count) => {
                let thousandths = count.saturating_mul(1000).div_ceil(*limit);
                let (whole, part) = (thousandths / 10, thousandths % 10);
                write!(f, "{what:<46} {count:>9} of {limit}, {whole}.{part} %")
            }
            None => write!(f, "{what:<46} {:>9} {limit}, counted while running", "of"),
        }
    }
}
