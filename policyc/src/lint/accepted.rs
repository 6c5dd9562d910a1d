//! Warnings that a policy accepts: `enforcer/accepted-warnings: "P320"` in its annotations says that what
//! is probably wrong is meant. Such a warning becomes a note, so that it is still told.

use std::collections::BTreeMap;

use crate::{
    ast::AuthorizationPolicy,
    diagnostic::{At, Code, Diagnostic, Severity},
    read::{Loaded, Sources},
};

/// The annotation, with codes and commas between them.
pub const ACCEPTED_WARNINGS: &str = "enforcer/accepted-warnings";

/// Makes notes of warnings that are accepted.
pub(super) fn accept(loaded: &Loaded, found: &mut Vec<Diagnostic>) {
    let policies = loaded.cluster.policies.iter();
    let annotated = policies.filter(|p| loaded.sources.mentions(p.document, ACCEPTED_WARNINGS));
    let mut accepted: BTreeMap<String, Vec<Code>> = BTreeMap::new();
    for policy in annotated {
        let name = super::world::name(policy);
        let at = At {
            document: policy.document,
            path: policy
                .object
                .key("metadata")
                .key("annotations")
                .key(ACCEPTED_WARNINGS),
        };
        for code in codes(&loaded.sources, policy, &at) {
            match Code::parse(&code).filter(|code| is_warning(*code)) {
                Some(code) => accepted.entry(name.clone()).or_default().push(code),
                None => found.push(unknown(&code, at.clone(), name.clone())),
            }
        }
    }
    for one in found
        .iter_mut()
        .filter(|one| one.severity == Severity::Warning)
    {
        let codes = one.policy.as_ref().and_then(|policy| accepted.get(policy));
        if codes.is_some_and(|codes| codes.contains(&one.code)) {
            one.severity = Severity::Note;
            one.message += " (accepted)";
        }
    }
}

/// The codes that stand in the annotation, if the policy has it.
fn codes(sources: &Sources, policy: &AuthorizationPolicy, at: &At) -> Vec<String> {
    if !sources.has(policy.document, &at.path) {
        return Vec::new();
    }
    let place = sources.place(policy.document, &at.path, false);
    let text = place
        .and_then(|place| place.text.get(place.span))
        .unwrap_or_default();
    text.trim_matches(['"', '\''])
        .split(',')
        .map(|code| code.trim().to_owned())
        .filter(|code| !code.is_empty())
        .collect()
}

/// Errors are not accepted: nothing is compiled with them. Their codes begin otherwise.
fn is_warning(code: Code) -> bool {
    matches!(code.as_str().get(..2), Some("P3" | "P4"))
}

fn unknown(code: &str, at: At, policy: String) -> Diagnostic {
    let message = format!("`{code}` is no warning that could be accepted");
    let help =
        "list codes as `policyc check` prints them, with commas between them: \"P309, P320\"";
    Diagnostic {
        severity: Severity::Warning,
        ..Diagnostic::error(Code::AcceptedWarning, at, message, help).of_policy(policy)
    }
}
