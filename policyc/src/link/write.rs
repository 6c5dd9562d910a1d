//! Writes the sections of a table in order, and the records that its cells name.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use enforcer_ebpf::{
    decide::{address_v4, address_v6},
    words::{
        self, ABI, BUCKET, CAPACITY_MAX, Cell, INTERFACE_ENTRY, LOCAL_SCOPES_MAX, MAGIC,
        RECORDS_MAX, header, interface_bucket, pod, pod_flags,
    },
};
use petgraph::graph::NodeIndex;

use super::{
    Interface, LinkError, Linked, LinkedPod, NodeView, Record, Slotted, Summary,
    addresses::{FULL, count, offset, parts as address_parts, set},
    classes::Closed,
    host::HostScopes,
    index,
    scopes::PodScopes,
};
use crate::{
    cluster::Pod,
    lower::{
        cell::Decided,
        graph::{DecisionGraph, Node},
    },
};

/// Everything that was found out, to be written.
pub(crate) struct Parts<'a> {
    pub node: &'a NodeView,
    pub pods: Vec<Slotted<'a>>,
    pub scopes: Vec<PodScopes>,
    /// The header and all addresses.
    pub words: Vec<u32>,
    /// How many addresses and ranges these are.
    pub addresses: usize,
    pub disputed: BTreeSet<IpAddr>,
    pub graph: DecisionGraph,
    pub classes: Closed,
    pub extra_classes: Vec<u16>,
}

/// Writes everything but the addresses, behind these.
pub(crate) fn write(mut parts: Parts<'_>) -> Result<Linked, LinkError> {
    let mut words = std::mem::take(&mut parts.words);
    let mut records = Records::new(&parts.graph)?;
    let mut tables = ScopeTables::default();
    let mut scopes = Vec::with_capacity(parts.scopes.len());
    for pod in &parts.scopes {
        let v4 = tables.write(&mut words, &parts.graph, &mut records, pod.v4)?;
        let v6 = tables.write(&mut words, &parts.graph, &mut records, pod.v6)?;
        scopes.push((v4, v6));
    }
    let (pods, first) = pods(&mut words, &parts, &scopes)?;
    interfaces(&mut words, &parts, first)?;

    let capacity = if parts.node.capacity == 0 {
        CAPACITY_MAX
    } else {
        parts.node.capacity
    };
    LinkError::capacity("table words", words.len(), capacity, FULL)?;
    let length = count(words.len());
    for (index, word) in [
        (header::MAGIC, MAGIC),
        (header::ABI, ABI),
        (header::LENGTH, length),
        (header::EPOCH, parts.node.epoch),
        (header::OPTIONS, parts.node.options),
        (header::RECORDS_COUNT, count(records.records.len())),
    ] {
        set(&mut words, index, word);
    }
    let summary = Summary {
        scopes: tables.written.len(),
        source_classes: parts.classes.count,
        port_classes: tables.widest,
        records: records.records.len() - 1,
        words: words.len(),
        addresses: parts.addresses,
        cells_decided: tables.decided,
        cells_asked: tables.asked,
    };
    Ok(Linked {
        words,
        records: records.records,
        residuals: records.residuals,
        pods,
        extra_classes: parts.extra_classes,
        disputed: parts.disputed,
        classes: parts.classes,
        summary,
    })
}

/// Records in the order in which their cells were first met.
struct Records {
    records: Vec<Record>,
    residuals: Vec<crate::ir::Residual>,
    cells: HashMap<NodeIndex, Cell>,
}

