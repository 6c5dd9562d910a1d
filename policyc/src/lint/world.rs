//! What lints look at: policies, the pods that they apply to, and how to speak of both.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    fields::{self, Field},
    value::Values,
};
use crate::{
    ast::{Action, AuthorizationPolicy, Rule},
    attach::Attachments,
    cluster::{Cluster, PodTemplate, Protocol, Service},
    diagnostic::{At, Code, Diagnostic, Path, Severity},
    ir::Program,
    options::CatchAllDeny,
    read::Loaded,
    resolve::{ResolveError, resolve},
};

/// The cluster, with each policy's workloads found.
pub struct World<'a> {
    pub loaded: &'a Loaded,
    pub cluster: &'a Cluster,
    pub catch_all_deny: CatchAllDeny,
    /// Pods that still run, and workloads.
    pub targets: Vec<Target<'a>>,
    /// For each policy, the targets that it applies to.
    pub targets_of: Vec<Vec<usize>>,
    /// What the policies resolve to.
    pub program: Program,
    fields: Vec<Vec<Field<'a>>>,
    services: BTreeMap<&'a str, Vec<&'a Service>>,
    /// Numbers of targets by namespace.
    in_namespace: BTreeMap<&'a str, Vec<usize>>,
}

/// A pod, or a workload that stands for its pods.
pub struct Target<'a> {
    /// `Pod`, `Deployment` and so on.
    pub kind: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub template: &'a PodTemplate,
    pub at: At,
    /// The policies that apply, as indexes into the cluster's.
    pub policies: Vec<usize>,
    /// The RequestAuthentications that apply, as indexes into the cluster's.
    pub authentications: Vec<usize>,
    /// The declared ports, with what they are declared to speak.
    pub ports: Vec<(u16, Protocol)>,
    /// One of them verifies tokens.
    pub tokens: bool,
}

impl<'a> World<'a> {
    pub fn new(loaded: &'a Loaded, catch_all_deny: CatchAllDeny) -> Result<Self, ResolveError> {
        let cluster = &loaded.cluster;
        let nowhere = |_: &At| (String::new(), 0);
        let program = resolve(cluster, catch_all_deny, &BTreeMap::new(), &nowhere)?;
        let attachments = Attachments::new(&program);
        let mut targets = bare_targets(cluster);
        let mut targets_of = vec![Vec::new(); cluster.policies.len()];
        for (number, target) in targets.iter_mut().enumerate() {
            // INVARIANT: the program has the cluster's policies in the cluster's order.
            let policies = attachments.policies(target.namespace, target.template);
            target.policies = policies.into_iter().map(|id| id.index()).collect();
            let tokens = attachments.authentications(target.namespace, target.template);
            target.authentications = tokens.into_iter().map(|id| id.index()).collect();
            // Without a rule it verifies nothing.
            let verifies = |number: &usize| {
                let written = cluster.request_authentications.get(*number);
                written.is_some_and(|written| !written.jwt_rules.is_empty())
            };
            target.tokens = target.authentications.iter().any(verifies);
            for policy in &target.policies {
                if let Some(list) = targets_of.get_mut(*policy) {
                    list.push(number);
                }
            }
        }
        let mut in_namespace: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (number, target) in targets.iter().enumerate() {
            in_namespace
                .entry(target.namespace)
                .or_default()
                .push(number);
        }
        let mut services: BTreeMap<&str, Vec<&Service>> = BTreeMap::new();
        for service in &cluster.services {
            services
                .entry(&service.namespace)
                .or_default()
                .push(service);
        }
        for target in &mut targets {
            let near = services
                .get(target.namespace)
                .into_iter()
                .flatten()
                .copied();
            let near: Vec<_> = near.filter(|s| s.selects(target.template)).collect();
            let declared = target.template.ports.iter().map(|p| p.port);
            let speaks = |port| target.template.protocol(target.namespace, port, &near);
            target.ports = declared.map(|port| (port, speaks(port))).collect();
        }
        Ok(Self {
            loaded,
            cluster,
            catch_all_deny,
            targets,
            targets_of,
            program,
            fields: cluster.policies.iter().map(fields::all).collect(),
            services,
            in_namespace,
        })
    }

    /// Every list of values of a policy.
    pub fn fields(&self, policy: usize) -> &[Field<'a>] {
        self.fields.get(policy).map_or(&[], Vec::as_slice)
    }

    /// Each policy with its number.
    pub fn policies(&self) -> impl Iterator<Item = (usize, &'a AuthorizationPolicy)> {
        self.cluster.policies.iter().enumerate()
    }

