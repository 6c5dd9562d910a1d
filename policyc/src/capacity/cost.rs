//! What each rule costs: what the table would be smaller without it.
//!
//! Only what a rule alone names counts for it. A principal that two rules name splits the classes
//! whichever of them goes, so neither is the one to be blamed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
};

use enforcer_ebpf::words::{Cell, Verdict, scope as scope_words};
use serde::Serialize;

use crate::{
    attach::Attachments,
    cluster::{Cluster, Service},
    ir::{Action, AtomId, Fact, PolicyId, Program, Residual, ResidualRule, Rule, RuleRef},
    link::{
        LinkError, Linked,
        classes::Closed,
        project::{Answers, answers},
        scopes::keys,
    },
    lower::scope::{Scope, ScopeKey, atoms, questions},
};

/// Rules that are listed.
const LISTED: usize = 10;

/// What a rule costs. A rule that costs nothing is not listed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RuleCost {
    /// `namespace/name`
    pub policy: String,
    pub rule: u32,
    pub file: String,
    pub line: u32,
    /// Source classes that there would be fewer without it.
    pub classes: usize,
    /// Rows that scopes would have fewer without it, before equal ones are shared.
    pub rows: usize,
    /// Cells that go to userspace, and in which its answer is still open.
    pub asks: usize,
    /// The reason, in words.
    pub why: String,
}

#[derive(Clone, Copy, Default)]
struct Cost {
    classes: usize,
    rows: usize,
    asks: usize,
}

/// The rules that cost most, the dearest first.
///
/// # Errors
/// An inventory that contradicts itself.
pub fn costs(
    program: &Program,
    world: &Cluster,
    linked: &Linked,
) -> Result<Vec<RuleCost>, LinkError> {
    let mut costs: BTreeMap<RuleRef, Cost> = BTreeMap::new();
    for (rule, classes) in classes(program, &linked.classes) {
        costs.entry(rule).or_default().classes += classes;
    }
    for key in scopes(program, world, linked)? {
        let scope = Scope::new(program, key);
        for (rule, rows) in rows(&scope, &linked.classes) {
            costs.entry(rule).or_default().rows += rows;
        }
    }
    for (rule, cells) in asks(linked) {
        costs.entry(rule).or_default().asks += cells;
    }
    let mut dearest: Vec<(RuleRef, Cost)> = costs
        .into_iter()
        .filter(|(_, cost)| cost.total() > 0)
        .collect();
    // Ties stay in the order of policies.
    dearest.sort_by_key(|(_, cost)| std::cmp::Reverse(cost.total()));
    dearest.truncate(LISTED);
    Ok(dearest
        .into_iter()
        .filter_map(|(rule, cost)| told(program, rule, cost))
        .collect())
}

impl Cost {
    fn total(self) -> usize {
        self.classes + self.rows + self.asks
    }
}

/// All rules with their names.
fn rules(program: &Program) -> impl Iterator<Item = (RuleRef, &Rule)> {
    (0u32..)
        .zip(&program.policies)
        .flat_map(|(policy, written)| {
            let numbered = (0u32..).zip(&written.rules);
            numbered.map(move |(rule, written)| {
                let policy = PolicyId(policy);
                (RuleRef { policy, rule }, written)
            })
        })
}

/// Classes that each rule alone splits off.
fn classes(program: &Program, classes: &Closed) -> Vec<(RuleRef, usize)> {
    let mut owners: HashMap<AtomId, Option<RuleRef>> = HashMap::new();
    for (rule, written) in rules(program) {
        for atom in atoms(written) {
            let owner = owners.entry(atom).or_insert(Some(rule));
            if *owner != Some(rule) {
                *owner = None;
            }
        }
    }
    let known: HashSet<&[AtomId]> = classes.signatures.iter().map(Vec::as_slice).collect();
    let mut own: BTreeMap<RuleRef, BTreeSet<u16>> = BTreeMap::new();
    for (atom, owner) in &owners {
        if let (Some(owner), Some(of)) = (owner, classes.by_atom.get(atom)) {
            own.entry(*owner).or_default().extend(of);
        }
    }
    let without = |rule: RuleRef, class: &u16| -> Vec<AtomId> {
        let atoms = classes.signatures.get(usize::from(*class));
        let kept = |atom: &&AtomId| owners.get(*atom) != Some(&Some(rule));
        atoms.into_iter().flatten().filter(kept).copied().collect()
    };
    own.into_iter()
        .map(|(rule, of)| {
            let left: HashSet<Vec<AtomId>> = of.iter().map(|class| without(rule, class)).collect();
            let new = left.iter().filter(|left| !known.contains(left.as_slice()));
            (rule, of.len() - new.count())
        })
        .collect()
}

/// The distinct scopes of the linked pods.
fn scopes(
    program: &Program,
    world: &Cluster,
    linked: &Linked,
) -> Result<BTreeSet<ScopeKey>, LinkError> {
    let attachments = Attachments::new(program);
    let mut services: BTreeMap<&str, Vec<&Service>> = BTreeMap::new();
    for service in &world.services {
        services
            .entry(&service.namespace)
            .or_default()
            .push(service);
    }
    let local: HashSet<(&str, &str)> = linked
        .pods
        .iter()
        .map(|pod| (pod.namespace.as_str(), pod.name.as_str()))
        .collect();
    let mut scopes = BTreeSet::new();
    for pod in &world.pods {
        if local.contains(&(pod.namespace.as_str(), pod.name.as_str())) {
            let near = services.get(pod.namespace.as_str());
            let near = near.map_or(&[][..], Vec::as_slice);
            scopes.extend(keys(program, &attachments, near, pod)?);
        }
    }
    Ok(scopes)
}