impl Records {
    fn new(graph: &DecisionGraph) -> Result<Self, LinkError> {
        LinkError::capacity(
            "attribution records",
            graph.cells().len() + 1,
            RECORDS_MAX,
            "let fewer distinct rules decide on this node",
        )?;
        let nothing = Record {
            verdict: Decided::Deny,
            cause: crate::request::Cause::NoAllowMatched,
            rule: None,
            audit: Vec::new(),
            dry_run: Vec::new(),
            residual: 0,
        };
        let mut records = Self {
            records: vec![nothing],
            residuals: vec![crate::ir::Residual::default()],
            cells: HashMap::new(),
        };
        let mut numbers: HashMap<&crate::ir::Residual, u32> = HashMap::new();
        for &node in graph.cells() {
            let Some(Node::Cell(data)) = graph.node(node) else {
                continue;
            };
            let residual = match numbers.get(&data.residual) {
                Some(&number) => number,
                None => {
                    let number = count(records.residuals.len());
                    records.residuals.push(data.residual.clone());
                    numbers.insert(&data.residual, number);
                    number
                }
            };
            let number = count(records.records.len());
            let cell = Cell::new(
                data.verdict.into(),
                !data.audit.is_empty(),
                !data.dry_run.is_empty(),
                number,
            );
            records.cells.insert(node, cell);
            records.records.push(Record {
                verdict: data.verdict,
                cause: data.cause,
                rule: data.rule,
                audit: data.audit.clone(),
                dry_run: data.dry_run.clone(),
                residual,
            });
        }
        Ok(records)
    }
}

/// Scopes that were written already.
#[derive(Default)]
struct ScopeTables {
    written: HashMap<NodeIndex, u32>,
    widest: usize,
    decided: usize,
    asked: usize,
}

impl ScopeTables {
    fn write(
        &mut self,
        words: &mut Vec<u32>,
        graph: &DecisionGraph,
        records: &mut Records,
        node: NodeIndex,
    ) -> Result<u32, LinkError> {
        if let Some(&at) = self.written.get(&node) {
            return Ok(at);
        }
        LinkError::capacity(
            "distinct scopes on one node",
            self.written.len() + 1,
            LOCAL_SCOPES_MAX,
            "let more pods share the same set of policies",
        )?;
        let Some(Node::Scope(scope)) = graph.node(node) else {
            return Ok(0);
        };
        let ports = index::write(words, &scope.ports)?;
        let classes = index::write(words, &scope.classes)?;
        let cells = offset(words)?;
        let mut width = 0;
        for row in graph.children(node) {
            let row = graph.children(row);
            width = row.len();
            for cell in row {
                let cell = records.cells.get(&cell).copied().unwrap_or(Cell::NOTHING);
                match cell.verdict() {
                    words::Verdict::Ask => self.asked += 1,
                    words::Verdict::Allow | words::Verdict::Deny => self.decided += 1,
                }
                words.push(cell.0);
            }
            LinkError::capacity("table words", words.len(), CAPACITY_MAX, FULL)?;
        }
        let at = offset(words)?;
        words.extend([ports, classes, cells, count(width)]);
        self.widest = self.widest.max(width);
        self.written.insert(node, at);
        Ok(at)
    }
}

/// The interface buckets. `pods` is the offset of the pod in slot 0.
fn interfaces(words: &mut Vec<u32>, parts: &Parts<'_>, pods: u32) -> Result<(), LinkError> {
    let mut entries: Vec<(u32, u32)> = Vec::new();
    for slotted in &parts.pods {
        let found = known_interfaces(parts.node, slotted);
        entries.extend(
            found
                .iter()
                .map(|interface| (interface.ifindex, pods + slotted.slot * pod::WORDS)),
        );
    }
    entries.sort_unstable();
    if entries.is_empty() {
        return Ok(());
    }
    let mut bits = 0;
    let buckets = loop {
        let mut buckets: Vec<Vec<(u32, u32)>> = vec![Vec::new(); 1 << bits];
        for entry in &entries {
            if let Some(bucket) = buckets.get_mut(interface_bucket(entry.0, bits) as usize) {
                bucket.push(*entry);
            }
        }
        if buckets.iter().all(|bucket| bucket.len() <= BUCKET as usize) {
            break buckets;
        }
        bits += 1;
        LinkError::capacity(
            "doublings of the interfaces",
            bits as usize,
            20,
            "restart the node",
        )?;
    };
    let at = offset(words)?;
    set(words, header::INTERFACES, at);
    set(words, header::INTERFACES_BITS, bits);
    for bucket in buckets {
        let free = (BUCKET as usize - bucket.len()) * INTERFACE_ENTRY as usize;
        for (ifindex, at) in bucket {
            words.extend([ifindex, at]);
        }
        words.extend(std::iter::repeat_n(0, free));
    }
    Ok(())
}

