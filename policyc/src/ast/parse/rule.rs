//! One of `spec.rules`: sources, operations, conditions.

use super::{not_null, value};
use crate::{
    ast::{Action, Condition, Operation, Rule, Source},
    diagnostic::Code,
    read::{
        node::{Node, Reader, nearest},
        value::Value,
    },
};

pub(super) const FROM_MAX: usize = 512;

pub(super) const SOURCE: &[&str] = &[
    "principals",
    "notPrincipals",
    "requestPrincipals",
    "notRequestPrincipals",
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "trustDomains",
    "notTrustDomains",
    "ipBlocks",
    "notIpBlocks",
    "remoteIpBlocks",
    "notRemoteIpBlocks",
];

pub(super) const OPERATION: &[&str] = &[
    "hosts",
    "notHosts",
    "ports",
    "notPorts",
    "methods",
    "notMethods",
    "paths",
    "notPaths",
];

pub(super) const RULE: &[&str] = &["from", "to", "when"];

pub(super) const CONDITION: &[&str] = &["key", "values", "notValues"];

pub fn rule(reader: &mut Reader<'_>, node: &Node<'_>, action: &Action) -> Option<Rule> {
    reader.map(node)?;
    reader.only_keys(node, "a rule", RULE);
    let from = parts(reader, node, "from", "source", SOURCE, |reader, part| {
        source(reader, part, action)
    });
    let to = parts(reader, node, "to", "operation", OPERATION, operation);
    let mut when = None;
    if let Some(list) = node.get("when")
        && reader.list(&list).is_some()
    {
        let mut conditions = Vec::new();
        for item in list.items() {
            if not_null(reader, &item) {
                conditions.extend(condition(reader, &item, action));
            }
        }
        when = (!conditions.is_empty()).then_some(conditions);
    }
    let rule = Rule { from, to, when };
    if *action == Action::Deny {
        warn_http_only(reader, node, &rule);
    }
    Some(rule)
}

/// `from` and `to`: a list of items with one field each, whose fields are read by `read`.
fn parts<T>(
    reader: &mut Reader<'_>,
    rule: &Node<'_>,
    list: &str,
    inner: &str,
    known: &[&str],
    mut read: impl FnMut(&mut Reader<'_>, &Node<'_>) -> T,
) -> Option<Vec<T>> {
    let node = rule.get(list)?;
    reader.list(&node)?;
    let count = node.items().len();
    if count == 0 {
        reader.error(
            Code::EmptyRulePart,
            &node,
            format!("`{list}` must not be empty"),
            format!("remove `{list}` to match every {inner}, or name one"),
        );
    }
    if list == "from" && count > FROM_MAX {
        reader.error(
            Code::TooMany,
            &node,
            format!("`{list}` has more than {FROM_MAX} items"),
            "split the rule: several rules are alternatives, too",
        );
    }
    let mut parts = Vec::new();
    for item in node.items() {
        if !not_null(reader, &item) || reader.map(&item).is_none() {
            continue;
        }
        let misplaced = misplaced_fields(reader, &item, inner, known);
        let part = item.get(inner);
        let has_fields = part.as_ref().is_some_and(|part| {
            known
                .iter()
                .any(|key| part.get(key).is_some_and(|f| f.items().len() > 0))
        });
        if let Some(part) = &part
            && reader.map(part).is_some()
        {
            reader.only_keys(part, &format!("`{inner}`"), known);
            parts.push(read(reader, part));
        }
        // An item that only has unknown or wrong fields has been reported for those.
        let bare = part.as_ref().is_none_or(|p| {
            matches!(p.value, Value::Map(_))
                && p.entries().all(|(k, v)| {
                    known.contains(&k.text.as_str())
                        && v.items().len() == 0
                        && v.value.kind() != "a string"
                })
        });
        if !has_fields && bare && !misplaced {
            reader.error(
                Code::EmptyRulePart,
                part.as_ref().unwrap_or(&item),
                format!("`{inner}` must name at least one field"),
                match count {
                    1 => format!("remove `{list}` to match every {inner}, or say which is meant"),
                    _ => format!("remove the item, or say which {inner} is meant"),
                },
            );
        }
    }
    Some(parts)
}

