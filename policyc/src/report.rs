//! What compiling came to, for people and for machines: sizes, labels, and how much of the table is
//! decided in the kernel.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use enforcer_ebpf::words;
use serde::Serialize;

use crate::{
    attach::Attachments,
    capacity::{self, Occupancy, RuleCost},
    cluster::{Cluster, Pod, Protocol},
    ir::Program,
    link::{self, Identity, LinkError, Local, NodeView, PodName, Source, Summary},
    lower::label::{Label, label},
};

/// The report of one compilation.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    pub policies: usize,
    pub rules: usize,
    pub atoms: usize,
    /// Pods, and workloads whose template stood for a pod.
    pub destinations: usize,
    /// Destinations that at least one policy applies to.
    pub policed: usize,
    pub labels: Vec<RuleLabel>,
    /// Of the largest node: the one with the most destinations.
    pub node: Option<String>,
    pub table: Summary,
    /// Part of the table's cells that the kernel decides alone, from 0 to 1.
    pub kernel_share: f64,
    /// Bytes of the table, of which a node has two, or three with a shadow.
    pub table_bytes: usize,
    /// How much of each limit is used.
    pub limits: Vec<Occupancy>,
    /// The rules that cost most, and why.
    pub costs: Vec<RuleCost>,
}

/// How one rule was lowered, on ports of each declared protocol that its destinations have.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RuleLabel {
    pub policy: String,
    pub rule: u32,
    pub line: u32,
    pub file: String,
    pub http: Label,
    pub tcp: Label,
    pub undeclared: Label,
}

/// Links the largest node and reports.
///
/// # Errors
/// A table beyond its limits.
pub fn report(program: &Program, cluster: &Cluster) -> Result<Report, LinkError> {
    let world = with_workloads(cluster);
    let attachments = Attachments::new(program);
    let policed = world
        .pods
        .iter()
        .filter(|pod| {
            !attachments
                .policies(&pod.namespace, &pod.template)
                .is_empty()
        })
        .count();
    let (node, local) = largest(&world);
    let view = NodeView {
        local,
        ..NodeView::default()
    };
    let linked = link::link(program, &world, &view, &unaddressed(&world))?;
    let table = linked.summary;
    Ok(Report {
        policies: program.policies.len(),
        rules: program.policies.iter().map(|p| p.rules.len()).sum(),
        atoms: program.atoms.len(),
        destinations: world.pods.len(),
        policed,
        labels: labels(program),
        node,
        kernel_share: share(&table),
        table_bytes: table.words * 4,
        limits: capacity::limits(program, &linked),
        costs: capacity::costs(program, &world, &linked)?,
        table,
    })
}

/// Who has no address yet, and will have one where the table is enforced: workloads without pods.
fn unaddressed(world: &Cluster) -> Vec<Source> {
    let pods = world.pods.iter();
    let identities: BTreeSet<Identity> = pods
        .filter(|pod| pod.ips.is_empty() && !pod.finished && !pod.template.host_network)
        .map(|pod| Identity {
            trust_domain: world.mesh.trust_domain.clone(),
            namespace: pod.namespace.clone(),
            service_account: pod.template.service_account.clone(),
        })
        .collect();
    let source = |identity| Source {
        identity: Some(identity),
        address: None,
    };
    identities.into_iter().map(source).collect()
}

/// The cluster with a pod for each workload that has none of its own: a folder of Deployments is a
/// cluster too.
pub fn with_workloads(cluster: &Cluster) -> Cow<'_, Cluster> {
    let pods: BTreeSet<(&str, &str)> = cluster
        .pods
        .iter()
        .map(|p| (p.namespace.as_str(), p.name.as_str()))
        .collect();
    let templates: BTreeSet<_> = cluster
        .pods
        .iter()
        .map(|p| (p.namespace.as_str(), &p.template.labels))
        .collect();
    let mut added: BTreeMap<PodName, Pod> = BTreeMap::new();
    for workload in &cluster.workloads {
        let known = pods.contains(&(workload.namespace.as_str(), workload.name.as_str()))
            || templates.contains(&(workload.namespace.as_str(), &workload.template.labels));
        if !known {
            added.insert(
                (workload.namespace.clone(), workload.name.clone()),
                Pod {
                    document: workload.document,
                    object: workload.object.clone(),
                    namespace: workload.namespace.clone(),
                    name: workload.name.clone(),
                    template: workload.template.clone(),
                    ..Pod::default()
                },
            );
        }
    }
    if added.is_empty() {
        return Cow::Borrowed(cluster);
    }
    let mut world = cluster.clone();
    world
        .pods
        .extend(added.into_values().map(std::sync::Arc::new));
    Cow::Owned(world)
}

