//! Policies at random, for pods named after their service accounts, on two ports.

use std::fmt::Write;

use fastrand::Rng;

pub const PORTS: [u16; 2] = [8080, 8081];

/// None to four policies that the kernel alone decides.
pub fn draw(rng: &mut Rng, pods: &[String]) -> String {
    let mut text = String::new();
    for number in 0..rng.u32(0..5) {
        let action = ["ALLOW", "ALLOW", "DENY", "AUDIT"][rng.usize(0..4)];
        let written = write!(
            text,
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{number}, \
             namespace: default}}\nspec:\n  action: {action}\n"
        );
        assert!(written.is_ok(), "a string takes whatever is written to it");
        if rng.u32(0..4) != 0 {
            let app = pick(rng, pods);
            text += &format!("  selector: {{matchLabels: {{app: {app}}}}}\n");
        }
        text += "  rules:\n";
        for _ in 0..rng.u32(1..4) {
            text += &format!("  - {}\n", rule(rng, pods));
        }
    }
    text
}

fn rule(rng: &mut Rng, pods: &[String]) -> String {
    let account = format!("cluster.local/ns/default/sa/{}", pick(rng, pods));
    let source = match rng.u32(0..5) {
        0 => format!("principals: [{account}]"),
        1 => format!("notPrincipals: [{account}]"),
        2 => "namespaces: [default]".into(),
        3 => format!(
            "ipBlocks: [10.88.0.{}/31, \"fd88::/125\"]",
            rng.u32(1..8) * 2
        ),
        _ => "namespaces: [elsewhere]".into(),
    };
    let port = PORTS[rng.usize(0..PORTS.len())];
    match rng.u32(0..3) {
        0 => format!("{{from: [{{source: {{{source}}}}}]}}"),
        1 => format!("{{to: [{{operation: {{ports: [\"{port}\"]}}}}]}}"),
        _ => format!(
            "{{from: [{{source: {{{source}}}}}], to: [{{operation: {{ports: [\"{port}\"]}}}}]}}"
        ),
    }
}

fn pick<'a>(rng: &mut Rng, pods: &'a [String]) -> &'a str {
    &pods[rng.usize(0..pods.len())]
}
