//! Selectors that no given workload has the labels for, and policies whose namespace has no given
//! workload at all.

use std::collections::{BTreeMap, BTreeSet};

use super::world::{Target, World};
use crate::{
    ast::{Attachment, DocumentId},
    diagnostic::{At, Code, Diagnostic, Path},
    read::node::nearest,
};

/// A policy of either kind.
struct Policy<'a> {
    document: DocumentId,
    object: &'a Path,
    namespace: &'a str,
    name: &'a str,
    attachment: &'a Attachment,
    /// It applies to a given workload.
    applies: bool,
}

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let policies = world.policies().map(|(number, p)| Policy {
        document: p.document,
        object: &p.object,
        namespace: &p.namespace,
        name: &p.name,
        attachment: &p.attachment,
        applies: world.targets_of(number).next().is_some(),
    });
    let used: BTreeSet<usize> = world
        .targets
        .iter()
        .flat_map(|t| t.authentications.iter().copied())
        .collect();
    let authentications = world.cluster.request_authentications.iter().enumerate();
    let authentications = authentications.map(|(number, a)| Policy {
        document: a.document,
        object: &a.object,
        namespace: &a.namespace,
        name: &a.name,
        attachment: &a.attachment,
        // Without rules it does nothing, wherever it applies.
        applies: a.jwt_rules.is_empty() || used.contains(&number),
    });
    let mut labels = Labels::default();
    let mut suggested = BTreeMap::new();
    policies
        .chain(authentications)
        .filter(|p| !p.applies && p.attachment.target_refs.is_empty())
        .filter_map(|policy| {
            let root = policy.namespace == world.cluster.mesh.root_namespace;
            let in_scope = match root {
                true => !world.targets.is_empty(),
                false => world.targets_in(policy.namespace).next().is_some(),
            };
            match (&policy.attachment.selector, in_scope) {
                (Some(selector), true) if !selector.is_empty() => {
                    Some(unmatched(world, &policy, selector, root, &mut labels))
                }
                (_, false) if !root => empty_namespace(world, &policy, &mut suggested),
                _ => None,
            }
        })
        .collect()
}

fn warning(
    policy: &Policy<'_>,
    code: Code,
    path: Path,
    message: String,
    help: String,
) -> Diagnostic {
    let at = At {
        document: policy.document,
        path,
    };
    let name = format!("{}/{}", policy.namespace, policy.name);
    Diagnostic::warning(code, at, message, help).of_policy(name)
}

/// Manifests that hold workloads, and none of them in the policy's namespace.
fn empty_namespace<'a>(
    world: &World<'a>,
    policy: &Policy<'a>,
    suggested: &mut BTreeMap<&'a str, Option<&'a str>>,
) -> Option<Diagnostic> {
    let known = world.cluster.namespaces.contains_key(policy.namespace);
    let nothing_given = world.targets.is_empty();
    if nothing_given && (known || world.cluster.namespaces.is_empty()) {
        return None;
    }
    let near = suggested.entry(policy.namespace).or_insert_with(|| {
        let declared = world.cluster.namespaces.keys().map(String::as_str);
        let others = world.namespaces().chain(declared);
        nearest(policy.namespace, others.filter(|n| *n != policy.namespace))
    });
    let path = policy.object.key("metadata");
    let help = match near {
        Some(near) if !known => format!("did you mean namespace `{near}`?"),
        _ => "give the manifests of its workloads as well, or correct the namespace".into(),
    };
    let message = format!(
        "no workload of namespace `{}` is given, so this policy applies to nothing",
        policy.namespace
    );
    Some(warning(
        policy,
        Code::EmptyNamespace,
        path.key("namespace"),
        message,
        help,
    ))
}

fn unmatched<'a>(
    world: &'a World<'_>,
    policy: &Policy<'a>,
    selector: &BTreeMap<String, String>,
    root: bool,
    labels: &mut Labels<'a>,
) -> Diagnostic {
    let written: Vec<String> = selector.iter().map(|(k, v)| format!("{k}: {v}")).collect();
    let scope = match root {
        true => "any namespace".to_owned(),
        false => format!("namespace `{}`", policy.namespace),
    };
    let path = policy.object.key("spec").key("selector").key("matchLabels");
    let path = match selector.len() {
        1 => selector
            .keys()
            .next()
            .map_or(path.clone(), |key| path.key(key)),
        _ => path,
    };
    let known = match root {
        true => labels.of("", world.targets.iter()),
        false => labels.of(policy.namespace, world.targets_in(policy.namespace)),
    };
    warning(
        policy,
        Code::UnmatchedSelector,
        path,
        format!(
            "no workload of {scope} has the labels `{}`",
            written.join(", ")
        ),
        help(selector, known),
    )
}

/// The labels of the workloads of each namespace, collected when first asked for.
#[derive(Default)]
struct Labels<'a>(BTreeMap<&'a str, BTreeMap<&'a str, BTreeSet<&'a str>>>);

impl<'a> Labels<'a> {
    fn of<'t>(
        &mut self,
        namespace: &'a str,
        targets: impl Iterator<Item = &'t Target<'a>>,
    ) -> &BTreeMap<&'a str, BTreeSet<&'a str>>
    where
        'a: 't,
    {
        self.0.entry(namespace).or_insert_with(|| {
            let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
            for (key, value) in targets.flat_map(|t| &t.template.labels) {
                labels.entry(key).or_default().insert(value);
            }
            labels
        })
    }
}

fn help(wanted: &BTreeMap<String, String>, known: &BTreeMap<&str, BTreeSet<&str>>) -> String {
    for (key, value) in wanted {
        match known.get(key.as_str()) {
            Some(values) if values.contains(value.as_str()) => {}
            Some(values) => {
                if let Some(near) = nearest(value, values.iter().copied()) {
                    return format!("did you mean `{key}: {near}`?");
                }
            }
            None => {
                if let Some(near) = nearest(key, known.keys().copied()) {
                    return format!("no workload has a label `{key}`; did you mean `{near}`?");
                }
            }
        }
    }
    "compare the labels with those of the pods, not of the Deployment itself".into()
}
