//! Rules that another rule of the same action covers: they change nothing.

use std::collections::{BTreeMap, HashMap};

use super::{
    cover::Parts,
    value::Values,
    world::{World, applies_wherever, name, rule_path, rules},
};
use crate::{
    ast::{Action, AuthorizationPolicy},
    diagnostic::{Code, Diagnostic, Severity},
};

/// Rules compared with one another among policies that may apply to the same workloads. Past that,
/// only rules of one policy are compared: the work grows with the square.
const GROUP_MAX: usize = 512;
/// Values in such a group, for the same reason.
const VALUES_MAX: usize = 4_096;

/// Policies of one namespace with the same action: namespace, action, provider, dry-run.
type Group<'a> = (&'a str, u8, &'a str, bool);

/// A rule, and the policy that it is in.
struct Member<'a> {
    policy: &'a AuthorizationPolicy,
    number: usize,
    parts: Parts<'a>,
}

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut groups: BTreeMap<Group<'_>, Vec<Member<'_>>> = BTreeMap::new();
    for (_, policy) in world.policies() {
        if policy.attachment.target_refs.is_empty() {
            let group = groups.entry(group(policy)).or_default();
            group.extend(rules(policy).map(|(number, rule)| Member {
                policy,
                number,
                parts: Parts::new(rule),
            }));
        }
    }
    let mut found = Vec::new();
    for members in groups.values() {
        if is_small(members) {
            within(world, members, &mut found);
            continue;
        }
        for of_one in members.chunk_by(|a, b| std::ptr::eq(a.policy, b.policy)) {
            if is_small(of_one) {
                within(world, of_one, &mut found);
            }
        }
    }
    found
}

fn is_small(members: &[Member<'_>]) -> bool {
    let values: usize = members.iter().map(|m| m.parts.values()).sum();
    members.len() <= GROUP_MAX && values <= VALUES_MAX
}

fn within(world: &World<'_>, members: &[Member<'_>], found: &mut Vec<Diagnostic>) {
    let by_label = ByLabel::new(members);
    for (at, narrow) in members.iter().enumerate() {
        let values = world.values(narrow.policy);
        let candidates = by_label.as_wide_as(narrow.policy).into_iter();
        let mut candidates = candidates.filter_map(|other| Some((other, members.get(other)?)));
        let covering = candidates.find(|(other, wide)| {
            *other != at
                && covers(world, wide, narrow, values)
                // Of two rules that cover each other the first one stays.
                && (*other < at || !covers(world, narrow, wide, values))
        });
        if let Some((_, wide)) = covering {
            found.push(report(world, narrow, wide));
        }
    }
}

/// Members by a label that their policy asks for, so that only those are compared that may apply to
/// the same workloads.
struct ByLabel<'a> {
    labelled: HashMap<(&'a str, &'a str), Vec<usize>>,
    unlabelled: Vec<usize>,
}

impl<'a> ByLabel<'a> {
    fn new(members: &[Member<'a>]) -> Self {
        let mut labelled: HashMap<_, Vec<usize>> = HashMap::new();
        let mut unlabelled = Vec::new();
        for (number, member) in members.iter().enumerate() {
            match labels(member.policy).next() {
                Some(label) => labelled.entry(label).or_default().push(number),
                None => unlabelled.push(number),
            }
        }
        Self {
            labelled,
            unlabelled,
        }
    }

    /// Members whose policy may apply to every workload that this one applies to, in order.
    fn as_wide_as(&self, narrow: &'a AuthorizationPolicy) -> Vec<usize> {
        let labelled = labels(narrow).filter_map(|label| self.labelled.get(&label));
        let mut found: Vec<usize> = labelled.flatten().copied().collect();
        found.extend(&self.unlabelled);
        found.sort_unstable();
        found
    }
}

fn labels(policy: &AuthorizationPolicy) -> impl Iterator<Item = (&str, &str)> {
    let labels = policy.attachment.selector.iter().flatten();
    labels.map(|(key, value)| (key.as_str(), value.as_str()))
}

fn covers(world: &World<'_>, wide: &Member<'_>, narrow: &Member<'_>, values: Values<'_>) -> bool {
    // ISTIO: on a TCP port an ALLOW rule with an HTTP field is void; the other one is not.
    let void = wide.policy.action == Action::Allow && wide.parts.has_http();
    (!void || narrow.parts.has_http())
        && wide.parts.cover(&narrow.parts, values)
        && (std::ptr::eq(wide.policy, narrow.policy)
            || applies_wherever(world, wide.policy, narrow.policy))
}

fn group(policy: &AuthorizationPolicy) -> Group<'_> {
    let (action, provider) = match &policy.action {
        Action::Allow => (0, ""),
        Action::Deny => (1, ""),
        Action::Audit => (2, ""),
        Action::Custom { provider } => (3, provider.as_str()),
    };
    (&policy.namespace, action, provider, policy.dry_run)
}

fn report(world: &World<'_>, narrow: &Member<'_>, wide: &Member<'_>) -> Diagnostic {
    let at = rule_path(wide.policy, wide.number);
    let place = world.loaded.sources.file_line(wide.policy.document, &at);
    world.about(
        narrow.policy,
        Code::RedundantRule,
        Severity::Warning,
        rule_path(narrow.policy, narrow.number),
        format!(
            "rule {} of `{}` ({place}) matches everything that this rule does",
            wide.number,
            name(wide.policy)
        ),
        "remove this rule, or make the other one narrower",
    )
}
