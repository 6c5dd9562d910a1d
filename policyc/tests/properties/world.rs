//! A small world, in which every value that a policy may name is likely to be met by a request.

use std::{collections::BTreeMap, sync::Arc};

use policyc::{
    ast::{
        Action, Attachment, AuthorizationPolicy, ClaimToHeader, Condition, DocumentId, JwtRule,
        Operation, RequestAuthentication, Rule, Source,
    },
    cluster::{
        Cluster, ContainerPort, ExtAuthz, ExtensionProvider, Mesh, Pod, PodTemplate, ProviderKind,
    },
    diagnostic::Path,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

/// Pods a/x, a/y, b/x and b/z with ports 80 (http), 81 (tcp) and 82 (undeclared); tokens are looked
/// for on a/x, and b has a RequestAuthentication that looks for none.
pub fn cluster(mut policies: Vec<AuthorizationPolicy>) -> Cluster {
    for (i, policy) in policies.iter_mut().enumerate() {
        if policy.name.is_empty() {
            policy.name = format!("p{i}");
        }
    }
    policies.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let pods = [
        ("a", "x", "10.0.0.1", "fd00::1"),
        ("a", "y", "10.0.0.2", "fd00::2"),
        ("b", "x", "10.0.1.1", "fd00::1:1"),
        ("b", "z", "10.1.0.1", "fd01::1"),
    ];
    let provider = |name: &str, kind| ExtensionProvider {
        name: name.into(),
        kind,
    };
    Cluster {
        mesh: Mesh {
            trust_domain_aliases: vec!["old".into(), "o*".into()],
            extension_providers: vec![
                provider("grpc", ProviderKind::ExtAuthzGrpc(ExtAuthz::default())),
                provider("web", ProviderKind::ExtAuthzHttp(ExtAuthz::default())),
            ],
            ..Mesh::default()
        },
        pods: pods
            .into_iter()
            .map(|(ns, name, v4, v6)| Arc::new(pod(ns, name, [v4, v6])))
            .collect(),
        policies,
        request_authentications: vec![
            authentication("a", "tokens", vec![jwt_rule("me"), jwt_rule("")]),
            authentication("b", "none", Vec::new()),
        ],
        ..Cluster::default()
    }
}

fn authentication(namespace: &str, name: &str, jwt_rules: Vec<JwtRule>) -> RequestAuthentication {
    RequestAuthentication {
        document: DocumentId::default(),
        object: Path::default(),
        namespace: namespace.into(),
        name: name.into(),
        attachment: Attachment {
            selector: Some(BTreeMap::from([("app".into(), "x".into())])),
            target_refs: Vec::new(),
        },
        jwt_rules,
    }
}

/// The rule of any issuer splits `group`; the other's writes headers.
fn jwt_rule(issuer: &str) -> JwtRule {
    let any = issuer.is_empty();
    JwtRule {
        issuer: issuer.into(),
        jwks: Some(super::requests::KEYS.into()),
        space_delimited_claims: any.then(|| "group".into()).into_iter().collect(),
        output_claim_to_headers: (!any)
            .then(|| ClaimToHeader {
                header: "X-User".into(),
                claim: "sub".into(),
            })
            .into_iter()
            .collect(),
        forward_original_token: any,
        ..JwtRule::default()
    }
}

fn pod(namespace: &str, name: &str, ips: [&str; 2]) -> Pod {
    let port = |name: &str, port| ContainerPort {
        name: name.into(),
        port,
    };
    Pod {
        namespace: namespace.into(),
        name: name.into(),
        template: PodTemplate {
            labels: BTreeMap::from([("app".into(), name.into())]),
            service_account: format!("sa-{name}"),
            ports: vec![port("http", 80), port("tcp-db", 81), port("main", 82)],
            ..PodTemplate::default()
        },
        ips: ips
            .iter()
            .map(|ip| ip.parse().expect("an address"))
            .collect(),
        ..Pod::default()
    }
}

/// An ALLOW policy in the root namespace that matches nothing.
pub fn allow_nothing() -> AuthorizationPolicy {
    AuthorizationPolicy {
        document: DocumentId::default(),
        object: Path::default(),
        namespace: "istio-system".into(),
        name: "nothing".into(),
        dry_run: false,
        attachment: Attachment::default(),
        action: Action::Allow,
        rules: None,
    }
}

/// Any valid policy of the small world.
pub fn policy() -> impl Strategy<Value = AuthorizationPolicy> {
    let action = prop_oneof![
        5 => Just(Action::Allow),
        4 => Just(Action::Deny),
        1 => Just(Action::Audit),
        1 => select(vec!["grpc", "web", "gone"])
            .prop_map(|p| Action::Custom { provider: p.into() }),
    ];
    (
        select(vec!["a", "b", "istio-system"]),
        prop_oneof![4 => Just(false), 1 => Just(true)],
        option::of(select(vec!["x", "y", "z"])),
        action,
        vec(rule(), 0..4),
    )
        .prop_map(|(namespace, dry_run, app, action, mut rules)| {
            let custom = matches!(action, Action::Custom { .. });
            if custom {
                rules.iter_mut().for_each(only_what_custom_may_ask);
            }
            if rules.is_empty() && action != Action::Allow {
                rules.push(Rule::default());
            }
            AuthorizationPolicy {
                namespace: namespace.into(),
                name: String::new(),
                dry_run: dry_run && matches!(action, Action::Allow | Action::Deny),
                attachment: Attachment {
                    selector: app.map(|app| BTreeMap::from([("app".into(), app.into())])),
                    target_refs: Vec::new(),
                },
                action,
                rules: (!rules.is_empty()).then_some(rules),
                ..allow_nothing()
            }
        })
}

/// A policy that asks one question, of whatever is asked of a/x.
pub fn question() -> impl Strategy<Value = AuthorizationPolicy> {
    let action = select(vec![Action::Allow, Action::Deny]);
    (action, condition()).prop_map(|(action, condition)| AuthorizationPolicy {
        namespace: "a".into(),
        name: String::new(),
        action,
        rules: Some(vec![Rule {
            when: Some(vec![condition]),
            ..Rule::default()
        }]),
        ..allow_nothing()
    })
}

type Values = Option<Vec<String>>;
/// Values that a field is likely to meet, and what sets the field and its not-form.
type Field<T> = (&'static [&'static str], fn(Values, Values) -> T);

