//! ALLOW rules that a DENY makes useless. Many tutorials believe that an ALLOW is an exception to a
//! DENY; it never is.

use std::collections::BTreeMap;

use super::{
    cover::Parts,
    world::{World, applies_wherever, enforces, is_catch_all, name, rule_path, rules},
};
use crate::{
    ast::{Action, AuthorizationPolicy},
    diagnostic::{Code, Diagnostic, Severity},
    options::CatchAllDeny,
};

/// ALLOW rules times DENY rules that are compared for one namespace; past that, only DENY rules that
/// deny everything are looked at.
const PAIRS_MAX: usize = 250_000;

/// A DENY policy, its rules taken apart.
struct Deny<'a> {
    number: usize,
    policy: &'a AuthorizationPolicy,
    catch_all: bool,
    rules: Vec<(usize, Parts<'a>)>,
}

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let denies = denies(world);
    let mut allow_rules: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, policy) in allows(world) {
        *allow_rules.entry(&policy.namespace).or_default() += rules(policy).count();
    }
    let root = world.cluster.mesh.root_namespace.as_str();
    let none = Vec::new();
    let mut found = Vec::new();
    for (number, policy) in allows(world) {
        let own = denies.get(policy.namespace.as_str()).unwrap_or(&none);
        let wide = denies.get(root).filter(|_| policy.namespace != root);
        let near = own.iter().chain(wide.unwrap_or(&none));
        let of_all: Vec<&Deny<'_>> = near
            .filter(|deny| applies_to(world, deny, number, policy))
            .collect();
        if let Some(deny) = of_all.iter().find(|deny| deny.catch_all) {
            found.push(report(world, policy, deny.policy));
            continue;
        }
        let against: usize = of_all.iter().map(|deny| deny.rules.len()).sum();
        let rules = allow_rules.get(policy.namespace.as_str()).copied();
        if against * rules.unwrap_or(0) <= PAIRS_MAX {
            shadowed(world, policy, &of_all, &mut found);
        }
    }
    found
}

/// The ALLOW policies that have rules.
fn allows<'a>(world: &World<'a>) -> impl Iterator<Item = (usize, &'a AuthorizationPolicy)> {
    let all = world.policies();
    all.filter(|(_, p)| enforces(p, &Action::Allow) && rules(p).next().is_some())
}

fn denies<'a>(world: &World<'a>) -> BTreeMap<&'a str, Vec<Deny<'a>>> {
    let mut denies: BTreeMap<&str, Vec<Deny<'_>>> = BTreeMap::new();
    // As the workload's default, such a rule denies only what nothing allows.
    let is_default = world.catch_all_deny == CatchAllDeny::DefaultDeny;
    for (number, policy) in world.policies() {
        if !enforces(policy, &Action::Deny) {
            continue;
        }
        let kept = rules(policy).filter(|(_, rule)| !(is_default && is_catch_all(rule)));
        denies.entry(&policy.namespace).or_default().push(Deny {
            number,
            policy,
            catch_all: !is_default && rules(policy).any(|(_, rule)| is_catch_all(rule)),
            rules: kept.map(|(i, rule)| (i, Parts::new(rule))).collect(),
        });
    }
    denies
}

/// Whether the DENY is there wherever the ALLOW policy is.
fn applies_to(
    world: &World<'_>,
    deny: &Deny<'_>,
    number: usize,
    policy: &AuthorizationPolicy,
) -> bool {
    applies_wherever(world, deny.policy, policy) || {
        // It is not as wide as the policy, but may still cover all given workloads.
        let mut targets = world.targets_of(number).peekable();
        targets.peek().is_some() && targets.all(|t| t.policies.binary_search(&deny.number).is_ok())
    }
}

/// Reports each rule that a DENY rule covers.
fn shadowed(
    world: &World<'_>,
    policy: &AuthorizationPolicy,
    denies: &[&Deny<'_>],
    found: &mut Vec<Diagnostic>,
) {
    let values = world.values(policy);
    for (number, rule) in rules(policy) {
        let parts = Parts::new(rule);
        let covering = denies.iter().find_map(|deny| {
            let mut all = deny.rules.iter();
            let (i, _) = all.find(|(_, wide)| wide.cover(&parts, values))?;
            Some((deny.policy, *i))
        });
        let Some((deny, i)) = covering else { continue };
        let path = rule_path(deny, i);
        let place = world.loaded.sources.file_line(deny.document, &path);
        found.push(world.about(
            policy,
            Code::NeverEffectiveAllow,
            Severity::Warning,
            rule_path(policy, number),
            format!(
                "rule {number} of this ALLOW policy can never take effect: rule {i} of DENY policy \
                 `{}` ({place}) denies everything that it matches, and DENY always wins over ALLOW",
                name(deny)
            ),
            "make the DENY rule narrower, or remove this rule",
        ));
    }
}

/// ISTIO: "If there are any DENY policies that match the request, deny the request."
fn report(
    world: &World<'_>,
    policy: &AuthorizationPolicy,
    deny: &AuthorizationPolicy,
) -> Diagnostic {
    let count = rules(policy).count();
    let subject = match count {
        1 => "rule 0 of this ALLOW policy can never take effect".to_owned(),
        _ => format!("none of the {count} rules of this ALLOW policy can ever take effect"),
    };
    let deny_place = world.loaded.sources.file_line(deny.document, &deny.object);
    let deny_name = name(deny);
    world.about(
        policy,
        Code::NeverEffectiveAllow,
        Severity::Warning,
        rule_path(policy, 0),
        format!(
            "{subject}: DENY policy `{deny_name}` ({deny_place}) denies every request to the same \
             workloads, and DENY always wins over ALLOW"
        ),
        format!(
            "to deny by default with exceptions, give `{deny_name}` neither `action` nor `rules`, \
             which makes it an ALLOW policy that allows nothing:\n{}or pass \
             `--catch-all-deny=default-deny`, and it is read as that without a change",
            allow_nothing(deny)
        ),
    )
}

/// The spec of an ALLOW policy that makes the same workloads default-deny.
fn allow_nothing(deny: &AuthorizationPolicy) -> String {
    let labels = deny.attachment.selector.iter().flatten();
    let labels: String = labels.map(|(k, v)| format!("      {k}: {v}\n")).collect();
    match labels.is_empty() {
        true => "spec: {}\n".into(),
        false => format!("spec:\n  selector:\n    matchLabels:\n{labels}"),
    }
}
