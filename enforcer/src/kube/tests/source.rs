//! All kinds: what the agent begins with.

use serde_json::Value;

use super::*;
use crate::kube::source::{First, Settings, Source};

/// Answers each kind's list with these objects and its watch with these lines, by path.
async fn server(of: impl Fn(&str) -> (Vec<Value>, String) + Send + Sync + 'static) -> String {
    use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
    use hyper::{body::Bytes, server::conn::http1, service::service_fn};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let of = Arc::new(of);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let of = of.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (objects, lines) = of(request.uri().path());
                let query = request.uri().query().unwrap_or_default();
                let whole = |text: String| Full::new(Bytes::from(text));
                let body: BoxBody<Bytes, std::convert::Infallible> = match query.contains("watch=")
                {
                    true => Endless(Some(Bytes::from(lines))).boxed(),
                    false => whole(
                        json!({"metadata": {"resourceVersion": "1"}, "items": objects}).to_string(),
                    )
                    .boxed(),
                };
                async move { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
            });
            let stream = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(http1::Builder::new().serve_connection(stream, service));
        }
    });
    address
}

/// Some bytes, and then silence.
struct Endless(Option<hyper::body::Bytes>);

impl hyper::body::Body for Endless {
    type Data = hyper::body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        match self.0.take().filter(|bytes| !bytes.is_empty()) {
            Some(bytes) => std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(bytes)))),
            None => std::task::Poll::Pending,
        }
    }
}

fn policy(name: &str, field: &str, version: u64) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": version.to_string()},
        "spec": {"action": "DENY", "rules": [{"from": [{"source": {field: ["a"]}}]}]}})
}

fn pod(name: &str, ip: &str, node: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "resourceVersion": "1"},
        "spec": {"nodeName": node}, "status": {"phase": "Running", "podIP": ip}})
}

fn settings(policies: bool) -> Settings {
    Settings {
        node: "here".into(),
        policies,
        write_conditions: false,
        mesh: mesh(),
        catch_all_deny: Default::default(),
        pace: PACE,
    }
}

async fn start(
    policies: bool,
    of: impl Fn(&str) -> (Vec<Value>, String) + Send + Sync + 'static,
) -> (Source, Arc<Health>) {
    start_with(settings(policies), of).await
}

async fn start_with(
    settings: Settings,
    of: impl Fn(&str) -> (Vec<Value>, String) + Send + Sync + 'static,
) -> (Source, Arc<Health>) {
    let config = Config::new(server(of).await.parse().expect("an address"));
    let client = Client::try_from(config).expect("a client");
    let health = Arc::new(Health::new(settings.policies));
    (Source::start(&client, settings, health.clone()), health)
}

async fn first(source: &mut Source) -> First {
    let first = tokio::time::timeout(PATIENCE, source.first()).await;
    first.expect("in time").expect("it is followed")
}

fn base(path: &str) -> (Vec<Value>, String) {
    let objects = match path {
        "/api/v1/pods" => vec![pod("b", "10.0.0.2", "here"), pod("a", "10.0.0.1", "other")],
        "/api/v1/namespaces" => vec![json!({"metadata": {"name": "shop", "labels": {"k": "v"}}})],
        "/api/v1/namespaces/istio-system/configmaps" => vec![json!({
            "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": "trustDomain: td\n"},
        })],
        "/apis/security.istio.io/v1/authorizationpolicies" => vec![policy("p", "namespaces", 1)],
        _ => Vec::new(),
    };
    (objects, String::new())
}