/// Rows of a scope that each rule alone tells apart.
fn rows(scope: &Scope<'_>, classes: &Closed) -> Vec<(RuleRef, usize)> {
    let Answers { by_class, asked } = answers(scope, classes);
    let mut owners: HashMap<u32, Option<RuleRef>> = HashMap::new();
    for staged in scope.staged() {
        for question in questions(staged.rule) {
            if let Some(number) = asked.get(question.any.as_slice()) {
                let owner = owners.entry(*number).or_insert(Some(staged.reference));
                if *owner != Some(staged.reference) {
                    *owner = None;
                }
            }
        }
    }
    let mut known: BTreeSet<&[u32]> = by_class.values().map(Vec::as_slice).collect();
    if by_class.len() < classes.signatures.len() {
        known.insert(&[]);
    }
    let mut own: BTreeMap<RuleRef, Vec<&[u32]>> = BTreeMap::new();
    for row in &known {
        let of: BTreeSet<RuleRef> = row
            .iter()
            .filter_map(|question| owners.get(question).copied().flatten())
            .collect();
        for rule in of {
            own.entry(rule).or_default().push(row);
        }
    }
    own.into_iter()
        .map(|(rule, rows)| {
            let kept = |question: &&u32| owners.get(*question) != Some(&Some(rule));
            let left: HashSet<Vec<u32>> = rows
                .iter()
                .map(|row| row.iter().filter(kept).copied().collect())
                .collect();
            let new = left.iter().filter(|left| !known.contains(left.as_slice()));
            (rule, rows.len() - new.count())
        })
        .collect()
}

/// Cells that go to userspace, by the rules that are left open in them.
fn asks(linked: &Linked) -> BTreeMap<RuleRef, usize> {
    let mut cells: BTreeMap<u32, usize> = BTreeMap::new();
    let scopes: BTreeSet<u32> = linked
        .pods
        .iter()
        .flat_map(|pod| [pod.scope_v4, pod.scope_v6])
        .collect();
    for scope in scopes {
        let at = scope as usize;
        let first = linked.words.get(at + scope_words::CELLS as usize);
        // A scope's cells stand in front of it.
        let row = first.and_then(|first| linked.words.get(*first as usize..at));
        for cell in row.into_iter().flatten().map(|word| Cell(*word)) {
            if cell.verdict() == Verdict::Ask {
                *cells.entry(cell.record()).or_default() += 1;
            }
        }
    }
    let mut asks = BTreeMap::new();
    for (record, count) in cells {
        let record = linked.records.get(record as usize);
        let residual = record.and_then(|record| linked.residuals.get(record.residual as usize));
        for rule in residual.map(open).unwrap_or_default() {
            *asks.entry(rule).or_default() += count;
        }
    }
    asks
}

/// The rules on which the verdict still depends.
fn open(residual: &Residual) -> BTreeSet<RuleRef> {
    let stages = residual.http.iter().chain([&residual.tcp]);
    let depends = |rule: &&ResidualRule| !rule.clauses.is_empty();
    stages
        .flat_map(|stages| {
            let matching = stages.deny.iter().chain(&stages.allow).filter(depends);
            // Whatever matches a CUSTOM rule is asked of its provider.
            stages.custom.iter().chain(matching).map(|rule| rule.rule)
        })
        .collect()
}

fn told(program: &Program, rule: RuleRef, cost: Cost) -> Option<RuleCost> {
    let policy = program.policies.get(rule.policy.index())?;
    let number = usize::try_from(rule.rule).ok()?;
    let written = policy.rules.get(number)?;
    Some(RuleCost {
        policy: policy.qualified_name(),
        rule: rule.rule,
        file: policy.file.clone(),
        line: policy.lines.get(number).copied().unwrap_or(0),
        classes: cost.classes,
        rows: cost.rows,
        asks: cost.asks,
        why: why(program, &policy.action, written, cost),
    })
}

fn why(program: &Program, action: &Action, rule: &Rule, cost: Cost) -> String {
    let mut sources: BTreeMap<String, usize> = BTreeMap::new();
    let mut asked: BTreeSet<String> = BTreeSet::new();
    for atom in atoms(rule).collect::<BTreeSet<_>>() {
        let Some(atom) = program.atoms.get(atom.index()) else {
            continue;
        };
        match atom.fact() {
            Fact::Source => *sources.entry(atom.field()).or_default() += 1,
            Fact::RemoteAddress => {
                *sources.entry(atom.field()).or_default() += 1;
                asked.insert(atom.field());
            }
            Fact::ServerName | Fact::Http => {
                asked.insert(atom.field());
            }
            Fact::Destination | Fact::Nothing => {}
        }
    }
    let mut why = Vec::new();
    if cost.classes + cost.rows > 0 {
        let named: Vec<String> = sources
            .iter()
            .map(|(field, count)| format!("{count} x {field}"))
            .collect();
        why.push(format!(
            "tells sources apart that no other rule does ({})",
            named.join(", ")
        ));
    }
    if cost.asks > 0 {
        let provider = match action {
            Action::Custom { provider } => Some(format!("provider {provider}")),
            _ => None,
        };
        let asked: Vec<String> = asked.into_iter().chain(provider).collect();
        why.push(format!("needs {}, which userspace reads", asked.join(", ")));
    }
    why.join("; ")
}

/// `default/p rule 0 (p.yaml:12)  12 classes, 3 rows, 40 cells to userspace: ...`
impl fmt::Display for RuleCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rule {} ({}:{})  {} classes, {} rows, {} cells to userspace: {}",
            self.policy,
            self.rule,
            self.file,
            self.line,
            self.classes,
            self.rows,
            self.asks,
            self.why
        )
    }
}

#[cfg(test)]
mod tests;
