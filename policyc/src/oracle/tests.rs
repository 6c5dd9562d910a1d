//! What the corpus of cases cannot say, since it holds verdicts alone: layers, attribution, recorded
//! hits, what cannot be judged; and the single functions.

mod attribution;
mod layers;
mod strings;
mod unjudgeable;

use super::{Options, Unjudgeable, evaluate};
use crate::{
    cluster::Cluster,
    diagnostic::Severity,
    options::CatchAllDeny,
    read,
    request::{Judgement, Request},
};

/// A pod `shop/cart` with the ports 8080 (http), 9000 (tcp) and 7000 (undeclared), two pods that ask,
/// and a pod without an address.
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
      ports:
      - {name: http-web, containerPort: 8080}
      - {name: tcp-db, containerPort: 9000}
      - {name: other, containerPort: 7000}
  status: {podIP: 10.1.0.10, podIPs: [{ip: 10.1.0.10}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: browser, namespace: shop, labels: {app: browser}}
  spec: {serviceAccountName: browser, containers: [{name: main, image: example.invalid/main:1}]}
  status: {podIP: 10.1.0.11, podIPs: [{ip: 10.1.0.11}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: pending, namespace: shop, labels: {app: cart}}
  spec: {containers: [{name: main, image: example.invalid/main:1}]}
"#;

const MESH: &str = "
extensionProviders:
- name: grpc
  envoyExtAuthzGrpc: {service: authz.shop.svc.cluster.local, port: 9000}
- name: http
  envoyExtAuthzHttp: {service: authz.shop.svc.cluster.local, port: 8000}
";

/// An AuthorizationPolicy of the namespace `shop` from its name and the inside of its spec.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

fn dry_run(name: &str, spec: &str) -> String {
    policy(name, spec).replace(
        "namespace: shop}",
        "namespace: shop, annotations: {istio.io/dry-run: \"true\"}}",
    )
}

/// A RequestAuthentication whose keys nobody has.
fn authentication() -> String {
    "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
     metadata: {name: ra, namespace: shop}\n\
     spec: {jwtRules: [{issuer: idp, jwksUri: \"https://idp.example/keys\"}]}\n"
        .into()
}

#[track_caller]
fn cluster(policies: &[String]) -> Cluster {
    let text = format!("{WORLD}{}", policies.concat());
    let (loaded, diagnostics) = read::load_str("test.yaml", &text, Some(MESH));
    for diagnostic in diagnostics {
        assert_ne!(
            diagnostic.severity,
            Severity::Error,
            "the manifests of the test must be good: {diagnostic:?}"
        );
    }
    loaded.cluster
}

/// A request from `shop/browser` to `shop/cart`, changed by the fields given.
#[track_caller]
fn request(fields: serde_json::Value) -> Request {
    let mut json = serde_json::json!({
        "id": "test", "src": "shop/browser", "dst": "shop/cart", "port": 9000, "protocol": "tcp",
    });
    for (name, value) in fields.as_object().unwrap() {
        json[name] = value.clone();
    }
    serde_json::from_value(json).unwrap()
}

/// An HTTP request on port 8080.
fn get(path: &str) -> Request {
    request(serde_json::json!({
        "port": 8080, "protocol": "http", "http": {"method": "GET", "path": path},
    }))
}

fn bytes() -> Request {
    request(serde_json::json!({}))
}

#[track_caller]
fn judged(policies: &[String], request: &Request) -> Judgement {
    evaluate(&cluster(policies), request, &Options::default()).unwrap()
}

#[track_caller]
fn judged_with_default(policies: &[String], request: &Request) -> Judgement {
    let options = Options {
        catch_all_deny: CatchAllDeny::DefaultDeny,
        ..Options::default()
    };
    evaluate(&cluster(policies), request, &options).unwrap()
}

#[track_caller]
fn refused_to_judge(policies: &[String], request: &Request) -> Unjudgeable {
    evaluate(&cluster(policies), request, &Options::default()).unwrap_err()
}
