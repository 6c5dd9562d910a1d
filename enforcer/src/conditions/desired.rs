//! Which policies need a condition, and what it says.

use std::collections::BTreeMap;

use policyc::{
    diagnostic::{Code, Diagnostic, Severity},
    lower::label::Label,
    report::RuleLabel,
};

/// Most problems of one policy that are told of.
const TOLD_MAX: usize = 5;
/// Longest message: the API server takes no more than 32 KiB.
const MESSAGE_MAX: usize = 8 << 10;

/// A policy's condition, but for the times.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Desired {
    /// Whether the policy is in force.
    pub status: bool,
    pub reason: &'static str,
    pub message: String,
}

/// Of a policy that is not in force.
pub const NOT_ENFORCED: &str = "NotEnforced";
/// Of one that decides otherwise than it is written, or than it would under Istio.
pub const DIFFERS: &str = "EnforcedOtherwise";
/// Of one that had a condition, and needs none any more.
pub const EXACT: &str = "EnforcedAsWritten";

impl Desired {
    /// What is written where there is nothing to be said any more.
    pub fn exact() -> Self {
        Self {
            status: true,
            reason: EXACT,
            message: "every rule is enforced as it is written".into(),
        }
    }
}

/// The conditions that policies need, by `(namespace, name)`; the others need none. `labels` are those
/// of the program, where there is one.
pub fn desired(
    diagnostics: &[Diagnostic],
    labels: &[RuleLabel],
) -> BTreeMap<(String, String), Desired> {
    let mut by_policy: BTreeMap<&str, Vec<&Diagnostic>> = BTreeMap::new();
    for diagnostic in diagnostics.iter().filter(|d| is_told(d)) {
        if let Some(policy) = &diagnostic.policy {
            by_policy.entry(policy).or_default().push(diagnostic);
        }
    }
    let mut desired = BTreeMap::new();
    for (policy, mut found) in by_policy {
        // A policy without a namespace is none that the API server has.
        let Some((namespace, name)) = policy.split_once('/') else {
            continue;
        };
        found.sort_by_key(|d| (d.severity, d.code.as_str(), d.message.clone()));
        let failed = found.iter().any(|d| d.severity == Severity::Error);
        let condition = Desired {
            status: !failed,
            reason: if failed { NOT_ENFORCED } else { DIFFERS },
            message: message(&found, labels.iter().filter(|label| label.policy == policy)),
        };
        desired.insert((namespace.to_owned(), name.to_owned()), condition);
    }
    desired
}

/// Errors, and warnings about what is decided otherwise. Whether a policy is wise is for `policyc
/// check` to say.
fn is_told(diagnostic: &Diagnostic) -> bool {
    match diagnostic.severity {
        Severity::Error => true,
        Severity::Warning => matches!(
            diagnostic.code,
            Code::NotCompiled
                | Code::NotServed
                | Code::WiderInIstio
                | Code::FilterMetadata
                | Code::DenyHttpOnTcp
                | Code::HostNetwork
                | Code::MeshOnPod
        ),
        Severity::Note => false,
    }
}

fn message<'a>(found: &[&Diagnostic], labels: impl Iterator<Item = &'a RuleLabel>) -> String {
    let mut parts: Vec<String> = found
        .iter()
        .take(TOLD_MAX)
        .map(|d| format!("{}: {} ({})", d.code.as_str(), d.message, d.help))
        .collect();
    if found.len() > TOLD_MAX {
        parts.push(format!("and {} more", found.len() - TOLD_MAX));
    }
    for label in labels {
        if let Label::WidenedDeny | Label::NeverMatches = label.tcp {
            let (rule, word) = (label.rule, label.tcp.name());
            parts.push(format!("on TCP ports rule {rule} is {word}"));
        }
    }
    let mut message = parts.join("; ");
    if message.len() > MESSAGE_MAX {
        let end = message.floor_char_boundary(MESSAGE_MAX);
        message.truncate(end);
        message.push_str("...");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use policyc::diagnostic::At;

    fn told(
        code: Code,
        new: fn(Code, At, String, String) -> Diagnostic,
        policy: &str,
    ) -> Diagnostic {
        Diagnostic {
            policy: Some(policy.into()),
            ..new(code, At::default(), "something".into(), "mend it".into())
        }
    }

    fn error(code: Code, at: At, message: String, help: String) -> Diagnostic {
        Diagnostic::error(code, at, message, help)
    }

    fn warning(code: Code, at: At, message: String, help: String) -> Diagnostic {
        Diagnostic::warning(code, at, message, help)
    }

    #[test]
    fn errors_and_differences_are_told_and_lints_are_not() {
        let diagnostics = [
            told(Code::NotServed, error, "shop/a"),
            told(Code::DenyHttpOnTcp, warning, "shop/a"),
            told(Code::WiderInIstio, warning, "shop/b"),
            told(Code::RedundantRule, warning, "shop/c"),
        ];
        let conditions = desired(&diagnostics, &[]);
        let of = |name: &str| conditions.get(&("shop".into(), name.into()));
        let a = of("a").expect("it is not in force");
        assert_eq!((a.status, a.reason), (false, NOT_ENFORCED));
        assert_eq!(
            a.message,
            "P402: something (mend it); P308: something (mend it)"
        );
        let b = of("b").expect("it differs");
        assert_eq!((b.status, b.reason), (true, DIFFERS));
        assert_eq!(of("c"), None);
    }

    #[test]
    fn the_labels_of_its_rules_say_how_it_was_lowered() {
        let label = |policy: &str, tcp| RuleLabel {
            policy: policy.into(),
            rule: 3,
            line: 1,
            file: String::new(),
            http: Label::Redirect,
            tcp,
            undeclared: Label::Redirect,
        };
        let diagnostics = [told(Code::DenyHttpOnTcp, warning, "shop/a")];
        let labels = [
            label("shop/a", Label::WidenedDeny),
            label("shop/a", Label::Exact),
            label("shop/b", Label::WidenedDeny),
        ];
        let conditions = desired(&diagnostics, &labels);
        let message = &conditions[&("shop".into(), "a".into())].message;
        assert!(
            message.ends_with("(mend it); on TCP ports rule 3 is widened-deny"),
            "{message}"
        );
        assert_eq!(conditions.len(), 1);
    }

    #[test]
    fn a_message_is_cut_where_it_would_be_too_long() {
        let mut long = told(Code::NotServed, error, "shop/a");
        long.message = "\u{e4}".repeat(MESSAGE_MAX);
        let conditions = desired(&[long], &[]);
        let message = &conditions[&("shop".into(), "a".into())].message;
        assert!(message.len() <= MESSAGE_MAX + 3 && message.ends_with("..."));
    }
}
