//! AuthorizationPolicy, security.istio.io v1 and v1beta1: one schema under two names.

use super::{Attachment, DocumentId};

/// One AuthorizationPolicy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthorizationPolicy {
    pub document: DocumentId,
    /// Path of the object inside its document: empty, or `items[3]` within a List.
    pub object: crate::diagnostic::Path,
    pub namespace: String,
    pub name: String,
    /// Annotation `istio.io/dry-run`, parsed as Go's ParseBool does.
    pub dry_run: bool,
    pub attachment: Attachment,
    pub action: Action,
    /// `None`: the field is absent (or an empty list, which the API server stores as absent).
    pub rules: Option<Vec<Rule>>,
}

/// `spec.action`, with the provider where it belongs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    Allow,
    Deny,
    Audit,
    Custom { provider: String },
}

/// One of `spec.rules`: `from` and `to` and `when` all hold. A rule without any of the three
/// matches every request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rule {
    pub from: Option<Vec<Source>>,
    pub to: Option<Vec<Operation>>,
    pub when: Option<Vec<Condition>>,
}

/// `from[].source`: all fields that are set hold; within one field any value does. Never all empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Source {
    pub principals: Option<Vec<String>>,
    pub not_principals: Option<Vec<String>>,
    pub request_principals: Option<Vec<String>>,
    pub not_request_principals: Option<Vec<String>>,
    pub namespaces: Option<Vec<String>>,
    pub not_namespaces: Option<Vec<String>>,
    pub service_accounts: Option<Vec<String>>,
    pub not_service_accounts: Option<Vec<String>>,
    pub trust_domains: Option<Vec<String>>,
    pub not_trust_domains: Option<Vec<String>>,
    pub ip_blocks: Option<Vec<String>>,
    pub not_ip_blocks: Option<Vec<String>>,
    pub remote_ip_blocks: Option<Vec<String>>,
    pub not_remote_ip_blocks: Option<Vec<String>>,
}

/// `to[].operation`: all fields that are set hold; within one field any value does. Never all empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Operation {
    pub hosts: Option<Vec<String>>,
    pub not_hosts: Option<Vec<String>>,
    pub ports: Option<Vec<String>>,
    pub not_ports: Option<Vec<String>>,
    pub methods: Option<Vec<String>>,
    pub not_methods: Option<Vec<String>>,
    pub paths: Option<Vec<String>>,
    pub not_paths: Option<Vec<String>>,
}

/// `when[]`: at least one of the two lists has members; both that do must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Condition {
    pub key: String,
    pub values: Option<Vec<String>>,
    pub not_values: Option<Vec<String>>,
}

/// `targetRefs[]`. `group` is empty for the core group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TargetRef {
    pub group: String,
    pub kind: String,
    pub name: String,
}