const SOURCE_FIELDS: &[Field<Source>] = &[
    (PRINCIPALS, |principals, not_principals| Source {
        principals,
        not_principals,
        ..Source::default()
    }),
    (NAMESPACES, |namespaces, not_namespaces| Source {
        namespaces,
        not_namespaces,
        ..Source::default()
    }),
    (ACCOUNTS, |service_accounts, not_service_accounts| Source {
        service_accounts,
        not_service_accounts,
        ..Source::default()
    }),
    (DOMAINS, |trust_domains, not_trust_domains| Source {
        trust_domains,
        not_trust_domains,
        ..Source::default()
    }),
    (BLOCKS, |ip_blocks, not_ip_blocks| Source {
        ip_blocks,
        not_ip_blocks,
        ..Source::default()
    }),
    (BLOCKS, |remote_ip_blocks, not_remote_ip_blocks| Source {
        remote_ip_blocks,
        not_remote_ip_blocks,
        ..Source::default()
    }),
    (TOKENS, |request_principals, not_request_principals| {
        Source {
            request_principals,
            not_request_principals,
            ..Source::default()
        }
    }),
];

const OPERATION_FIELDS: &[Field<Operation>] = &[
    (HOSTS, |hosts, not_hosts| Operation {
        hosts,
        not_hosts,
        ..Operation::default()
    }),
    (PORTS, |ports, not_ports| Operation {
        ports,
        not_ports,
        ..Operation::default()
    }),
    (METHODS, |methods, not_methods| Operation {
        methods,
        not_methods,
        ..Operation::default()
    }),
    (PATHS, |paths, not_paths| Operation {
        paths,
        not_paths,
        ..Operation::default()
    }),
];