#[tokio::test]
async fn an_agent_begins_with_the_whole_cluster_and_its_policies() {
    let (mut source, health) = start(true, base).await;
    let first = first(&mut source).await;
    let cluster = &first.cluster;
    let names: Vec<&str> = cluster.pods.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(names, ["a", "b"], "sorted");
    assert_eq!(cluster.namespaces["shop"].labels["k"], "v");
    assert_eq!(cluster.mesh.trust_domain, "td");
    let bundle = first.bundle.expect("policies of the cluster");
    assert_eq!(bundle.program.policies.len(), 1);
    assert_eq!(bundle.program.policies[0].file, "kube:shop/p");
    assert!(health.is_complete() && health.troubles().is_empty());
    let compiled = health.status().compiled.expect("policies");
    assert_eq!(
        (compiled.policies, compiled.times, compiled.failed),
        (1, 1, 0)
    );
}

#[tokio::test]
async fn the_lease_that_says_who_writes_at_policies_is_asked_for_where_that_is_wanted() {
    const LEASE: &str = "leases/enforcer-conditions";
    for wanted in [true, false] {
        let lease = Arc::new(tokio::sync::Notify::new());
        let asked = lease.clone();
        let settings = Settings {
            write_conditions: wanted,
            ..settings(true)
        };
        let (mut source, _) = start_with(settings, move |path| {
            if path.ends_with(LEASE) {
                assert!(wanted, "nobody is to write");
                asked.notify_one();
            }
            base(path)
        })
        .await;
        first(&mut source).await;
        if wanted {
            let seen = tokio::time::timeout(PATIENCE, lease.notified()).await;
            seen.expect("once the policies have been compiled");
        }
    }
}

#[tokio::test]
async fn policies_of_a_bundle_are_not_asked_for() {
    let (mut source, health) = start(false, |path| {
        assert!(!path.contains("istio"), "{path}");
        base(path)
    })
    .await;
    let first = first(&mut source).await;
    assert!(first.bundle.is_none());
    assert_eq!(first.cluster.pods.len(), 2);
    assert_eq!(health.status().policies, "bundle");
}

#[tokio::test]
async fn nothing_begins_with_a_policy_that_cannot_be_compiled_until_it_is_mended() {
    let mended = Arc::new(tokio::sync::Notify::new());
    let wrong = |path: &str| match path {
        "/apis/security.istio.io/v1/authorizationpolicies" => {
            (vec![policy("p", "namespace", 1)], String::new())
        }
        path => base(path),
    };
    let (mut source, health) = start(true, wrong).await;
    let waiting = mended.clone();
    let begun = tokio::spawn(async move {
        tokio::select! {
            first = source.first() => Some(first.expect("it is followed")),
            () = waiting.notified() => None,
        }
    });
    let errors = async {
        loop {
            let compiled = health.status().compiled.expect("policies");
            if compiled.errors_count > 0 {
                return compiled.errors;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let errors = tokio::time::timeout(PATIENCE, errors)
        .await
        .expect("in time");
    assert!(
        errors[0].starts_with("kube:shop/p spec.rules[0]"),
        "{errors:?}"
    );
    mended.notify_one();
    assert!(begun.await.expect("no panic").is_none(), "it has not begun");

    // The same, with a change that mends it.
    let (mut source, _) = start(true, move |path| {
        let (objects, _) = wrong(path);
        let line = match path {
            "/apis/security.istio.io/v1/authorizationpolicies" => {
                json!({"type": "MODIFIED", "object": policy("p", "namespaces", 2)}).to_string()
                    + "\n"
            }
            _ => String::new(),
        };
        (objects, line)
    })
    .await;
    assert!(first(&mut source).await.bundle.is_some());
}

#[tokio::test]
async fn a_pod_that_cannot_be_read_is_named_and_keeps_nobody_waiting() {
    let (mut source, health) = start(true, |path| match path {
        "/api/v1/pods" => (
            vec![pod("bad", "10.0.0", "other"), pod("a", "10.0.0.1", "other")],
            String::new(),
        ),
        path => base(path),
    })
    .await;
    let first = first(&mut source).await;
    assert_eq!(first.cluster.pods.len(), 1);
    let status = health.status();
    assert_eq!(status.wrong_objects, 1);
    assert!(
        status.wrong[0].contains("kube:shop/bad"),
        "{:?}",
        status.wrong
    );
}
