//! The policies of one pod as Envoy's RBAC filters, sentence by sentence of Istio's documentation and
//! without any of the compiler's code.

use serde_json::{Map, Value, json};

use super::{
    cluster::{Cluster, Pod},
    matchers::{
        block, claim, escaped, header_value, identity, ids_and, ids_or, in_identity, metadata,
        peer, regex, request_principal, rules_and, rules_or, text,
    },
};

const TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";

/// DENY first, then ALLOW. Or why that cannot be written for Envoy.
pub fn filters(cluster: &Cluster, pod: &Pod) -> Result<Vec<Value>, &'static str> {
    let mut filters = Vec::new();
    for action in ["DENY", "ALLOW"] {
        let mut policies = Map::new();
        let mut any = false;
        for policy in cluster.of(pod, "AuthorizationPolicy")? {
            let own = policy["spec"]["action"].as_str().unwrap_or("ALLOW");
            if own == "CUSTOM" {
                return Err("CUSTOM asks an authorizer, and none runs");
            }
            let annotations = &policy["metadata"]["annotations"];
            let is_tried = annotations["istio.io/dry-run"].as_str();
            if own != action || is_tried.is_some_and(|text| ["true", "1"].contains(&text)) {
                continue;
            }
            any = true;
            for rule in list(&policy["spec"]["rules"]) {
                let name = format!("{:05}", policies.len());
                policies.insert(name, self::policy(cluster, rule)?);
            }
        }
        // An ALLOW policy without rules allows nothing; a DENY one denies nothing.
        if any && (action == "ALLOW" || !policies.is_empty()) {
            filters.push(json!({
                "name": format!("rbac-{action}"),
                "typed_config": {"@type": TYPE, "rules": {"action": action, "policies": policies}},
            }));
        }
    }
    Ok(filters)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    list(value).iter().filter_map(Value::as_str)
}

fn policy(cluster: &Cluster, rule: &Value) -> Result<Value, &'static str> {
    let mut permissions = Vec::new();
    let mut principals = Vec::new();
    let mut when = (Vec::new(), Vec::new());
    for condition in list(&rule["when"]) {
        condition_of(cluster, condition, &mut when)?;
    }
    let tos = list(&rule["to"])
        .iter()
        .map(|to| operation(&to["operation"]));
    let froms = list(&rule["from"]).iter();
    let froms = froms.map(|from| source(cluster, &from["source"]));
    let each = |all: &mut Vec<Value>,
                of: Vec<Vec<Value>>,
                when: &[Value],
                and: fn(Vec<Value>) -> Value| {
        let of = if of.is_empty() { vec![Vec::new()] } else { of };
        for mut one in of {
            one.extend(when.iter().cloned());
            if one.is_empty() {
                one.push(json!({"any": true}));
            }
            all.push(and(one));
        }
    };
    each(&mut permissions, tos.collect(), &when.0, rules_and);
    each(&mut principals, froms.collect(), &when.1, ids_and);
    Ok(json!({"permissions": permissions, "principals": principals}))
}

/// One of a field's values, and none of its opposite's.
fn field(
    all: &mut Vec<Value>,
    of: &Value,
    names: (&str, &str),
    or: fn(Vec<Value>) -> Value,
    not: &str,
    matcher: impl Fn(&str) -> Value,
) {
    let of_name = |name: &str| texts(&of[name]).map(&matcher).collect::<Vec<_>>();
    let (values, others) = (of_name(names.0), of_name(names.1));
    if !values.is_empty() {
        all.push(or(values));
    }
    if !others.is_empty() {
        all.push(json!({not: or(others)}));
    }
}

fn operation(of: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    let mut rule = |names, matcher: &dyn Fn(&str) -> Value| {
        field(&mut all, of, names, rules_or, "not_rule", matcher);
    };
    rule(("hosts", "notHosts"), &|v| {
        header_value(":authority", v, true)
    });
    rule(("methods", "notMethods"), &|v| {
        header_value(":method", v, false)
    });
    rule(("paths", "notPaths"), &path);
    rule(("ports", "notPorts"), &port);
    all
}

fn port(value: &str) -> Value {
    json!({"destination_port": value.parse::<u16>().expect("a port")})
}

fn path(pattern: &str) -> Value {
    if pattern.contains("{*}") || pattern.contains("{**}") {
        let template = pattern.replace("{*}", "*").replace("{**}", "**");
        return json!({"uri_template": {
            "name": "uri-template",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
                "path_template": template,
            },
        }});
    }
    json!({"url_path": {"path": text(pattern)}})
}

fn source(cluster: &Cluster, of: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    let mut id = |names, matcher: &dyn Fn(&str) -> Value| {
        field(&mut all, of, names, ids_or, "not_id", matcher);
    };
    id(("principals", "notPrincipals"), &|v| principal(cluster, v));
    id(("namespaces", "notNamespaces"), &namespace);
    id(("serviceAccounts", "notServiceAccounts"), &service_account);
    id(("trustDomains", "notTrustDomains"), &|v| {
        trust_domain(cluster, v)
    });
    id(
        ("requestPrincipals", "notRequestPrincipals"),
        &request_principal,
    );
    id(("ipBlocks", "notIpBlocks"), &peer_address);
    id(("remoteIpBlocks", "notRemoteIpBlocks"), &remote_address);
    all
}

