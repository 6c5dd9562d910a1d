//! What ztunnel says of a connection, written down plainly from what istiod hands it and how it
//! matches; knows the policies as written, and nothing of how they are compiled.

use std::net::IpAddr;

use policyc::{
    ast::{Action, AuthorizationPolicy, Condition, Operation, Rule, Source},
    cluster::{Cluster, Pod},
};

/// A connection as ztunnel sees it.
pub struct Connection<'a> {
    /// Trust domain, namespace, service account.
    pub identity: Option<[String; 3]>,
    pub source: IpAddr,
    pub to: &'a Pod,
    /// The destination's address that it goes to.
    pub destination: IpAddr,
    pub port: u16,
}

/// Whether the connection is let through.
pub fn allows(cluster: &Cluster, connection: &Connection<'_>) -> bool {
    let applying: Vec<&AuthorizationPolicy> = cluster
        .policies
        .iter()
        .filter(|p| {
            let place = p.namespace == connection.to.namespace
                || p.namespace == cluster.mesh.root_namespace;
            let selected = p
                .attachment
                .selector
                .iter()
                .flatten()
                .all(|(key, value)| connection.to.template.labels.get(key) == Some(value));
            place && selected && p.attachment.target_refs.is_empty() && !p.dry_run
        })
        .collect();
    let of = |action: Action| {
        let all = applying.iter().filter(move |p| p.action == action);
        all.copied().collect::<Vec<_>>()
    };
    let any = |policies: &[&AuthorizationPolicy]| {
        policies.iter().any(|p| {
            p.rules
                .iter()
                .flatten()
                .any(|rule| holds(p, rule, connection))
        })
    };
    if any(&of(Action::Deny)) {
        return false;
    }
    let allow = of(Action::Allow);
    allow.is_empty() || any(&allow)
}

type Values = Option<Vec<String>>;

/// `None`: the field is not asked.
fn field(is: &Values, not: &Values, matches: &dyn Fn(&str) -> bool) -> Option<bool> {
    let one = |value: &String| matches(value);
    match (is, not) {
        (None, None) => None,
        _ => Some(
            is.as_ref().is_none_or(|values| values.iter().any(one))
                && !not.as_ref().is_some_and(|values| values.iter().any(one)),
        ),
    }
}

/// All that is asked holds; nothing that is asked is no match.
fn all(fields: &[Option<bool>]) -> bool {
    let asked: Vec<bool> = fields.iter().flatten().copied().collect();
    !asked.is_empty() && asked.iter().all(|holds| *holds)
}

fn holds(policy: &AuthorizationPolicy, rule: &Rule, connection: &Connection<'_>) -> bool {
    if policy.action == Action::Allow && has_more(rule) {
        return false;
    }
    let from = rule
        .from
        .as_ref()
        .is_none_or(|list| list.iter().any(|s| source(policy, s, connection)));
    let to = rule
        .to
        .as_ref()
        .is_none_or(|list| list.iter().any(|o| operation(o, connection)));
    let when = rule.when.iter().flatten().all(|c| condition(c, connection));
    from && to && when
}

fn has_more(rule: &Rule) -> bool {
    let sources = rule.from.iter().flatten().any(|s| {
        s.request_principals.is_some()
            || s.not_request_principals.is_some()
            || s.remote_ip_blocks.is_some()
            || s.not_remote_ip_blocks.is_some()
    });
    let operations = rule.to.iter().flatten().any(|o| {
        o.hosts.is_some()
            || o.not_hosts.is_some()
            || o.methods.is_some()
            || o.not_methods.is_some()
            || o.paths.is_some()
            || o.not_paths.is_some()
    });
    sources
        || operations
        || rule
            .when
            .iter()
            .flatten()
            .any(|c| !KEYS.contains(&c.key.as_str()))
}

const KEYS: [&str; 5] = [
    "source.ip",
    "source.namespace",
    "source.principal",
    "destination.ip",
    "destination.port",
];

fn source(policy: &AuthorizationPolicy, s: &Source, c: &Connection<'_>) -> bool {
    let account = |value: &str| {
        let (namespace, name) = value
            .split_once('/')
            .unwrap_or((policy.namespace.as_str(), value));
        c.identity
            .as_ref()
            .is_some_and(|[_, ns, sa]| ns == namespace && sa == name)
    };
    all(&[
        field(&s.principals, &s.not_principals, &|v| principal(v, c)),
        field(&s.namespaces, &s.not_namespaces, &|v| namespace(v, c)),
        field(&s.service_accounts, &s.not_service_accounts, &account),
        field(&s.ip_blocks, &s.not_ip_blocks, &|v| within(v, c.source)),
    ])
}

fn operation(o: &Operation, c: &Connection<'_>) -> bool {
    all(&[field(&o.ports, &o.not_ports, &|v| port(v, c))])
}

fn condition(condition: &Condition, c: &Connection<'_>) -> bool {
    let matches = |value: &str| match condition.key.as_str() {
        "source.ip" => within(value, c.source),
        "source.namespace" => namespace(value, c),
        "source.principal" => principal(value, c),
        "destination.ip" => within(value, c.destination),
        "destination.port" => port(value, c),
        _ => false,
    };
    KEYS.contains(&condition.key.as_str())
        && all(&[field(&condition.values, &condition.not_values, &matches)])
}

fn text(pattern: &str, value: &str) -> bool {
    if pattern == "*" {
        !value.is_empty()
    } else if let Some(suffix) = pattern.strip_prefix('*') {
        value.ends_with(suffix)
    } else if let Some(prefix) = pattern.strip_suffix('*') {
        value.starts_with(prefix)
    } else {
        value == pattern
    }
}

fn principal(pattern: &str, c: &Connection<'_>) -> bool {
    c.identity
        .as_ref()
        .is_some_and(|[td, ns, sa]| text(pattern, &format!("{td}/ns/{ns}/sa/{sa}")))
}

fn namespace(pattern: &str, c: &Connection<'_>) -> bool {
    c.identity
        .as_ref()
        .is_some_and(|[_, ns, _]| text(pattern, ns))
}

fn port(value: &str, c: &Connection<'_>) -> bool {
    value.parse() == Ok(c.port)
}

fn within(block: &str, address: IpAddr) -> bool {
    match block.parse::<ipnet::IpNet>() {
        Ok(net) => net.contains(&address),
        Err(_) => block.parse() == Ok(address),
    }
}
