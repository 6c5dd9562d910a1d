//! The parts of a rule: itself, each entry of its lists, and each of their values.

use super::{Kind, Part};
use crate::{
    ast::{Condition, Operation, Rule, Source},
    diagnostic::Path,
};

type Values = Option<Vec<String>>;
/// A field's name, its values, and the field that asks for the same and is not negated.
type Field<T> = (&'static str, fn(&T) -> &Values, fn(&mut T) -> &mut Values);

macro_rules! fields {
    ($( $name:literal $field:ident $positive:ident; )+) => {
        &[ $( ($name, |of| &of.$field, |of| &mut of.$positive), )+ ]
    };
}

const SOURCE: &[Field<Source>] = fields! {
    "principals" principals principals;
    "notPrincipals" not_principals principals;
    "requestPrincipals" request_principals request_principals;
    "notRequestPrincipals" not_request_principals request_principals;
    "namespaces" namespaces namespaces;
    "notNamespaces" not_namespaces namespaces;
    "serviceAccounts" service_accounts service_accounts;
    "notServiceAccounts" not_service_accounts service_accounts;
    "trustDomains" trust_domains trust_domains;
    "notTrustDomains" not_trust_domains trust_domains;
    "ipBlocks" ip_blocks ip_blocks;
    "notIpBlocks" not_ip_blocks ip_blocks;
    "remoteIpBlocks" remote_ip_blocks remote_ip_blocks;
    "notRemoteIpBlocks" not_remote_ip_blocks remote_ip_blocks;
};

const OPERATION: &[Field<Operation>] = fields! {
    "hosts" hosts hosts;
    "notHosts" not_hosts hosts;
    "ports" ports ports;
    "notPorts" not_ports ports;
    "methods" methods methods;
    "notMethods" not_methods methods;
    "paths" paths paths;
    "notPaths" not_paths paths;
};

const CONDITION: &[Field<Condition>] = fields! {
    "values" values values;
    "notValues" not_values values;
};

/// All parts of a rule, in the order in which they are written.
pub(super) fn parts(rule: &Rule) -> Vec<Part> {
    let mut parts = vec![Part {
        kind: Kind::Rule,
        path: Path::default(),
        value: None,
        alone: rule.clone(),
    }];
    for (number, source) in rule.from.iter().flatten().enumerate() {
        let path = Path::default().key("from").index(number);
        let alone = |source| Rule {
            from: Some(vec![source]),
            ..Rule::default()
        };
        parts.push(entry(path.clone(), alone(source.clone())));
        let empty = Source::default();
        values(
            source,
            &empty,
            SOURCE,
            &path.key("source"),
            &alone,
            &mut parts,
        );
    }
    for (number, operation) in rule.to.iter().flatten().enumerate() {
        let path = Path::default().key("to").index(number);
        let alone = |operation| Rule {
            to: Some(vec![operation]),
            ..Rule::default()
        };
        parts.push(entry(path.clone(), alone(operation.clone())));
        let empty = Operation::default();
        values(
            operation,
            &empty,
            OPERATION,
            &path.key("operation"),
            &alone,
            &mut parts,
        );
    }
    for (number, condition) in rule.when.iter().flatten().enumerate() {
        let path = Path::default().key("when").index(number);
        let alone = |condition| Rule {
            when: Some(vec![condition]),
            ..Rule::default()
        };
        parts.push(entry(path.clone(), alone(condition.clone())));
        let empty = Condition {
            key: condition.key.clone(),
            ..Condition::default()
        };
        values(condition, &empty, CONDITION, &path, &alone, &mut parts);
    }
    parts
}

fn entry(path: Path, alone: Rule) -> Part {
    Part {
        kind: Kind::Entry,
        path,
        value: None,
        alone,
    }
}

/// Each value of an entry's fields, by itself.
fn values<T: Clone>(
    of: &T,
    empty: &T,
    fields: &[Field<T>],
    path: &Path,
    alone: &dyn Fn(T) -> Rule,
    parts: &mut Vec<Part>,
) {
    for (name, field, positive) in fields {
        for (number, value) in field(of).iter().flatten().enumerate() {
            let mut one = empty.clone();
            *positive(&mut one) = Some(vec![value.clone()]);
            parts.push(Part {
                kind: Kind::Value,
                path: path.key(name).index(number),
                value: Some(value.clone()),
                alone: alone(one),
            });
        }
    }
}
