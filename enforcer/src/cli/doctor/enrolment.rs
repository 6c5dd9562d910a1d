//! Pods that the agent leaves to a mesh, where an agent runs here.

use std::path::Path;

use super::{super::socket::Client, Finding, note};
use crate::{
    control::{Answer, Request},
    inventory::enrolment::LeftOut,
};

/// Most pods that are named.
const NAMED_MAX: usize = 8;

pub(super) fn examine(socket: &Path) -> Vec<Finding> {
    // Without an agent there is nothing to be said; `enforcer status` says why.
    let Ok(mut client) = Client::connect(socket) else {
        return Vec::new();
    };
    let Ok(Answer::Status(status)) = client.ask(&Request::Status {}) else {
        return Vec::new();
    };
    let in_mesh = [LeftOut::Sidecar, LeftOut::Ambient].map(|reason| reason.to_string());
    let left_out: Vec<&str> = status
        .pods
        .iter()
        .filter(|pod| {
            pod.not_enforced
                .as_ref()
                .is_some_and(|why| in_mesh.contains(why))
        })
        .map(|pod| pod.name.as_str())
        .collect();
    found(&left_out).into_iter().collect()
}

fn found(left_out: &[&str]) -> Option<Finding> {
    let named = left_out.get(..NAMED_MAX).unwrap_or(left_out).join(", ");
    let more = match left_out.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!left_out.is_empty()).then(|| {
        note(
            "pods in a mesh",
            format!(
                "not policed, because a mesh's proxy stands between them and the network: {named}{more}"
            ),
            "take them out of the mesh, or leave their policies to the mesh; --enroll-meshed polices \
             them all the same",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_in_a_mesh_are_named_and_not_too_many() {
        assert_eq!(found(&[]), None);
        let all: Vec<String> = (0..10).map(|n| format!("web/{n}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let text = found(&all).expect("a finding").found;
        assert!(text.ends_with("web/7 and 2 more"), "{text}");
    }
}
