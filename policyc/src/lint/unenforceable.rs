//! Pods whose traffic we cannot judge: on the node's own network, or wrapped by a mesh that is still
//! there.

use super::world::{Target, World};
use crate::{
    cluster::MeshOnPod,
    diagnostic::{At, Code, Diagnostic},
};

pub fn lint(world: &World<'_>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for target in world.targets.iter().filter(|t| !t.policies.is_empty()) {
        if target.template.host_network {
            found.push(Diagnostic::warning(
                Code::HostNetwork,
                host_network(target),
                format!(
                    "policies select {}, whose pods are on the node's own network: they cannot be \
                     enforced there",
                    world.names([target])
                ),
                "give the pods a network of their own, or select other workloads",
            ));
        }
        if let Some(what) = mesh_of(target) {
            let at = At {
                document: target.at.document,
                path: target.at.path.key("metadata").key("name"),
            };
            found.push(Diagnostic::warning(
                Code::MeshOnPod,
                at,
                format!(
                    "{} already has {what}: its traffic reaches us encrypted, or from the proxy's \
                     address",
                    world.names([target])
                ),
                "take the workload out of the mesh, or leave its policies to the mesh",
            ));
        }
    }
    for object in &world.cluster.peer_authentications {
        found.push(Diagnostic::warning(
            Code::PeerAuthentication,
            At {
                document: object.document,
                path: object.object.key("metadata").key("name"),
            },
            "a PeerAuthentication asks for mutual TLS by a mesh, which is not part of what is \
             enforced here: identities are known by address",
            "remove it where no mesh is left; where one is, leave its workloads to it",
        ));
    }
    found
}

/// The sidecar or the redirection that a pod carries.
fn mesh_of(target: &Target<'_>) -> Option<&'static str> {
    target.template.mesh().map(|mesh| match mesh {
        MeshOnPod::Sidecar => "a sidecar proxy",
        MeshOnPod::Ambient => "ambient redirection",
    })
}

/// Where `hostNetwork` is written.
fn host_network(target: &Target<'_>) -> At {
    let spec = target.at.path.key("spec");
    let path = match target.kind {
        "Pod" => spec,
        "CronJob" => spec
            .key("jobTemplate")
            .key("spec")
            .key("template")
            .key("spec"),
        _ => spec.key("template").key("spec"),
    };
    At {
        document: target.at.document,
        path: path.key("hostNetwork"),
    }
}
