//! What a rule asks for, as written: HTTP fields, ports, callers.

use super::value;
use crate::{
    ast::{Operation, Rule, Source},
    cluster::Protocol,
};

/// Whether the rule has a field that only HTTP has.
pub fn has_http(rule: &Rule) -> bool {
    let in_source = rule.from.iter().flatten().any(|source| {
        source.request_principals.is_some() || source.not_request_principals.is_some()
    });
    let in_operation = rule.to.iter().flatten().any(is_http);
    let in_condition = rule
        .when
        .iter()
        .flatten()
        .any(|condition| condition.key.starts_with("request."));
    in_source || in_operation || in_condition
}

fn is_http(operation: &Operation) -> bool {
    let lists = [
        &operation.hosts,
        &operation.not_hosts,
        &operation.methods,
        &operation.not_methods,
        &operation.paths,
        &operation.not_paths,
    ];
    lists.iter().any(|list| list.is_some())
}

/// Whether the rule's ports leave this one in.
pub fn may_match_port(rule: &Rule, port: u16) -> bool {
    let is = |list: &Option<Vec<String>>| {
        let mut values = list.iter().flatten();
        values.any(|value| value.parse() == Ok(port))
    };
    let by_operation = rule.to.as_ref().is_none_or(|list| {
        list.iter()
            .any(|o| (o.ports.is_none() || is(&o.ports)) && !is(&o.not_ports))
    });
    let by_condition = rule.when.iter().flatten().all(|c| {
        c.key != "destination.port" || (c.values.is_none() || is(&c.values)) && !is(&c.not_values)
    });
    by_operation && by_condition
}

/// Whether an ALLOW rule can let anybody in on a port that speaks `protocol`.
///
/// ISTIO: an ALLOW rule with an HTTP field is void on a TCP port.
pub fn may_allow(rule: &Rule, port: u16, protocol: Protocol) -> bool {
    may_match_port(rule, port) && !(protocol == Protocol::Tcp && has_http(rule))
}

/// Whether the rule may match a caller without an identity and without a token, whose address is
/// any of a node's. What only a request tells may match.
pub fn may_match_anonymous(rule: &Rule) -> bool {
    let by_source = match &rule.from {
        None => true,
        Some(sources) => sources.iter().any(is_anonymous),
    };
    let by_condition = rule.when.iter().flatten().all(|condition| {
        let values = condition.values.as_deref();
        match condition.key.as_str() {
            "source.ip" => {
                addresses_match(values) && !excludes_all(condition.not_values.as_deref())
            }
            key if key.starts_with("source.") || key.starts_with("request.auth.") => {
                values.is_none()
            }
            "connection.sni" => values.is_none(),
            key if key.starts_with("experimental.") => values.is_none(),
            _ => true,
        }
    });
    by_source && by_condition
}

fn is_anonymous(source: &Source) -> bool {
    let asks_who = [
        &source.principals,
        &source.request_principals,
        &source.namespaces,
        &source.service_accounts,
        &source.trust_domains,
    ];
    asks_who.iter().all(|list| list.is_none())
        && addresses_match(source.ip_blocks.as_deref())
        && addresses_match(source.remote_ip_blocks.as_deref())
        && !excludes_all(source.not_ip_blocks.as_deref())
        && !excludes_all(source.not_remote_ip_blocks.as_deref())
}

/// No list, or one that has every address of a family: which addresses nodes have is not known.
fn addresses_match(blocks: Option<&[String]>) -> bool {
    blocks.is_none_or(|blocks| excludes_all(Some(blocks)))
}

fn excludes_all(blocks: Option<&[String]>) -> bool {
    let all = |text: &String| value::block(text).is_some_and(|block| block.prefix_len() == 0);
    blocks.is_some_and(|blocks| blocks.iter().any(all))
}
