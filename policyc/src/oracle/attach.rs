//! Which policies apply to a workload.

use super::facts::Workload;
use crate::{
    ast::{Attachment, TargetRef},
    cluster::Mesh,
};

const GATEWAY_API: &str = "gateway.networking.k8s.io";
const WAYPOINT_CLASS: &str = "istio-waypoint";

/// Whether something that lives in the namespace `home` and is attached so applies to the workload.
pub fn applies(mesh: &Mesh, home: &str, attachment: &Attachment, workload: &Workload) -> bool {
    // ISTIO: "If the authorization policy is in the root namespace, the selector will additionally
    // match with workloads in all namespaces."
    if home != workload.namespace && home != mesh.root_namespace {
        return false;
    }
    if attachment.target_refs.is_empty() {
        // A waypoint is reached by target references only.
        !workload.is_waypoint() && selects(attachment, workload)
    } else {
        attachment
            .target_refs
            .iter()
            .any(|target| names(mesh, home, target, workload))
    }
}

/// ISTIO: "If the selector and the targetRef are not set, the selector will match all workloads."
/// Every label that it names must be there with that value.
fn selects(attachment: &Attachment, workload: &Workload) -> bool {
    attachment
        .selector
        .iter()
        .flatten()
        .all(|(key, value)| workload.template.labels.get(key) == Some(value))
}

/// Whether a target reference means this very pod. It never means an ordinary pod. A Service or
/// ServiceEntry behind a waypoint is not the waypoint itself: its policies are judged there for
/// that service's traffic alone, and are no policies of the pod.
fn names(mesh: &Mesh, home: &str, target: &TargetRef, workload: &Workload) -> bool {
    match (target.group.as_str(), target.kind.as_str()) {
        (GATEWAY_API, "Gateway") => {
            home == workload.namespace && workload.gateway() == Some(&target.name)
        }
        (GATEWAY_API, "GatewayClass") => {
            home == mesh.root_namespace && workload.is_waypoint() && target.name == WAYPOINT_CLASS
        }
        _ => false,
    }
}
