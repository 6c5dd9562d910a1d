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
    policy: &'a AuthorizationPolicy,
    catch_all: bool,
    rules: Vec<(usize, Parts<'a>)>,
}

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let denies = Denies::new(world);
    let mut allow_rules: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, policy) in allows(world) {
        *allow_rules.entry(&policy.namespace).or_default() += rules(policy).count();
    }
    let mut found = Vec::new();
    for (number, policy) in allows(world) {
        if let Some(deny) = denies.catch_all(world, number, policy) {
            found.push(report(world, policy, deny));
            continue;
        }
        let against: usize = denies.near(policy).map(|deny| deny.rules.len()).sum();
        let rules = allow_rules.get(policy.namespace.as_str()).copied();
        if against * rules.unwrap_or(0) <= PAIRS_MAX {
            let wide = denies.near(policy);
            let wide: Vec<_> = wide
                .filter(|deny| applies_wherever(world, deny.policy, policy))
                .collect();
            shadowed(world, policy, &wide, &mut found);
        }
    }
    found
}

/// A namespace, and one of the labels that a policy there asks for.
type Place<'a> = (&'a str, Option<(&'a str, &'a str)>);

/// The DENY policies, filed by namespace and by one of the labels that they ask for.
struct Denies<'a> {
    all: Vec<Deny<'a>>,
    by_place: BTreeMap<Place<'a>, Vec<usize>>,
    root: &'a str,
    /// For each target, a DENY policy that denies everything there.
    on_target: Vec<Option<&'a AuthorizationPolicy>>,
}

impl<'a> Denies<'a> {
    fn new(world: &World<'a>) -> Self {
        let mut denies = Self {
            all: Vec::new(),
            by_place: BTreeMap::new(),
            root: &world.cluster.mesh.root_namespace,
            on_target: vec![None; world.targets.len()],
        };
        // As the workload's default, such a rule denies only what nothing allows.
        let is_default = world.catch_all_deny == CatchAllDeny::DefaultDeny;
        for (number, policy) in world.policies() {
            if !enforces(policy, &Action::Deny) {
                continue;
            }
            let kept = rules(policy).filter(|(_, rule)| !(is_default && is_catch_all(rule)));
            let catch_all = !is_default && rules(policy).any(|(_, rule)| is_catch_all(rule));
            let label = policy.attachment.selector.iter().flatten().next();
            let label = label.map(|(k, v)| (k.as_str(), v.as_str()));
            let place = denies.by_place.entry((&policy.namespace, label));
            place.or_default().push(denies.all.len());
            denies.all.push(Deny {
                policy,
                catch_all,
                rules: kept.map(|(i, rule)| (i, Parts::new(rule))).collect(),
            });
            for target in world.targets_of.get(number).into_iter().flatten() {
                if catch_all && let Some(on_target) = denies.on_target.get_mut(*target) {
                    on_target.get_or_insert(policy);
                }
            }
        }
        denies
    }

    /// Those that may apply wherever the policy does.
    fn near<'s>(&'s self, policy: &'s AuthorizationPolicy) -> impl Iterator<Item = &'s Deny<'a>> {
        let own = policy.namespace.as_str();
        let namespaces = [Some(own), Some(self.root).filter(|root| *root != own)];
        let labels = policy.attachment.selector.iter().flatten();
        let labels = labels.map(|(k, v)| Some((k.as_str(), v.as_str())));
        let places = namespaces.into_iter().flatten().flat_map(move |namespace| {
            let all = std::iter::once(None).chain(labels.clone());
            all.map(move |label| (namespace, label))
        });
        let numbers = places
            .filter_map(|place| self.by_place.get(&place))
            .flatten();
        numbers.filter_map(|number| self.all.get(*number))
    }

    /// A DENY policy that denies everything wherever the ALLOW policy is, or on all given workloads
    /// of it.
    fn catch_all(
        &self,
        world: &World<'_>,
        number: usize,
        policy: &AuthorizationPolicy,
    ) -> Option<&'a AuthorizationPolicy> {
        let mut near = self.near(policy).filter(|deny| deny.catch_all);
        let wide = near.find(|deny| applies_wherever(world, deny.policy, policy));
        let targets = world.targets_of.get(number).map_or(&[][..], Vec::as_slice);
        let mut on_targets = targets.iter().map(|t| self.on_target.get(*t).copied()?);
        wide.map(|deny| deny.policy).or_else(|| {
            let first = on_targets.next()??;
            on_targets.all(|deny| deny.is_some()).then_some(first)
        })
    }
}

/// The ALLOW policies that have rules.
fn allows<'a>(world: &World<'a>) -> impl Iterator<Item = (usize, &'a AuthorizationPolicy)> {
    let all = world.policies();
    all.filter(|(_, p)| enforces(p, &Action::Allow) && rules(p).next().is_some())
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