/// Reports keys beside `source` or `operation`; most are its own fields, one level too high.
fn misplaced_fields(reader: &mut Reader<'_>, item: &Node<'_>, inner: &str, known: &[&str]) -> bool {
    let mut misplaced = false;
    for (key, child) in item.entries() {
        let name = key.text.as_str();
        if name == inner || name == "<<" {
            continue;
        }
        misplaced = true;
        let help = match nearest(name, [inner].into_iter().chain(known.iter().copied())) {
            Some(near) if near == inner => format!("did you mean `{inner}`?"),
            Some(near) => format!("write `{near}` one level deeper, under `{inner}:`"),
            None => format!("an item has one field, `{inner}`"),
        };
        let message = format!("unknown field `{name}` beside `{inner}`");
        reader.error(Code::UnknownField, &child, message, help);
    }
    misplaced
}

fn source(reader: &mut Reader<'_>, node: &Node<'_>, action: &Action) -> Source {
    let mut list = |key: &str, check: value::Check| values(reader, node, key, check);
    let source = Source {
        principals: list("principals", value::any),
        not_principals: list("notPrincipals", value::any),
        request_principals: list("requestPrincipals", value::any),
        not_request_principals: list("notRequestPrincipals", value::any),
        namespaces: list("namespaces", value::any),
        not_namespaces: list("notNamespaces", value::any),
        service_accounts: list("serviceAccounts", value::service_account),
        not_service_accounts: list("notServiceAccounts", value::service_account),
        trust_domains: list("trustDomains", value::trust_domain),
        not_trust_domains: list("notTrustDomains", value::trust_domain),
        ip_blocks: list("ipBlocks", value::ip_block),
        not_ip_blocks: list("notIpBlocks", value::ip_block),
        remote_ip_blocks: list("remoteIpBlocks", value::ip_block),
        not_remote_ip_blocks: list("notRemoteIpBlocks", value::ip_block),
    };
    for key in ["serviceAccounts", "notServiceAccounts"] {
        if let Some(list) = node.get(key) {
            value::service_account_count(reader, &list);
        }
    }
    if matches!(action, Action::Custom { .. }) {
        for (key, child) in node.entries() {
            if child.items().len() > 0 && SOURCE[..10].contains(&key.text.as_str()) {
                not_with_custom(reader, &child, &key.text);
            }
        }
    }
    mixed_identity(reader, node);
    source
}

/// ISTIO: "cannot set serviceAccounts with namespaces or principals"
fn mixed_identity(reader: &mut Reader<'_>, node: &Node<'_>) {
    let set = |keys: &[&str]| {
        let lists = keys
            .iter()
            .filter_map(|key| node.get(key).map(|list| (*key, list)));
        lists
            .into_iter()
            .find(|(_, list)| list.items().len() > 0)
            .map(|(key, _)| key.to_owned())
    };
    let accounts = set(&["serviceAccounts", "notServiceAccounts"]);
    let others = set(&["principals", "notPrincipals", "namespaces", "notNamespaces"]);
    if let (Some(account), Some(other)) = (accounts, others) {
        let at = node.get(&other);
        reader.error(
            Code::MixedIdentity,
            at.as_ref().unwrap_or(node),
            format!("`{account}` cannot be used together with `{other}` in one source"),
            format!(
                "write the namespace into `{account}`, as `namespace/name`, and remove `{other}`"
            ),
        );
    }
}

fn operation(reader: &mut Reader<'_>, node: &Node<'_>) -> Operation {
    let mut list = |key: &str, check: value::Check| values(reader, node, key, check);
    Operation {
        hosts: list("hosts", value::any),
        not_hosts: list("notHosts", value::any),
        ports: list("ports", value::port),
        not_ports: list("notPorts", value::port),
        methods: list("methods", value::any),
        not_methods: list("notMethods", value::any),
        paths: list("paths", value::path),
        not_paths: list("notPaths", value::path),
    }
}

/// A list of strings, each checked. An empty list is as absent as it is to Istio.
fn values(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    key: &str,
    check: value::Check,
) -> Option<Vec<String>> {
    let list = node.get(key)?;
    let strings = reader.strings(&list)?;
    for item in list.items() {
        if let Some(text) = item.value.as_str() {
            value::check(reader, &item, text, check);
        }
    }
    (!strings.is_empty()).then_some(strings)
}

