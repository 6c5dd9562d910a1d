//! The lists of values in a rule, each with its name and its place.

use crate::{
    ast::{AuthorizationPolicy, Condition, Operation, Rule, Source},
    diagnostic::Path,
};

/// A list of values that is written.
#[derive(Clone, Copy)]
pub struct Field<'a> {
    /// As in YAML; of a condition the attribute's key.
    pub name: &'a str,
    /// `notX` or `notValues`.
    pub negative: bool,
    pub values: &'a [String],
    part: Part<'a>,
    key: &'static str,
}

/// A part of a rule: a source, an operation or a condition. Its path is only built for a finding.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    object: &'a Path,
    pub rule: usize,
    /// `from`, `to` or `when`.
    list: &'static str,
    item: usize,
}

impl Part<'static> {
    /// For a comparison that reports nothing.
    pub const NOWHERE: Self = {
        static NOWHERE: Path = Path(Vec::new());
        Self {
            object: &NOWHERE,
            rule: 0,
            list: "",
            item: 0,
        }
    };
}

impl Part<'_> {
    /// Where the part is in its document.
    pub fn path(&self) -> Path {
        let rule = self.object.key("spec").key("rules").index(self.rule);
        let item = rule.key(self.list).index(self.item);
        match self.list {
            "from" => item.key("source"),
            "to" => item.key("operation"),
            _ => item,
        }
    }
}

impl Field<'_> {
    /// Where the list is in its document.
    pub fn path(&self) -> Path {
        self.part.path().key(self.key)
    }

    /// Whether two lists are in one rule.
    pub fn is_in_rule_of(&self, other: &Field<'_>) -> bool {
        self.part.rule == other.part.rule
    }

    /// Whether two lists are in one source, operation or condition.
    pub fn is_beside(&self, other: &Field<'_>) -> bool {
        (self.part.rule, self.part.list, self.part.item)
            == (other.part.rule, other.part.list, other.part.item)
    }
}

/// The fields of a source, absent ones left out.
pub fn source<'a>(source: &'a Source, part: Part<'a>) -> impl Iterator<Item = Field<'a>> {
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
    written(lists, part)
}

/// The fields of an operation, absent ones left out.
pub fn operation<'a>(operation: &'a Operation, part: Part<'a>) -> impl Iterator<Item = Field<'a>> {
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
    written(lists, part)
}

/// The two lists of a condition, under the name of its key.
pub fn condition<'a>(condition: &'a Condition, part: Part<'a>) -> impl Iterator<Item = Field<'a>> {
    let lists = [
        ("values", &condition.values),
        ("notValues", &condition.not_values),
    ];
    written(lists, part).map(|field| Field {
        name: &condition.key,
        ..field
    })
}

/// All sources of a policy, with their places.
pub fn sources(policy: &AuthorizationPolicy) -> impl Iterator<Item = (&Source, Part<'_>)> {
    parts(policy, "from", |rule| rule.from.as_deref())
}

/// All operations of a policy, with their places.
pub fn operations(policy: &AuthorizationPolicy) -> impl Iterator<Item = (&Operation, Part<'_>)> {
    parts(policy, "to", |rule| rule.to.as_deref())
}

/// All conditions of a policy, with their places.
pub fn conditions(policy: &AuthorizationPolicy) -> impl Iterator<Item = (&Condition, Part<'_>)> {
    parts(policy, "when", |rule| rule.when.as_deref())
}

/// Every list of values of a policy.
pub fn all(policy: &AuthorizationPolicy) -> Vec<Field<'_>> {
    let mut fields = Vec::new();
    for (item, part) in sources(policy) {
        fields.extend(source(item, part));
    }
    for (item, part) in operations(policy) {
        fields.extend(operation(item, part));
    }
    for (item, part) in conditions(policy) {
        fields.extend(condition(item, part));
    }
    fields
}

fn parts<'a, T: 'a>(
    policy: &'a AuthorizationPolicy,
    list: &'static str,
    items: impl Fn(&'a Rule) -> Option<&'a [T]>,
) -> impl Iterator<Item = (&'a T, Part<'a>)> {
    let rules = policy.rules.iter().flatten().enumerate();
    rules.flat_map(move |(number, rule)| {
        let items = items(rule).unwrap_or_default().iter().enumerate();
        items.map(move |(i, item)| {
            let part = Part {
                object: &policy.object,
                rule: number,
                list,
                item: i,
            };
            (item, part)
        })
    })
}

fn written<'a, const N: usize>(
    lists: [(&'static str, &'a Option<Vec<String>>); N],
    part: Part<'a>,
) -> impl Iterator<Item = Field<'a>> {
    lists.into_iter().filter_map(move |(name, list)| {
        Some(Field {
            name,
            negative: name.starts_with("not"),
            values: list.as_deref()?,
            part,
            key: name,
        })
    })
}
