//! Policies as written: a file a kind, plain values, nothing interpreted.
//!
//! An absent list, an empty list and a list with members are three different values
//! (`Option<Vec<_>>`). A position in the text is not kept with each value: whoever reports a problem
//! names the document and the path (`spec.rules[0].to[1].operation.paths[2]`), and
//! [`crate::diagnostic`] finds line and column.

mod authorization_policy;
pub(crate) mod parse;
mod request_authentication;

pub use authorization_policy::{
    Action, AuthorizationPolicy, Condition, Operation, Rule, Source, TargetRef,
};
pub use parse::schema;
pub use request_authentication::{ClaimToHeader, JwtHeader, JwtRule, RequestAuthentication};

/// Index of a YAML or JSON document among all that were read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize)]
pub struct DocumentId(pub u32);

/// Where a policy attaches: everything in scope, pods by label, or other objects.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attachment {
    /// `selector.matchLabels`; `None` and an empty map both select every workload in scope.
    pub selector: Option<std::collections::BTreeMap<String, String>>,
    /// `targetRefs`, or the legacy `targetRef` as a list of one.
    pub target_refs: Vec<TargetRef>,
}
