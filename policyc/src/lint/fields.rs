//! The lists of values in a rule, each with its name and its place.

use super::world::rule_path;
use crate::{
    ast::{AuthorizationPolicy, Condition, Operation, Source},
    diagnostic::Path,
};

/// A list of values that is written.
pub struct Field<'a> {
    /// As in YAML; of a condition the attribute's key.
    pub name: &'a str,
    /// `notX` or `notValues`.
    pub negative: bool,
    pub values: &'a [String],
    pub path: Path,
}

/// The fields of a source, absent ones left out.
pub fn source<'a>(source: &'a Source, path: &Path) -> Vec<Field<'a>> {
    let lists = [
        ("principals", &source.principals),
        ("notPrincipals", &source.not_principals),
        ("requestPrincipals", &source.request_principals),
        ("notRequestPrincipals", &source.not_request_principals),
        ("namespaces", &source.namespaces),
        ("notNamespaces", &source.not_namespaces),
        ("serviceAccounts", &source.service_accounts),
        ("notServiceAccounts", &source.not_service_accounts),
        ("trustDomains", &source.trust_domains),
        ("notTrustDomains", &source.not_trust_domains),
        ("ipBlocks", &source.ip_blocks),
        ("notIpBlocks", &source.not_ip_blocks),
        ("remoteIpBlocks", &source.remote_ip_blocks),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
    ];
    written(&lists, path)
}

/// The fields of an operation, absent ones left out.
pub fn operation<'a>(operation: &'a Operation, path: &Path) -> Vec<Field<'a>> {
    let lists = [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
        ("ports", &operation.ports),
        ("notPorts", &operation.not_ports),
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
        ("paths", &operation.paths),
        ("notPaths", &operation.not_paths),
    ];
    written(&lists, path)
}

/// The two lists of a condition, under the name of its key.
pub fn condition<'a>(condition: &'a Condition, path: &Path) -> Vec<Field<'a>> {
    let lists = [
        ("values", &condition.values),
        ("notValues", &condition.not_values),
    ];
    let mut fields = written(&lists, path);
    for field in &mut fields {
        field.name = &condition.key;
    }
    fields
}

/// All sources of a policy, with their paths.
pub fn sources(policy: &AuthorizationPolicy) -> impl Iterator<Item = (&Source, Path)> {
    parts(policy).flat_map(|(rule, path)| {
        let list = path.key("from");
        let part = move |(i, source)| (source, list.index(i).key("source"));
        rule.from.iter().flatten().enumerate().map(part)
    })
}

/// All operations of a policy, with their paths.
pub fn operations(policy: &AuthorizationPolicy) -> impl Iterator<Item = (&Operation, Path)> {
    parts(policy).flat_map(|(rule, path)| {
        let list = path.key("to");
        let part = move |(i, operation)| (operation, list.index(i).key("operation"));
        rule.to.iter().flatten().enumerate().map(part)
    })
}

/// All conditions of a policy, with their paths.
pub fn conditions(policy: &AuthorizationPolicy) -> impl Iterator<Item = (&Condition, Path)> {
    parts(policy).flat_map(|(rule, path)| {
        let list = path.key("when");
        let part = move |(i, condition)| (condition, list.index(i));
        rule.when.iter().flatten().enumerate().map(part)
    })
}

/// Every list of values of a policy.
pub fn all(policy: &AuthorizationPolicy) -> Vec<Field<'_>> {
    let mut fields = Vec::new();
    fields.extend(sources(policy).flat_map(|(s, path)| source(s, &path)));
    fields.extend(operations(policy).flat_map(|(o, path)| operation(o, &path)));
    fields.extend(conditions(policy).flat_map(|(c, path)| condition(c, &path)));
    fields
}

fn parts(policy: &AuthorizationPolicy) -> impl Iterator<Item = (&crate::ast::Rule, Path)> {
    let rules = policy.rules.iter().flatten().enumerate();
    rules.map(|(i, rule)| (rule, rule_path(policy, i)))
}

fn written<'a>(lists: &[(&'static str, &'a Option<Vec<String>>)], path: &Path) -> Vec<Field<'a>> {
    let given = |(name, list): &(&'static str, &'a Option<Vec<String>>)| {
        let values = list.as_deref()?;
        Some(Field {
            name,
            negative: name.starts_with("not"),
            values,
            path: path.key(name),
        })
    };
    lists.iter().filter_map(given).collect()
}