fn peer_address(value: &str) -> Value {
    // Istio writes `direct_remote_ip`, which is the test's own socket here.
    json!({"source_ip": block(value)})
}

fn remote_address(value: &str) -> Value {
    json!({"remote_ip": block(value)})
}

fn namespace(pattern: &str) -> Value {
    peer(regex(&format!(".*/ns/{}/.*", in_identity(pattern))))
}

/// `namespace/account`, or an account of the policy's namespace, which is written before it here.
fn service_account(value: &str) -> Value {
    let (namespace, account) = value.split_once('/').expect("made whole before");
    let (namespace, account) = (escaped(namespace), escaped(account));
    peer(regex(&format!(
        "spiffe://.+/ns/{namespace}/(.+/|)sa/{account}(/.+)?"
    )))
}

/// One that is the mesh's, letter by letter, stands for all of the mesh's.
fn trust_domain(cluster: &Cluster, pattern: &str) -> Value {
    let one = |pattern: &str| {
        let parts: Vec<String> = pattern.split('*').map(escaped).collect();
        peer(regex(&format!("spiffe://{}/.*", parts.join("[^/]*"))))
    };
    if !cluster.domains.iter().any(|own| own == pattern) {
        return one(pattern);
    }
    ids_or(cluster.domains.iter().map(|own| one(own)).collect())
}

/// One of a trust domain of the mesh stands for the same under all of them. `cluster.local` is the
/// mesh, whatever its trust domain is called.
fn principal(cluster: &Cluster, pattern: &str) -> Value {
    let one = |pattern: &str| peer(identity(pattern));
    let parts = pattern.split('/').count();
    let Some((domain, rest)) = pattern.split_once('/').filter(|_| parts == 5) else {
        return one(pattern);
    };
    let is_own = |own: &String| own == domain || covers(own, domain) || covers(domain, own);
    let is_mesh = domain == "cluster.local" || cluster.domains.iter().any(is_own);
    if domain == "*" || !is_mesh {
        return one(pattern);
    }
    let under = |own: &String| match domain.strip_prefix('*') {
        Some(end) if own.ends_with(end) => one(pattern),
        _ => one(&format!("{own}/{rest}")),
    };
    ids_or(cluster.domains.iter().map(under).collect())
}

fn covers(pattern: &str, text: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => text.ends_with(end),
        (None, Some(begin)) => text.starts_with(begin),
        (None, None) => false,
    }
}

/// Into permissions or principals: one of the values, and none of the others.
fn condition_of(
    cluster: &Cluster,
    condition: &Value,
    into: &mut (Vec<Value>, Vec<Value>),
) -> Result<(), &'static str> {
    let key = condition["key"].as_str().expect("a key");
    let (name, inside) = match key.split_once('[') {
        Some((name, rest)) => (name, rest.trim_end_matches(']')),
        None => (key, ""),
    };
    let names = ("values", "notValues");
    let permission: Option<&dyn Fn(&str) -> Value> = match name {
        "destination.ip" => Some(&|v| json!({"destination_ip": block(v)})),
        "destination.port" => Some(&port),
        "connection.sni" => Some(&|v| json!({"requested_server_name": text(v)})),
        _ if name.starts_with("experimental.") => Some(&|v| {
            let list = v.strip_prefix('[').and_then(|v| v.strip_suffix(']'));
            let value = match list {
                Some(v) => json!({"list_match": {"one_of": {"string_match": text(v)}}}),
                None => json!({"string_match": text(v)}),
            };
            metadata(&name["experimental.".len()..], &[inside], value)
        }),
        _ => None,
    };
    if let Some(matcher) = permission {
        field(&mut into.0, condition, names, rules_or, "not_rule", matcher);
        return Ok(());
    }
    let claims: Vec<&str> = inside.split("][").collect();
    if name == "request.auth.claims" && claims.contains(&"") {
        return Err("a claim without a name, which Envoy's configuration cannot hold");
    }
    let matcher: &dyn Fn(&str) -> Value = match name {
        "request.headers" => &|v| header_value(inside, v, false),
        "source.ip" => &peer_address,
        "remote.ip" => &remote_address,
        "source.namespace" => &namespace,
        "source.principal" => &|v| principal(cluster, v),
        "source.serviceAccount" => &service_account,
        "source.trustDomain" => &|v| trust_domain(cluster, v),
        "request.auth.principal" => &request_principal,
        "request.auth.audiences" => &|v| claim(&["aud"], &text(v)),
        "request.auth.presenter" => &|v| claim(&["azp"], &text(v)),
        "request.auth.claims" => &|v| claim(&claims, &text(v)),
        _ => return Err("a key that the comparison does not know"),
    };
    field(&mut into.1, condition, names, ids_or, "not_id", matcher);
    Ok(())
}