    /// The targets of a policy.
    pub fn targets_of(&self, policy: usize) -> impl Iterator<Item = &Target<'a>> {
        let numbers = self.targets_of.get(policy).into_iter().flatten();
        numbers.filter_map(|number| self.targets.get(*number))
    }

    /// How the values of policies of a namespace are compared.
    pub fn values<'p>(&'p self, policy: &'p AuthorizationPolicy) -> Values<'p> {
        Values {
            mesh: &self.cluster.mesh,
            namespace: &policy.namespace,
        }
    }

    /// The targets of a namespace.
    pub fn targets_in(&self, namespace: &str) -> impl Iterator<Item = &Target<'a>> + Clone {
        let numbers = self.in_namespace.get(namespace).into_iter().flatten();
        numbers.filter_map(|number| self.targets.get(*number))
    }

    /// The namespaces that have targets.
    pub fn namespaces(&self) -> impl Iterator<Item = &'a str> {
        self.in_namespace.keys().copied()
    }

    /// The policies that apply to a target.
    pub fn policies_of(
        &self,
        target: &Target<'_>,
    ) -> impl Iterator<Item = &'a AuthorizationPolicy> {
        let numbers = target.policies.iter();
        numbers.filter_map(|number| self.cluster.policies.get(*number))
    }

    /// What a target's port is declared to speak.
    pub fn protocol(&self, target: &Target<'_>, port: u16) -> Protocol {
        if let Some((_, protocol)) = target.ports.iter().find(|(p, _)| *p == port) {
            return *protocol;
        }
        let services = self.services_of(target);
        target.template.protocol(target.namespace, port, &services)
    }

    /// The Services that send traffic to a target.
    pub fn services_of(&self, target: &Target<'_>) -> Vec<&'a Service> {
        let services = self.services.get(target.namespace).into_iter().flatten();
        services
            .copied()
            .filter(|service| service.selects(target.template))
            .collect()
    }

    /// A few targets by name, workloads rather than their pods: "Deployment shop/web and 2 more".
    pub fn names<'t>(&self, targets: impl IntoIterator<Item = &'t Target<'t>>) -> String {
        let mut workloads = BTreeSet::new();
        let mut pods = BTreeSet::new();
        for target in targets {
            let name = format!("{} {}/{}", target.kind, target.namespace, target.name);
            match target.kind {
                "Pod" => pods.insert(name),
                _ => workloads.insert(name),
            };
        }
        let names = if workloads.is_empty() {
            pods
        } else {
            workloads
        };
        let more = names.len().saturating_sub(2);
        let mut text = names.into_iter().take(2).collect::<Vec<_>>().join(" and ");
        if more > 0 {
            text = text.replace(" and ", ", ") + &format!(" and {more} more");
        }
        text
    }

    /// A finding about a place in a policy.
    pub fn about(
        &self,
        policy: &AuthorizationPolicy,
        code: Code,
        severity: Severity,
        path: Path,
        message: String,
        help: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic {
            code,
            severity,
            message,
            at: At {
                document: policy.document,
                path,
            },
            help: help.into(),
            policy: Some(name(policy)),
        }
    }
}

/// `namespace/name`
pub fn name(policy: &AuthorizationPolicy) -> String {
    format!("{}/{}", policy.namespace, policy.name)
}

/// Path of a rule in its document.
pub fn rule_path(policy: &AuthorizationPolicy, rule: usize) -> Path {
    policy.object.key("spec").key("rules").index(rule)
}

/// Each rule with its number.
pub fn rules(policy: &AuthorizationPolicy) -> impl Iterator<Item = (usize, &Rule)> {
    policy.rules.iter().flatten().enumerate()
}

/// A rule that matches every request.
pub fn is_catch_all(rule: &Rule) -> bool {
    rule.from.is_none() && rule.to.is_none() && rule.when.is_none()
}

/// The policy takes part in verdicts with this action.
pub fn enforces(policy: &AuthorizationPolicy, action: &Action) -> bool {
    !policy.dry_run && policy.action == *action
}

/// Whether `wide` applies to every workload that `narrow` may ever apply to.
pub fn applies_wherever(
    world: &World<'_>,
    wide: &AuthorizationPolicy,
    narrow: &AuthorizationPolicy,
) -> bool {
    if !wide.attachment.target_refs.is_empty() || !narrow.attachment.target_refs.is_empty() {
        return wide.namespace == narrow.namespace
            && wide.attachment.target_refs == narrow.attachment.target_refs;
    }
    let root = world.cluster.mesh.root_namespace == wide.namespace;
    let labels = wide.attachment.selector.iter().flatten();
    let narrow_labels = narrow.attachment.selector.as_ref();
    (root || wide.namespace == narrow.namespace)
        && labels
            .into_iter()
            .all(|(k, v)| narrow_labels.is_some_and(|labels| labels.get(k) == Some(v)))
}

fn bare_targets(cluster: &Cluster) -> Vec<Target<'_>> {
    let running = cluster.pods.iter().filter(|pod| !pod.finished);
    let pods = running.map(|pod| Target {
        kind: "Pod",
        namespace: &pod.namespace,
        name: &pod.name,
        template: &pod.template,
        at: At {
            document: pod.document,
            path: pod.object.clone(),
        },
        policies: Vec::new(),
        authentications: Vec::new(),
        ports: Vec::new(),
        tokens: false,
    });
    let workloads = cluster.workloads.iter().map(|workload| Target {
        kind: &workload.kind,
        namespace: &workload.namespace,
        name: &workload.name,
        template: &workload.template,
        at: At {
            document: workload.document,
            path: workload.object.clone(),
        },
        policies: Vec::new(),
        authentications: Vec::new(),
        ports: Vec::new(),
        tokens: false,
    });
    pods.chain(workloads).collect()
}
