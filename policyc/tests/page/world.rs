//! Manifests to draw: shops with workloads of a few kinds each.

use std::fmt::Write;

/// `namespaces` shops of nine workloads. In each the web front may be reached from everywhere, the
/// carts only from the front, by request; databases only from their own service, in the kernel; and
/// `admin` is refused to everybody outside its namespace.
pub fn shops(namespaces: usize) -> String {
    let mut text = String::new();
    for n in 0..namespaces {
        let namespace = format!("shop-{n}");
        for (app, port, protocol) in WORKLOADS {
            let _ = write!(
                text,
                "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {app}, namespace: {namespace}}}\n\
                 spec:\n  selector: {{matchLabels: {{app: {app}}}}}\n  template:\n    metadata: {{labels: {{app: {app}}}}}\n\
                 \x20   spec:\n      serviceAccountName: {app}\n      containers: [{{name: c, image: i, ports: [{{name: {protocol}, containerPort: {port}}}]}}]\n"
            );
        }
        for (app, port, from, methods) in [
            (
                "cart",
                8080,
                "web",
                "methods: [GET, POST], paths: [\"/cart/*\"], ",
            ),
            ("orders", 8080, "cart", "methods: [POST], "),
            ("orders-db", 5432, "orders", ""),
            ("users-db", 5432, "users", ""),
            ("cache", 6379, "cart", ""),
        ] {
            let _ = write!(
                text,
                "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {app}, namespace: {namespace}}}\n\
                 spec:\n  selector: {{matchLabels: {{app: {app}}}}}\n  rules:\n  - from: [{{source: {{principals: [\"cluster.local/ns/{namespace}/sa/{from}\"]}}}}]\n\
                 \x20   to: [{{operation: {{{methods}ports: [\"{port}\"]}}}}]\n"
            );
        }
        let _ = write!(
            text,
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: admin, namespace: {namespace}}}\n\
             spec:\n  selector: {{matchLabels: {{app: admin}}}}\n  action: DENY\n  rules:\n  - from: [{{source: {{notNamespaces: [{namespace}]}}}}]\n"
        );
    }
    text
}

const WORKLOADS: [(&str, u16, &str); 9] = [
    ("admin", 8080, "http"),
    ("cache", 6379, "tcp"),
    ("cart", 8080, "http"),
    ("mailer", 2525, "tcp"),
    ("orders", 8080, "http"),
    ("orders-db", 5432, "tcp"),
    ("users", 8080, "http"),
    ("users-db", 5432, "tcp"),
    ("web", 8080, "http"),
];
