//! Random clusters and requests over few names, so that policies and requests meet often.

use std::collections::BTreeMap;

use policyc::{
    ast::{
        Action, Attachment, AuthorizationPolicy, Condition, JwtRule, Operation,
        RequestAuthentication, Rule, Source,
    },
    cluster::{Cluster, ExtAuthz, ExtensionProvider, ProviderKind},
    read,
    request::Request,
};
use proptest::{
    collection::vec,
    option::{self, weighted},
    prelude::*,
    sample::{select, subsequence},
};
use serde_json::{Value, json};

const WORLD: &str = r#"
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: cart, namespace: shop, labels: {app: cart}}
  spec:
    serviceAccountName: cart
    containers:
    - name: main
      image: example.invalid/main:1
      ports: [{name: http-web, containerPort: 8080}, {name: tcp-db, containerPort: 9000}]
  status: {podIP: 10.1.0.10, podIPs: [{ip: 10.1.0.10}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: gate, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: gate}}
  spec:
    containers:
    - name: main
      image: example.invalid/main:1
      ports: [{name: http-web, containerPort: 8080}]
  status: {podIP: 10.1.0.12, podIPs: [{ip: 10.1.0.12}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: browser, namespace: shop, labels: {app: browser}}
  spec: {serviceAccountName: browser, containers: [{name: main, image: example.invalid/main:1}]}
  status: {podIP: 10.1.0.11, podIPs: [{ip: 10.1.0.11}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: teller, namespace: bank, labels: {app: teller}}
  spec: {serviceAccountName: teller, containers: [{name: main, image: example.invalid/main:1}]}
  status: {podIP: 10.2.0.20, podIPs: [{ip: 10.2.0.20}]}
"#;

/// A list of a few of the values, or nothing.
fn some(values: &'static [&'static str]) -> BoxedStrategy<Option<Vec<String>>> {
    let few = subsequence(values.to_vec(), 1..=2.min(values.len()));
    weighted(
        0.25,
        few.prop_map(|v| v.into_iter().map(String::from).collect()),
    )
    .boxed()
}

const PRINCIPALS: &[&str] = &[
    "corp/ns/shop/sa/browser",
    "cluster.local/ns/bank/sa/*",
    "old/ns/shop/sa/browser",
    "*",
    "*/sa/teller",
    "*er",
];
const NAMESPACES: &[&str] = &["shop", "b*", "*k", "s*p", "*", "none"];
const ACCOUNTS: &[&str] = &["browser", "bank/teller", "shop/cart"];
const DOMAINS: &[&str] = &["corp", "old", "part*", "*"];
const BLOCKS: &[&str] = &[
    "10.1.0.0/16",
    "10.2.0.20",
    "0.0.0.0/0",
    "2001:db8::/32",
    "192.0.2.0/24",
];
const TOKENS: &[&str] = &["*", "idp/ann", "idp/*", "*nn", "idp/a*", "other/x"];
const HOSTS: &[&str] = &["a.example", "*.example", "A.*", "*"];
const PORTS: &[&str] = &["8080", "9000", "7000"];
const METHODS: &[&str] = &["GET", "P*", "*", "get"];
const PATHS: &[&str] = &["/a", "/a/*", "*.html", "*", "/a/{*}", "/{**}/x", "/b*"];

fn source() -> impl Strategy<Value = Source> {
    let identity = (
        some(PRINCIPALS),
        some(PRINCIPALS),
        some(NAMESPACES),
        some(NAMESPACES),
    );
    let accounts = (some(ACCOUNTS), some(ACCOUNTS), some(DOMAINS), some(DOMAINS));
    let rest = (
        some(BLOCKS),
        some(BLOCKS),
        some(BLOCKS),
        some(BLOCKS),
        some(TOKENS),
        some(TOKENS),
    );
    (identity, accounts, rest, any::<bool>()).prop_map(|(identity, accounts, rest, by_account)| {
        let (principals, not_principals, namespaces, not_namespaces) = identity;
        let (service_accounts, not_service_accounts, trust_domains, not_trust_domains) = accounts;
        let (ip_blocks, not_ip_blocks, remote, not_remote, tokens, not_tokens) = rest;
        let mut source = Source {
            trust_domains,
            not_trust_domains,
            ip_blocks,
            not_ip_blocks,
            remote_ip_blocks: remote,
            not_remote_ip_blocks: not_remote,
            request_principals: tokens,
            not_request_principals: not_tokens,
            ..Source::default()
        };
        // The two cannot be combined in one source.
        if by_account {
            source.service_accounts = service_accounts;
            source.not_service_accounts = not_service_accounts;
        } else {
            source.principals = principals;
            source.not_principals = not_principals;
            source.namespaces = namespaces;
            source.not_namespaces = not_namespaces;
        }
        source
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let positive = (some(HOSTS), some(PORTS), some(METHODS), some(PATHS));
    let negative = (some(HOSTS), some(PORTS), some(METHODS), some(PATHS));
    (positive, negative).prop_map(|((hosts, ports, methods, paths), not)| Operation {
        hosts,
        ports,
        methods,
        paths,
        not_hosts: not.0,
        not_ports: not.1,
        not_methods: not.2,
        not_paths: not.3,
    })
}

/// `custom`: keys that CUSTOM may not use are left out.
fn condition(custom: bool) -> impl Strategy<Value = Condition> {
    const KEYS: &[(&str, &[&str])] = &[
        ("request.headers[x-a]", &["1", "*", "2*"]),
        ("request.headers[:path]", &["/a", "/a?q"]),
        ("source.ip", BLOCKS),
        ("remote.ip", BLOCKS),
        ("destination.ip", &["10.1.0.10", "10.1.0.12"]),
        ("destination.port", PORTS),
        ("connection.sni", &["a.example", "*", "*.example"]),
        ("experimental.envoy.filters.a[b]", &["x"]),
        ("source.namespace", NAMESPACES),
        ("source.principal", PRINCIPALS),
        ("source.serviceAccount", ACCOUNTS),
        ("source.trustDomain", DOMAINS),
        ("request.auth.principal", TOKENS),
        ("request.auth.claims[role]", &["admin", "a*", "*"]),
        ("request.auth.claims[scope]", &["read", "write"]),
        ("request.auth.audiences", &["shop", "*"]),
    ];
    select(&KEYS[..if custom { 8 } else { KEYS.len() }]).prop_flat_map(|(key, values)| {
        (some(values), some(values)).prop_filter_map("a condition has values", move |(yes, no)| {
            let condition = Condition {
                key: key.into(),
                values: yes,
                not_values: no,
            };
            (condition.values.is_some() || condition.not_values.is_some()).then_some(condition)
        })
    })
}

fn rule(custom: bool) -> BoxedStrategy<Rule> {
    let source = source().prop_map(move |mut source| {
        if custom {
            // What CUSTOM may ask of a source.
            source = Source {
                ip_blocks: source.ip_blocks,
                not_ip_blocks: source.not_ip_blocks,
                remote_ip_blocks: source.remote_ip_blocks,
                not_remote_ip_blocks: source.not_remote_ip_blocks,
                ..Source::default()
            };
        }
        source
    });
    let source = source.prop_filter("a source says something", |s| *s != Source::default());
    let operation = operation().prop_filter("an operation too", |o| *o != Operation::default());
    let from = weighted(0.5, vec(source, 1..3));
    let to = weighted(0.5, vec(operation, 1..3));
    let when = weighted(0.3, vec(condition(custom), 1..3));
    (from, to, when)
        .prop_map(|(from, to, when)| Rule { from, to, when })
        .boxed()
}

fn policy() -> impl Strategy<Value = AuthorizationPolicy> {
    let provider = || select(&["grpc", "http", "open", "nobody"][..]);
    let action = prop_oneof![
        4 => Just(Action::Allow),
        4 => Just(Action::Deny),
        1 => Just(Action::Audit),
        1 => provider().prop_map(|provider| Action::Custom { provider: provider.into() }),
    ];
    let whole = action.prop_flat_map(|action| {
        let custom = matches!(action, Action::Custom { .. });
        let fewest = usize::from(matches!(action, Action::Deny | Action::Custom { .. }));
        (Just(action), vec(rule(custom), fewest..4))
    });
    let namespace = select(&["shop", "shop", "istio-system", "bank"][..]);
    let labels = option::of(select(&["cart", "browser"][..]));
    (whole, namespace, labels, weighted(0.15, Just(()))).prop_map(
        |((action, rules), namespace, app, dry_run)| AuthorizationPolicy {
            document: Default::default(),
            object: Default::default(),
            namespace: namespace.into(),
            name: String::new(),
            dry_run: dry_run.is_some() && matches!(action, Action::Allow | Action::Deny),
            attachment: Attachment {
                selector: app.map(|app| BTreeMap::from([("app".into(), app.into())])),
                target_refs: Vec::new(),
            },
            action,
            rules: Some(rules).filter(|rules| !rules.is_empty()),
        },
    )
}

pub fn cluster() -> impl Strategy<Value = Cluster> {
    let (loaded, _) = read::load_str("world.yaml", WORLD, None);
    let world = loaded.cluster;
    assert_eq!(world.pods.len(), 4, "the world should be read");
    (vec(policy(), 0..5), any::<bool>(), 0..3u32).prop_map(
        move |(mut policies, tokens, proxies)| {
            let mut cluster = world.clone();
            for (number, policy) in policies.iter_mut().enumerate() {
                policy.name = format!("p{number}");
            }
            policies.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
            cluster.policies = policies;
            cluster.mesh.trust_domain = "corp".into();
            cluster.mesh.trust_domain_aliases = vec!["old".into()];
            cluster.mesh.trusted_proxies = proxies;
            let open = ExtAuthz {
                fail_open: true,
                ..ExtAuthz::default()
            };
            cluster.mesh.extension_providers = [
                ("grpc", ProviderKind::ExtAuthzGrpc(ExtAuthz::default())),
                ("http", ProviderKind::ExtAuthzHttp(ExtAuthz::default())),
                ("open", ProviderKind::ExtAuthzGrpc(open)),
            ]
            .map(|(name, kind)| ExtensionProvider {
                name: name.into(),
                kind,
            })
            .into();
            if tokens {
                cluster.request_authentications.push(RequestAuthentication {
                    document: Default::default(),
                    object: Default::default(),
                    namespace: "shop".into(),
                    name: "ra".into(),
                    attachment: Attachment::default(),
                    jwt_rules: vec![JwtRule {
                        issuer: "idp".into(),
                        jwks_uri: Some("https://idp.example/keys".into()),
                        ..JwtRule::default()
                    }],
                });
            }
            cluster
        },
    )
}

pub fn request() -> impl Strategy<Value = Request> {
    let source = select(vec![
        json!({"src": "shop/browser"}),
        json!({"src": "shop/browser", "src_trust_domain": "old"}),
        json!({"src": "bank/teller"}),
        json!({"src": "bank/teller", "src_ip": "10.1.9.9"}),
        json!({"src": {"sa": "shop/cart"}, "src_ip": "10.9.9.9"}),
        json!({"src": {"sa": "shop/cart"}}),
        json!({"src": {"ip": "192.0.2.1"}}),
        json!({"src": {"ip": "2001:db8::1"}}),
    ]);
    let spoken = prop_oneof![
        4 => http().prop_map(|http| json!({"protocol": "http", "http": http})),
        1 => Just(json!({"protocol": "tcp"})),
        1 => select(vec![
            json!({"protocol": "tls"}),
            json!({"protocol": "tls", "sni": "a.example"}),
            json!({"protocol": "tls", "sni": "A.example"}),
        ]),
    ];
    let answers = select(vec![
        json!({"ext_authz": {"grpc": "allow", "http": "deny", "open": "error"}}),
        json!({"ext_authz": {"grpc": "deny", "http": "error", "open": "deny"}}),
        json!({"ext_authz": {"grpc": "error", "http": "allow", "open": "allow"}}),
        json!({}),
    ]);
    let to = (
        select(&["shop/cart", "shop/gate"][..]),
        select(&[8080u16, 9000, 7000][..]),
    );
    (source, spoken, answers, to).prop_map(|(source, spoken, answers, (dst, port))| {
        let mut all = json!({"id": "r", "dst": dst, "port": port});
        for part in [source, spoken, answers] {
            for (name, value) in part.as_object().into_iter().flatten() {
                all[name] = value.clone();
            }
        }
        serde_json::from_value(all).expect("the generator should make requests")
    })
}

fn http() -> impl Strategy<Value = Value> {
    let method = select(&["GET", "POST", "get", "OPTIONS"][..]);
    let path = select(
        &[
            "/a",
            "/a?q",
            "/a/b",
            "/a/../a",
            "/b/x",
            "/x.html",
            "/%61",
            "/a/",
            "//x",
            "bad",
            "/a%00",
            "/a?access_token=bad",
        ][..],
    );
    let host = option::of(select(
        &["a.example", "A.EXAMPLE", "a.example:80", "b", ""][..],
    ));
    let headers = select(vec![
        json!({}),
        json!({"X-A": "1"}),
        json!({"x-a": ["0", "22"]}),
        json!({"x-a": ""}),
        json!({"x-forwarded-for": "192.0.2.7"}),
        json!({"X-Forwarded-For": ["10.1.0.1, 192.0.2.7", "10.2.0.20"]}),
        json!({"x-forwarded-for": "nonsense"}),
        json!({"authorization": "Bearer bad"}),
        json!({"origin": "a", "access-control-request-method": "GET", "authorization": "Bearer bad"}),
    ]);
    let claims = select(vec![
        Value::Null,
        json!({"iss": "idp", "sub": "ann", "role": "admin", "scope": "write read"}),
        json!({"iss": "idp", "sub": "bob", "role": ["x", "admin"], "aud": ["shop"]}),
        json!({"iss": "other", "role": 1, "aud": "bank"}),
    ]);
    (method, path, host, headers, claims).prop_map(|(method, path, host, headers, claims)| {
        let mut http = json!({"method": method, "path": path, "headers": headers});
        if let Some(host) = host {
            http["host"] = host.into();
        }
        if !claims.is_null() {
            http["claims"] = claims;
        }
        http
    })
}