/// An ALLOW policy that asks one field, and the same with the field's not-form.
pub fn twins() -> impl Strategy<Value = [AuthorizationPolicy; 2]> {
    let drawn = |of: &'static [&'static str]| vec(select(of).prop_map(String::from), 1..3);
    let from = select(SOURCE_FIELDS).prop_flat_map(move |(of, field)| {
        drawn(of).prop_map(move |values| {
            [field(Some(values.clone()), None), field(None, Some(values))].map(|source| Rule {
                from: Some(vec![source]),
                ..Rule::default()
            })
        })
    });
    let to = select(OPERATION_FIELDS).prop_flat_map(move |(of, field)| {
        drawn(of).prop_map(move |values| {
            [field(Some(values.clone()), None), field(None, Some(values))].map(|operation| Rule {
                to: Some(vec![operation]),
                ..Rule::default()
            })
        })
    });
    let when = condition().prop_map(|condition| {
        let values = condition.values.or(condition.not_values);
        [(values.clone(), None), (None, values)].map(|(values, not_values)| Rule {
            when: Some(vec![Condition {
                key: condition.key.clone(),
                values,
                not_values,
            }]),
            ..Rule::default()
        })
    });
    prop_oneof![from, to, when].prop_map(|rules| {
        rules.map(|rule| AuthorizationPolicy {
            namespace: "a".into(),
            name: String::new(),
            rules: Some(vec![rule]),
            ..allow_nothing()
        })
    })
}

/// CUSTOM runs before identities are looked at: validation refuses such fields there.
fn only_what_custom_may_ask(rule: &mut Rule) {
    rule.from = None;
    if let Some(when) = &mut rule.when {
        when.retain(|c| {
            let identity = c.key.starts_with("source.") && c.key != "source.ip";
            !(identity || c.key.starts_with("request.auth"))
        });
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    (
        option::of(vec(source(), 1..3)),
        option::of(vec(operation(), 1..3)),
        option::of(vec(condition(), 1..3)),
    )
        .prop_map(|(from, to, when)| Rule { from, to, when })
}

fn values(of: &'static [&'static str]) -> impl Strategy<Value = Option<Vec<String>>> {
    option::weighted(0.25, vec(select(of).prop_map(Into::into), 1..3))
}

const PRINCIPALS: &[&str] = &[
    "*",
    "cluster.local/ns/a/sa/sa-x",
    "old/ns/a/sa/sa-x",
    "*/sa-x",
    "cluster.local/ns/b/*",
    "other/ns/a/sa/sa-x",
];
const NAMESPACES: &[&str] = &["a", "b", "*", "a*", "*b"];
const ACCOUNTS: &[&str] = &["sa-x", "a/sa-x", "b/sa-z"];
const DOMAINS: &[&str] = &["cluster.local", "old", "o*", "*"];
const BLOCKS: &[&str] = &[
    "10.0.0.0/24",
    "10.0.0.1",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "fd00::/112",
    "192.0.2.0/24",
    "::/0",
];
const TOKENS: &[&str] = &["*", "me/you", "me/*", "me"];
const HOSTS: &[&str] = &[
    "example.com",
    "*.example.com",
    "example.*",
    "*",
    "Example.com:80",
];
const PORTS: &[&str] = &["80", "81", "82", "83", "080"];
const METHODS: &[&str] = &["GET", "POST", "P*", "*", "get"];
const PATHS: &[&str] = &["/", "/a", "/a*", "*a", "*", "/{*}", "/a/{**}", "/{*}/b"];

