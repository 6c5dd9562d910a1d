//! Which policies apply to a pod.

use std::collections::{BTreeMap, HashMap};

use crate::{
    cluster::PodTemplate,
    ir::{Attachment, AuthenticationId, PolicyId, Program},
};

/// Label that names the Gateway a gateway pod belongs to.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Label of the gateways that Istio itself installs.
const CLASSIC: &str = "istio";
/// Label that tells a waypoint from other gateways.
const GATEWAY_MANAGED: &str = "gateway.istio.io/managed";
const WAYPOINT: &str = "istio.io-mesh-controller";

/// Finds the policies of a pod without looking at each: policies are filed by namespace and by one
/// of the labels they ask for.
#[derive(Debug)]
pub struct Attachments<'a> {
    program: &'a Program,
    policies: Index<'a>,
    authentications: Index<'a>,
}

impl<'a> Attachments<'a> {
    pub fn new(program: &'a Program) -> Self {
        Self {
            program,
            policies: Index::new(program.policies.iter().map(|p| &p.attachment)),
            authentications: Index::new(program.authentications.iter().map(|a| &a.attachment)),
        }
    }

    /// The policies that apply, in order.
    pub fn policies(&self, namespace: &str, template: &PodTemplate) -> Vec<PolicyId> {
        self.policies
            .of(namespace, &template.labels)
            .into_iter()
            .map(PolicyId)
            .collect()
    }

    /// The RequestAuthentications that apply, in order. One without rules looks at no token, and is
    /// as good as none.
    pub fn authentications(
        &self,
        namespace: &str,
        template: &PodTemplate,
    ) -> Vec<AuthenticationId> {
        let has_rules = |id: &AuthenticationId| {
            let authentication = self.program.authentications.get(id.index());
            authentication.is_none_or(|a| !a.jwt_rules.is_empty())
        };
        self.authentications
            .of(namespace, &template.labels)
            .into_iter()
            .map(AuthenticationId)
            .filter(has_rules)
            .collect()
    }
}

/// Whether the pod is a gateway, which believes X-Forwarded-For as far as the mesh says. One that
/// was installed without the Gateway API is known by its label, which no `targetRefs` can name.
pub fn is_gateway(template: &PodTemplate) -> bool {
    let classic = template.labels.get(CLASSIC);
    template.labels.contains_key(GATEWAY_NAME)
        || classic.is_some_and(|v| matches!(v.as_str(), "ingressgateway" | "egressgateway"))
}

/// Whether the policy applies to a pod of that namespace and those labels.
fn applies(attachment: &Attachment, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
    let gateway = labels.get(GATEWAY_NAME);
    let waypoint = labels.get(GATEWAY_MANAGED).is_some_and(|v| v == WAYPOINT);
    if !attachment.targets.is_empty() {
        // ISTIO: "Currently, the following resource attachment types are supported: kind: Gateway
        // ... in the same namespace". An ordinary pod is never meant, and the services behind a
        // waypoint are judged there, not on the pod.
        return attachment.targets.iter().any(|target| {
            match (target.group.as_str(), target.kind.as_str()) {
                ("gateway.networking.k8s.io", "Gateway") => {
                    attachment.home == namespace && gateway == Some(&target.name)
                }
                ("gateway.networking.k8s.io", "GatewayClass") => {
                    waypoint && attachment.namespace.is_none() && target.name == "istio-waypoint"
                }
                _ => false,
            }
        });
    }
    // A waypoint honours targetRefs only.
    !(waypoint && gateway.is_some())
        && attachment.namespace.as_ref().is_none_or(|n| n == namespace)
        && attachment
            .labels
            .iter()
            .all(|(k, v)| labels.get(k) == Some(v))
}

#[derive(Debug)]
struct Index<'a> {
    all: Vec<&'a Attachment>,
    /// Policies without labels, or that name targets, by namespace (`None`: everywhere).
    unlabelled: HashMap<Option<&'a str>, Vec<u32>>,
    /// Policies with labels, by namespace and their first label.
    labelled: HashMap<(Option<&'a str>, &'a str, &'a str), Vec<u32>>,
}

impl<'a> Index<'a> {
    fn new(attachments: impl Iterator<Item = &'a Attachment>) -> Self {
        let mut index = Self {
            all: Vec::new(),
            unlabelled: HashMap::new(),
            labelled: HashMap::new(),
        };
        for (number, attachment) in (0u32..).zip(attachments) {
            index.all.push(attachment);
            let namespace = attachment.namespace.as_deref();
            match attachment.labels.first() {
                Some((key, value)) if attachment.targets.is_empty() => {
                    index
                        .labelled
                        .entry((namespace, key, value))
                        .or_default()
                        .push(number);
                }
                _ => index.unlabelled.entry(namespace).or_default().push(number),
            }
        }
        index
    }

    fn of(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<u32> {
        let mut found = Vec::new();
        for place in [None, Some(namespace)] {
            let candidates = self.unlabelled.get(&place).into_iter().chain(
                labels
                    .iter()
                    .filter_map(|(k, v)| self.labelled.get(&(place, k.as_str(), v.as_str()))),
            );
            found.extend(candidates.flatten().copied().filter(|&number| {
                self.all
                    .get(number as usize)
                    .is_some_and(|attachment| applies(attachment, namespace, labels))
            }));
        }
        found.sort_unstable();
        found
    }
}