/// All pods where one table can hold them, else the pods of the node that has the most.
fn largest(world: &Cluster) -> (Option<String>, Local) {
    let mut nodes: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in &world.pods {
        if let Some(node) = &pod.node {
            *nodes.entry(node).or_default() += 1;
        }
    }
    match nodes
        .into_iter()
        .max_by_key(|(name, pods)| (*pods, std::cmp::Reverse(*name)))
    {
        Some((node, _)) if nodes_matter(world) => (Some(node.into()), Local::Node(node.into())),
        _ => (None, Local::All),
    }
}

fn nodes_matter(world: &Cluster) -> bool {
    world.pods.len() > words::LOCAL_SCOPES_MAX as usize
}

/// The labels of all rules, in order.
pub fn labels(program: &Program) -> Vec<RuleLabel> {
    let mut labels = Vec::new();
    for policy in &program.policies {
        for ((number, rule), line) in (0u32..).zip(&policy.rules).zip(&policy.lines) {
            labels.push(RuleLabel {
                policy: policy.qualified_name(),
                rule: number,
                line: *line,
                file: policy.file.clone(),
                http: label(program, policy, rule, Protocol::Http),
                tcp: label(program, policy, rule, Protocol::Tcp),
                undeclared: label(program, policy, rule, Protocol::Undeclared),
            });
        }
    }
    labels
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a share for people needs no more than 52 bits"
)]
fn share(table: &Summary) -> f64 {
    let all = table.cells_decided + table.cells_asked;
    if all == 0 {
        1.0
    } else {
        table.cells_decided as f64 / all as f64
    }
}

/// Rules that are listed one by one; more are only counted.
const LISTED: usize = 40;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = format!("{:.1} %", self.kernel_share * 100.0);
        let mut line = |what: &str, value: &dyn fmt::Display, note: String| {
            let line = format!("{what:<25} {value:>9}  {note}");
            writeln!(f, "{}", line.trim_end())
        };
        line("policies", &self.policies, String::new())?;
        line("rules", &self.rules, String::new())?;
        line("workloads and pods", &self.destinations, String::new())?;
        line("  under a policy", &self.policed, String::new())?;
        if let Some(node) = &self.node {
            line("the largest node", &node, String::new())?;
        }
        line(
            "port classes, at most",
            &self.table.port_classes,
            String::new(),
        )?;
        line("table bytes", &self.table_bytes, "in each slot".into())?;
        line("decided in the kernel", &share, "of cells".into())?;
        writeln!(f)?;
        for limit in &self.limits {
            writeln!(f, "{limit}")?;
        }
        if !self.labels.is_empty() {
            write!(f, "\n{}", Table(&self.labels))?;
        }
        if !self.costs.is_empty() {
            writeln!(f, "\nrules that cost most")?;
        }
        for cost in &self.costs {
            writeln!(f, "{cost}")?;
        }
        Ok(())
    }
}

/// Labels for people: a line a rule. No rules are no text.
pub struct Table<'a>(pub &'a [RuleLabel]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "{:<40} {:<12} {:<13} undeclared port",
            "rule", "http port", "tcp port"
        )?;
        for rule in self.0.iter().take(LISTED) {
            writeln!(
                f,
                "{:<40} {:<12} {:<13} {}",
                format!("{} rule {}", rule.policy, rule.rule),
                rule.http.name(),
                rule.tcp.name(),
                rule.undeclared.name()
            )?;
        }
        if self.0.len() > LISTED {
            writeln!(f, "... and {} more", self.0.len() - LISTED)?;
        }
        Ok(())
    }
}