/// The pods by slot, and the offset of the first. A slot that no pod has is all zero: not enrolled,
/// no scope.
fn pods(
    words: &mut Vec<u32>,
    parts: &Parts<'_>,
    scopes: &[(u32, u32)],
) -> Result<(Vec<LinkedPod>, u32), LinkError> {
    let mut hosts = HostScopes::default();
    let mut rows = Vec::with_capacity(parts.pods.len());
    let mut linked = Vec::with_capacity(parts.pods.len());
    for ((slotted, (scope_v4, scope_v6)), nodes) in parts.pods.iter().zip(scopes).zip(&parts.scopes)
    {
        let pod_ = slotted.pod;
        let name = (pod_.namespace.clone(), pod_.name.clone());
        let enrolled = !parts.node.excluded_namespaces.contains(&pod_.namespace)
            && !parts.node.guarded_only.contains(&name);
        let asks = [nodes.v4, nodes.v6]
            .into_iter()
            .any(|node| asks(&parts.graph, node));
        let mut flags = parts.node.pod_flags.get(&name).copied().unwrap_or(0);
        if enrolled {
            flags |= pod_flags::ENROLLED;
        }
        if asks {
            flags |= pod_flags::PROXIED;
        }
        let interface = known_interfaces(parts.node, slotted)
            .first()
            .copied()
            .unwrap_or_default();
        let host = hosts.write(words, parts.node.host, &pod_.template.probe_ports)?;
        let mut row = [0; pod::WORDS as usize];
        for (index, word) in [
            (pod::SCOPE_V4, *scope_v4),
            (pod::SCOPE_V6, *scope_v6),
            (pod::FLAGS, flags),
            (pod::BRIDGE, interface.bridge),
            (pod::NETNS_ID, interface.netns_id),
            (pod::HOST_SCOPE, host),
            (pod::INTERFACE, interface.ifindex),
            (pod::CLASS_V4, class_of(words, pod_, false)),
            (pod::CLASS_V6, class_of(words, pod_, true)),
        ] {
            set(&mut row, index, word);
        }
        rows.push((slotted.slot, row));
        linked.push(LinkedPod {
            namespace: pod_.namespace.clone(),
            name: pod_.name.clone(),
            slot: slotted.slot,
            scope_v4: *scope_v4,
            scope_v6: *scope_v6,
            enrolled,
            asks,
        });
    }
    let slots = rows.iter().map(|(slot, _)| slot + 1).max().unwrap_or(0);
    let at = words.len();
    let start = offset(words)?;
    set(words, header::PODS, start);
    set(words, header::PODS_COUNT, slots);
    words.resize(at + slots as usize * pod::WORDS as usize, 0);
    for (slot, row) in rows {
        let at = at + slot as usize * pod::WORDS as usize;
        if let Some(place) = words.get_mut(at..at + row.len()) {
            place.copy_from_slice(&row);
        }
    }
    Ok((linked, start))
}

/// Source class of the pod's first address of a family, as the identity map has it; 0 without one.
fn class_of(words: &[u32], pod: &Pod, v6: bool) -> u32 {
    match pod.ips.iter().find(|ip| ip.is_ipv6() == v6) {
        Some(IpAddr::V4(ip)) => address_v4(words, ip.to_bits()).class(),
        Some(IpAddr::V6(ip)) => address_v6(words, &address_parts(ip.to_bits())).class(),
        None => 0,
    }
}

fn known_interfaces<'a>(node: &'a NodeView, slotted: &Slotted<'_>) -> &'a [Interface] {
    node.interfaces
        .get(&(slotted.pod.namespace.clone(), slotted.pod.name.clone()))
        .map_or(&[], Vec::as_slice)
}

/// Whether a scope has a cell that asks userspace.
fn asks(graph: &DecisionGraph, scope: NodeIndex) -> bool {
    graph.children(scope).into_iter().flat_map(|row| graph.children(row)).any(
        |cell| matches!(graph.node(cell), Some(Node::Cell(data)) if data.verdict == Decided::Ask),
    )
}
