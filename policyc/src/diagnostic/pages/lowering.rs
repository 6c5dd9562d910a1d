//! Pages of the codes about lowering: what would not do here what it does under Istio.

use super::{Code, Page};

pub const PAGES: &[(Code, Page)] = &[
    (
        Code::NotCompiled,
        Page {
            title: "A value passed validation and cannot be compiled",
            example: "# none is known",
            reason: "Validation refuses every value that cannot be compiled, with its place. This is the second line: a value that slips through stops the compilation and is not dropped.",
            fix: "Write the value in another form, and report it.",
        },
    ),
    (
        Code::NotServed,
        Page {
            title: "A policy attaches to what is not enforced here",
            example: r#"action: DENY
targetRefs:
- {group: "", kind: Service, name: orders}"#,
            reason: "Policies with `targetRefs` are enforced by waypoints and gateways, never on the pods behind them. Where no given pod is that gateway, nothing enforces the policy. A DENY policy whose Service is among the manifests is an error: Istio would deny. Without the Service it is a warning, because the manifests say nothing about what it attaches to, and Istio accepts the policy.",
            fix: "Write a `selector` for the pods themselves, or give the gateway's pods.",
        },
    ),
    (
        Code::WiderInIstio,
        Page {
            title: "A pattern of namespaces matches more under Istio",
            example: r#"action: DENY
rules:
- from:
  - source: {namespaces: ["*sa"]}"#,
            reason: "Istio's sidecars compare `.*/ns/PATTERN/.*` with the whole identity, and a star crosses slashes: `*sa` ends at the `sa` of `/ns/shop/sa/web` and so matches every caller. Here a pattern is compared with the namespace alone. A DENY would then deny less than under Istio, which is an error; an exception of an ALLOW would keep out fewer callers, which is a warning.",
            fix: r#"Name the namespaces, or write `"*"` if all of them are meant."#,
        },
    ),
    (
        Code::FilterMetadata,
        Page {
            title: "A DENY rule asks for metadata of a filter that does not run here",
            example: r#"action: DENY
rules:
- when:
  - key: experimental.envoy.filters.network.mysql_proxy[db.table]
    values: ["[update]"]"#,
            reason: "Such metadata is set by filters of Envoy. None runs here, nor in Istio's own configuration unless somebody adds it; the attribute is absent, so the rule never matches.",
            fix: "Deny by an attribute of the connection or the request, or leave the workload to the mesh whose filter sets the value.",
        },
    ),
];
