//! Istio's ambient mode: ztunnel judges connections, and istiod hands it what of a policy is about
//! connections. What is left of a rule is not what its author sees: a clause of which nothing is left
//! never holds, so that a DENY may come to nothing.

use crate::{
    ast::{Action, AuthorizationPolicy, Condition, Operation, Rule, Source},
    cluster::Cluster,
};

/// The policies as istiod hands them to ztunnel.
pub(super) fn reads(cluster: &Cluster) -> Cluster {
    let mut read = cluster.clone();
    // Tokens are a waypoint's business.
    read.request_authentications.clear();
    read.policies.retain(|policy| {
        // ISTIO: AUDIT and CUSTOM are not supported by ztunnel; a policy with targetRefs is a
        // waypoint's; a dry run is ignored.
        matches!(policy.action, Action::Allow | Action::Deny)
            && !policy.dry_run
            && policy.attachment.target_refs.is_empty()
    });
    for policy in &mut read.policies {
        rules(policy);
    }
    read
}

fn rules(policy: &mut AuthorizationPolicy) {
    let allow = policy.action == Action::Allow;
    for rule in policy.rules.iter_mut().flatten() {
        // ISTIO: an ALLOW rule with anything that ztunnel cannot judge is dropped; its policy still
        // makes the workload default-deny.
        if allow && asks_more(rule) {
            *rule = never();
        } else {
            *rule = connection(rule);
        }
    }
}

/// A rule that never holds: none of no sources is the client.
fn never() -> Rule {
    Rule {
        from: Some(Vec::new()),
        ..Rule::default()
    }
}

/// Whether the rule asks what no connection tells. Trust domains are no such thing: they are dropped
/// without a word.
fn asks_more(rule: &Rule) -> bool {
    let source = |s: &Source| {
        s.request_principals.is_some()
            || s.not_request_principals.is_some()
            || s.remote_ip_blocks.is_some()
            || s.not_remote_ip_blocks.is_some()
    };
    let operation = |o: &Operation| {
        let fields = [
            &o.hosts,
            &o.not_hosts,
            &o.methods,
            &o.not_methods,
            &o.paths,
            &o.not_paths,
        ];
        fields.into_iter().any(Option::is_some)
    };
    rule.from.iter().flatten().any(source)
        || rule.to.iter().flatten().any(operation)
        || rule.when.iter().flatten().any(|c| !is_about_connection(c))
}

fn is_about_connection(condition: &Condition) -> bool {
    matches!(
        condition.key.as_str(),
        "source.ip"
            | "source.namespace"
            | "source.principal"
            | "destination.ip"
            | "destination.port"
    )
}

/// What is left of a rule. An alternative of which nothing is left is passed over, and a list without
/// alternatives never holds.
fn connection(rule: &Rule) -> Rule {
    let from = rule.from.as_ref().map(|from| {
        let left = from.iter().map(source);
        left.filter(|s| *s != Source::default()).collect()
    });
    let to = rule.to.as_ref().map(|to| {
        let left = to.iter().map(|operation| Operation {
            ports: operation.ports.clone(),
            not_ports: operation.not_ports.clone(),
            ..Operation::default()
        });
        left.filter(|o| *o != Operation::default()).collect()
    });
    let conditions = rule.when.iter().flatten();
    if conditions.clone().any(|c| !is_about_connection(c)) {
        return never();
    }
    let when = conditions.map(condition).collect();
    Rule {
        from,
        to,
        when: rule.when.is_some().then_some(when),
    }
}

fn source(written: &Source) -> Source {
    Source {
        principals: written.principals.clone(),
        not_principals: written.not_principals.clone(),
        namespaces: namespaces(&written.namespaces),
        not_namespaces: namespaces(&written.not_namespaces),
        service_accounts: written.service_accounts.clone(),
        not_service_accounts: written.not_service_accounts.clone(),
        ip_blocks: written.ip_blocks.clone(),
        not_ip_blocks: written.not_ip_blocks.clone(),
        ..Source::default()
    }
}

fn condition(written: &Condition) -> Condition {
    if written.key != "source.namespace" {
        return written.clone();
    }
    Condition {
        key: written.key.clone(),
        values: namespaces(&written.values),
        not_values: namespaces(&written.not_values),
    }
}

/// ztunnel knows a star at one end; any other is a star, which no namespace has.
fn namespaces(written: &Option<Vec<String>>) -> Option<Vec<String>> {
    let one = |value: &String| {
        let inner = match value.strip_prefix('*') {
            Some(rest) => rest,
            None => value.strip_suffix('*').unwrap_or(value),
        };
        // A slash is in no namespace either, and means nothing to patterns.
        match inner.contains('*') {
            true => value.replace('*', "/"),
            false => value.clone(),
        }
    };
    written
        .as_ref()
        .map(|values| values.iter().map(one).collect())
}