fn condition(reader: &mut Reader<'_>, node: &Node<'_>, action: &Action) -> Option<Condition> {
    reader.map(node)?;
    let whole = reader.only_keys(node, "a condition", CONDITION);
    let key = reader
        .field(node, "key", Reader::string)
        .unwrap_or_default();
    let key_node = node.get("key");
    let at = key_node.as_ref().unwrap_or(node);
    let has_key = key_node
        .as_ref()
        .is_some_and(|key| key.value.as_str() != Some(""));
    if !has_key && whole {
        reader.error(
            Code::ConditionKey,
            at,
            "the condition has no `key`".into(),
            "name the attribute to compare, such as `request.headers[x-token]`",
        );
    }
    let check = match key.is_empty() {
        true => value::any,
        false => value::condition_key(reader, at, &key),
    };
    let condition = Condition {
        values: values(reader, node, "values", check),
        not_values: values(reader, node, "notValues", check),
        key,
    };
    if condition.key == "source.serviceAccount" {
        for list in ["values", "notValues"].iter().filter_map(|k| node.get(k)) {
            value::service_account_count(reader, &list);
        }
    }
    let given = ["values", "notValues"]
        .iter()
        .filter_map(|k| node.get(k))
        // What is no list has been reported as that.
        .any(|list| list.items().len() > 0 || !matches!(list.value, Value::List(_)));
    if !given && whole {
        // ISTIO: "at least one of `values` or `notValues` must be set"
        reader.error(
            Code::ConditionValues,
            node,
            format!("the condition on `{}` has neither `values` nor `notValues`", condition.key),
            "write at least one of the two lists; `values: [\"*\"]` asks that the attribute is there",
        );
    }
    let identity = [
        "source.namespace",
        "source.serviceAccount",
        "source.principal",
        "source.trustDomain",
    ];
    if matches!(action, Action::Custom { .. })
        && (identity.contains(&condition.key.as_str())
            || condition.key.starts_with("request.auth."))
    {
        not_with_custom(reader, at, &condition.key);
    }
    Some(condition)
}

fn not_with_custom(reader: &mut Reader<'_>, node: &Node<'_>, what: &str) {
    reader.error(
        Code::CustomAttribute,
        node,
        format!("a CUSTOM policy cannot use `{what}`: it is asked before identities are known"),
        "let an ALLOW or DENY policy check the identity",
    );
}

/// ISTIO: "configured AuthorizationPolicy will deny all traffic to TCP ports under its scope due to
/// the use of only HTTP attributes in a DENY rule; it is recommended to explicitly specify the port"
fn warn_http_only(reader: &mut Reader<'_>, node: &Node<'_>, rule: &Rule) {
    let any_port = |o: &Operation| o.ports.is_some() || o.not_ports.is_some();
    let (from, to) = (rule.from.as_deref(), rule.to.as_deref());
    let warn = match (from, to) {
        (_, Some(to)) => !to.iter().any(any_port),
        (Some(from), None) => !from.iter().any(has_l4),
        (None, None) => false,
    };
    if warn {
        reader.warning(
            Code::HttpOnlyDeny,
            node,
            format!(
                "this DENY rule names no port, and its HTTP fields are dropped on TCP ports: there \
                 it denies {}",
                left_on_tcp(rule)
            ),
            "name the HTTP ports it is meant for: `ports: [\"8080\"]`",
        );
    }
}

/// What a DENY rule denies on a TCP port that it matches.
pub(crate) fn left_on_tcp(rule: &Rule) -> &'static str {
    let sources = rule.from.as_deref();
    let by_source = sources.is_some_and(|sources| sources.iter().all(has_l4));
    let other = |c: &Condition| !c.key.starts_with("request.") && c.key != "destination.port";
    match by_source || rule.when.iter().flatten().any(other) {
        true => "every connection that the rest of it matches",
        false => "every connection",
    }
}

/// Whether the source has a field that a connection has without HTTP.
fn has_l4(source: &Source) -> bool {
    let lists = [
        &source.principals,
        &source.not_principals,
        &source.namespaces,
        &source.not_namespaces,
        &source.service_accounts,
        &source.not_service_accounts,
        &source.ip_blocks,
        &source.not_ip_blocks,
        &source.remote_ip_blocks,
        &source.not_remote_ip_blocks,
        &source.trust_domains,
        &source.not_trust_domains,
    ];
    lists.iter().any(|list| list.is_some())
}
