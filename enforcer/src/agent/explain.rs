//! Why a request is let through or refused by what is active: the account that `policyc explain`
//! gives, of the active bundle and this node's inventory, and the live table's own word beside it.

use std::net::IpAddr;

use enforcer_ebpf::{
    decide::{address_v4, address_v6, decide, pod_by_slot},
    words::{Words, pod},
};
use policyc::{
    explain::{Explanation, explain},
    request::{Request, SourceRef},
};
use serde::{Deserialize, Serialize};

use super::{Agent, OrderError, State};
use crate::{apply::Generation, report::line, table::Tables};

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explained {
    /// As `policyc explain` prints it.
    pub text: String,
    /// The same with `--format json`.
    pub json: String,
    pub epoch: u32,
    pub live: Live,
}

/// What the table in the kernel says of source, destination and port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Live {
    /// The same.
    Agrees { cell: u32, verdict: String },
    /// Something else, which must not be.
    Disagrees { cell: u32, verdict: String },
    /// It was not asked.
    Unasked { why: String },
}

/// The live table.
struct Active<'a>(&'a Tables);

impl Words for Active<'_> {
    fn at(&self, index: u32) -> u32 {
        self.0.read_active(index)
    }
}

impl Agent {
    /// Explains a request. `now` is in seconds since 1970.
    pub fn explain(&self, request: &Request, now: u64) -> Result<Explained, OrderError> {
        let state = &*self.state();
        let active = self.active.load_full().ok_or(OrderError::NoTable)?;
        let loaded = super::relink::again(&active);
        let cluster = &state.inventory.cluster;
        let explanation = explain(&loaded.bundle.program, cluster, request, now)
            .map_err(OrderError::Unexplained)?;
        Ok(Explained {
            text: explanation.to_string(),
            json: serde_json::to_string_pretty(&explanation)
                .map_err(|error| OrderError::Unexplained(error.to_string()))?
                + "\n",
            epoch: active.epoch,
            live: live(state, &active, request, &explanation),
        })
    }
}

fn live(state: &State, active: &Generation, request: &Request, said: &Explanation) -> Live {
    let words = Active(&state.tables);
    let cell = match ends(state, active, request) {
        Ok((source, slot)) => {
            let class = match source {
                IpAddr::V4(ip) => address_v4(&words, ip.to_bits()),
                IpAddr::V6(ip) => address_v6(&words, &quarters(ip)),
            };
            let scope = match source {
                IpAddr::V4(_) => pod::SCOPE_V4,
                IpAddr::V6(_) => pod::SCOPE_V6,
            };
            let scope = words.at(pod_by_slot(&words, slot) + scope);
            decide(&words, scope, class.class(), request.port.into())
        }
        Err(why) => return Live::Unasked { why: why.into() },
    };
    let verdict = line::of_cell(cell).to_string();
    match verdict == said.walk.cell_verdict {
        true => Live::Agrees {
            cell: cell.0,
            verdict,
        },
        false => Live::Disagrees {
            cell: cell.0,
            verdict,
        },
    }
}

/// The source's address, and the slot of the destination.
fn ends(
    state: &State,
    active: &Generation,
    request: &Request,
) -> Result<(IpAddr, u32), &'static str> {
    if request.src_trust_domain.is_some() {
        return Err("the table knows its pods' trust domain only");
    }
    let local = active
        .pods
        .iter()
        .find(|pod| format!("{}/{}", pod.namespace, pod.name) == request.dst)
        .ok_or("the destination is no pod of this node")?;
    if !local.enrolled {
        return Err("the destination is not enforced on this node");
    }
    let source = match (&request.src, request.src_ip) {
        (SourceRef::Ip(source), _) => Some(source.ip),
        (SourceRef::Pod(name), given) => {
            let pods = &state.inventory.cluster.pods;
            let pod = pods
                .iter()
                .find(|pod| format!("{}/{}", pod.namespace, pod.name) == *name);
            let own = pod.map(|pod| &pod.ips[..]).unwrap_or_default();
            match given {
                Some(given) => own.contains(&given).then_some(given),
                None => own.first().copied(),
            }
        }
        (SourceRef::ServiceAccount(_), _) => None,
    };
    let source = source.ok_or("the source is no address that the table holds")?;
    Ok((source, local.slot))
}

fn quarters(ip: std::net::Ipv6Addr) -> [u32; 4] {
    let s = ip.segments();
    [0, 2, 4, 6].map(|i| u32::from(s[i]) << 16 | u32::from(s[i + 1]))
}