fn source() -> impl Strategy<Value = Source> {
    let identity = (
        values(PRINCIPALS),
        values(PRINCIPALS),
        values(NAMESPACES),
        values(NAMESPACES),
    );
    let accounts = (values(ACCOUNTS), values(ACCOUNTS));
    let rest = (
        values(DOMAINS),
        values(DOMAINS),
        values(BLOCKS),
        values(BLOCKS),
        values(BLOCKS),
        values(BLOCKS),
        values(TOKENS),
        values(TOKENS),
    );
    (any::<bool>(), identity, accounts, rest).prop_map(|(by_account, identity, accounts, rest)| {
        let mut source = Source {
            trust_domains: rest.0,
            not_trust_domains: rest.1,
            ip_blocks: rest.2,
            not_ip_blocks: rest.3,
            remote_ip_blocks: rest.4,
            not_remote_ip_blocks: rest.5,
            request_principals: rest.6,
            not_request_principals: rest.7,
            ..Source::default()
        };
        // Validation refuses service accounts beside principals and namespaces.
        if by_account {
            (source.service_accounts, source.not_service_accounts) = accounts;
        } else {
            (
                source.principals,
                source.not_principals,
                source.namespaces,
                source.not_namespaces,
            ) = identity;
        }
        if source == Source::default() {
            source.namespaces = Some(vec!["a".into()]);
        }
        source
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    (
        values(HOSTS),
        values(HOSTS),
        values(PORTS),
        values(PORTS),
        values(METHODS),
        values(METHODS),
        values(PATHS),
        values(PATHS),
    )
        .prop_map(
            |(hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths)| {
                let mut operation = Operation {
                    hosts,
                    not_hosts,
                    ports,
                    not_ports,
                    methods,
                    not_methods,
                    paths,
                    not_paths,
                };
                if operation == Operation::default() {
                    operation.ports = Some(vec!["80".into()]);
                }
                operation
            },
        )
}

fn condition() -> impl Strategy<Value = Condition> {
    let keys: Vec<(&str, &'static [&'static str])> = vec![
        ("request.headers[X-A]", &["1", "*", "a*"]),
        ("request.headers[x-user]", &["you", "*", "x"]),
        ("request.headers[accept]", &["1,2", "1", "2"]),
        ("request.headers[:authority]", &["example.com"]),
        ("request.headers[:path]", &["/b", "/b?x=1", "/a*", "*x=1"]),
        ("request.headers[:scheme]", &["http", "https"]),
        ("source.ip", BLOCKS),
        ("remote.ip", BLOCKS),
        ("source.namespace", NAMESPACES),
        ("source.principal", PRINCIPALS),
        ("source.serviceAccount", ACCOUNTS),
        ("source.trustDomain", DOMAINS),
        ("request.auth.principal", TOKENS),
        ("request.auth.audiences", &["one", "t*"]),
        ("request.auth.presenter", &["me"]),
        ("request.auth.claims[group]", &["admin", "*", "*n"]),
        ("request.auth.claims[a][b]", &["c"]),
        ("request.auth.claims[a][]", &["*"]),
        ("destination.ip", &["10.0.0.1", "10.0.0.0/8", "fd00::/112"]),
        ("destination.port", PORTS),
        ("connection.sni", &["example.com", "*.com", "*"]),
        ("experimental.envoy.filters.a.b[c]", &["d"]),
    ];
    (select(keys), any::<u8>()).prop_flat_map(|((key, of), shape)| {
        (vec(select(of), 1..3), vec(select(of), 1..3)).prop_map(move |(values, not_values)| {
            let own = |v: Vec<&str>| Some(v.into_iter().map(Into::into).collect());
            Condition {
                key: key.into(),
                values: if shape % 3 != 1 { own(values) } else { None },
                not_values: if shape % 3 != 0 {
                    own(not_values)
                } else {
                    None
                },
            }
        })
    })
}
