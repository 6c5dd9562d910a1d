//! Pages of the codes about the cluster and its mesh.

use super::{Code, Page};

pub const PAGES: &[(Code, Page)] = &[
    (
        Code::BadAddress,
        Page {
            title: "An address of a pod or node is not one",
            example: r#"status:
  podIPs:
  - ip: 10.0.0.300"#,
            reason: "Identities are found by address. An address that is not understood would leave its pod without an identity.",
            fix: "Take the manifests from the API server: `kubectl get pods -o yaml`.",
        },
    ),
    (
        Code::BadPortNumber,
        Page {
            title: "A number is out of range",
            example: r#"ports:
- containerPort: 80800"#,
            reason: "A port is at most 65535; other numbers have the bounds of their field.",
            fix: "Correct the number.",
        },
    ),
    (
        Code::MeshValue,
        Page {
            title: "A value of the MeshConfig is not one that Istio accepts",
            example: r#"pathNormalization:
  normalization: BASIC"#,
            reason: "The value decides what policies mean, so nothing is assumed in its place.",
            fix: "Write a value that the message names.",
        },
    ),
];
