//! Policies that attach to what is not enforced here: a Service behind a waypoint, a gateway that
//! is not among the given pods.

use super::world::World;
use crate::{
    ast::{Action, Attachment, TargetRef},
    attach,
    diagnostic::{At, Code, Diagnostic, Severity},
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (number, policy) in world.policies() {
        if policy.attachment.target_refs.is_empty() || policy.dry_run {
            continue;
        }
        if world.targets_of(number).next().is_some() {
            continue;
        }
        // ISTIO: a policy with a target is no policy of the pods behind it. Where its target is
        // given, Istio enforces it; where it is not, that may be elsewhere.
        let given = |target: &TargetRef| {
            let mut services = world.cluster.services.iter();
            target.kind == "Service"
                && services.any(|s| s.namespace == policy.namespace && s.name == target.name)
        };
        let fires =
            policy.action == Action::Deny && policy.attachment.target_refs.iter().any(given);
        let (severity, effect) = match fires {
            true => (
                Severity::Error,
                "it denies nothing here, and would under Istio",
            ),
            false => (Severity::Warning, "it has no effect here"),
        };
        let name = format!("{}/{}", policy.namespace, policy.name);
        let at = At {
            document: policy.document,
            path: policy.object.clone(),
        };
        found.push(report(
            world,
            at,
            &policy.attachment,
            severity,
            effect,
            name,
        ));
    }
    for (number, written) in world.cluster.request_authentications.iter().enumerate() {
        let mut targets = world.targets.iter();
        if written.attachment.target_refs.is_empty()
            || targets.any(|target| target.authentications.contains(&number))
        {
            continue;
        }
        let at = At {
            document: written.document,
            path: written.object.clone(),
        };
        let name = format!("{}/{}", written.namespace, written.name);
        let effect = "it verifies nothing here";
        found.push(report(
            world,
            at,
            &written.attachment,
            Severity::Warning,
            effect,
            name,
        ));
    }
    found
}

fn report(
    world: &World<'_>,
    object: At,
    attachment: &Attachment,
    severity: Severity,
    effect: &str,
    policy: String,
) -> Diagnostic {
    let targets: Vec<String> = attachment
        .target_refs
        .iter()
        .map(|target| format!("{} `{}`", target.kind, target.name))
        .collect();
    let spec = object.path.key("spec");
    // The older field names one.
    let one = spec.key("targetRef");
    let path = match world.loaded.sources.has(object.document, &one) {
        true => one,
        false => spec.key("targetRefs"),
    };
    Diagnostic {
        code: Code::NotServed,
        severity,
        message: format!(
            "this policy attaches to {}, and no given pod is its gateway: {effect}",
            targets.join(", ")
        ),
        at: At {
            document: object.document,
            path,
        },
        help: format!(
            "select the pods themselves with `selector`, or give the gateway's pods, which have \
             the label `{}`",
            attach::GATEWAY_NAME
        ),
        policy: Some(policy),
    }
}
