//! Conditions, written to a double of the API server: policies with versions, and a Lease.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use http::{Method, Request};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::*;
use crate::{
    conditions::{TYPE, desired::DIFFERS},
    double::{Answer, answer, client, serve},
};

const POLICIES: &str = "/apis/security.istio.io/v1/authorizationpolicies";
const POLICY: &str = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies/a/status?&fieldManager=enforcer";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/enforcer-system/leases";

#[derive(Default)]
struct Held {
    /// The status of policy `shop/a`.
    status: Value,
    version: u64,
    /// Another writes just before we do.
    racing: bool,
    patches: usize,
    lease: Option<Value>,
    forbidden: bool,
}

#[derive(Clone, Default)]
struct Double(Arc<Mutex<Held>>);

impl Double {
    async fn serve(&self) -> SocketAddr {
        let within = self.clone();
        serve(move |request| {
            let within = within.clone();
            async move { within.respond(request).await }
        })
        .await
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().expect("no test has panicked with it")
    }

    async fn respond(&self, request: Request<Incoming>) -> Answer {
        let method = request.method().clone();
        let uri = request.uri().to_string();
        let body = request
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut held = self.held();
        if held.forbidden {
            return status(403);
        }
        if uri.starts_with(LEASES) {
            return held.lease(&method, body);
        }
        if method == Method::PATCH {
            assert_eq!(uri, POLICY);
            return held.patch(body);
        }
        assert!(uri.starts_with(POLICIES), "{uri}");
        let list = json!({ "kind": "List", "apiVersion": "v1", "metadata": {},
            "items": [held.policy()] });
        answer(200, list.to_string())
    }
}

impl Held {
    fn policy(&self) -> Value {
        json!({ "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": { "namespace": "shop", "name": "a", "generation": 2,
                "resourceVersion": self.version.to_string() },
            "spec": { "action": "DENY" }, "status": self.status })
    }

    fn patch(&mut self, patch: Value) -> Answer {
        if self.racing {
            self.racing = false;
            self.version += 1;
        }
        let version = json!(self.version.to_string());
        if patch["metadata"]["resourceVersion"] != version {
            return status(409);
        }
        self.version += 1;
        self.patches += 1;
        self.status["conditions"] = patch["status"]["conditions"].clone();
        answer(200, self.policy().to_string())
    }

    fn lease(&mut self, method: &Method, mut body: Value) -> Answer {
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
        match (method, &self.lease) {
            (&Method::GET, Some(lease)) => return answer(200, lease.to_string()),
            (&Method::GET, None) => return status(404),
            (&Method::POST, Some(_)) => return status(409),
            (&Method::PUT, Some(lease)) if version(lease) != version(&body) => return status(409),
            _ => {}
        }
        self.version += 1;
        body["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let written = answer(200, body.to_string());
        self.lease = Some(body);
        written
    }
}

fn status(code: u16) -> Answer {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "Forbidden",
    };
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "no", "reason": reason, "code": code });
    answer(code, status.to_string())
}

fn differs(message: &str) -> Conditions {
    let desired = Desired {
        status: true,
        reason: DIFFERS,
        message: message.into(),
    };
    Arc::new([(("shop".to_owned(), "a".to_owned()), desired)].into())
}

#[tokio::test]
async fn a_condition_is_written_once_and_those_of_others_stay() {
    let double = Double::default();
    double.held().status = json!({ "conditions": [{ "type": "Reconciled", "status": "True" }] });
    let writer = Writer::new(client(double.serve().await), "enforcer-system", "one");
    let wanted = differs("it denies more");
    assert_eq!(writer.write(&wanted).await.expect("it is written"), 1);
    assert_eq!(writer.write(&wanted).await.expect("nothing to do"), 0);
    let conditions = double.held().status["conditions"].clone();
    assert_eq!(conditions[0]["type"], "Reconciled");
    assert_eq!(conditions[1]["type"], TYPE);
    assert_eq!(conditions[1]["message"], "it denies more");
    assert_eq!(conditions[1]["observedGeneration"], 2);
    assert_eq!(
        writer.write(&Conditions::default()).await.expect("mended"),
        1
    );
    assert_eq!(
        double.held().status["conditions"][1]["reason"],
        "EnforcedAsWritten"
    );
    assert_eq!(double.held().patches, 2);
}

#[tokio::test]
async fn what_another_has_changed_meanwhile_is_not_overwritten() {
    let double = Double::default();
    let writer = Writer::new(client(double.serve().await), "enforcer-system", "one");
    double.held().racing = true;
    let wanted = differs("it denies more");
    assert_eq!(writer.write(&wanted).await.expect("it comes later"), 0);
    assert_eq!(double.held().patches, 0);
    assert_eq!(writer.write(&wanted).await.expect("it is written"), 1);
}

#[tokio::test]
async fn one_agent_writes_until_it_renews_its_lease_no_more() {
    let double = Double::default();
    let address = double.serve().await;
    let held = Duration::from_millis(300);
    let lease = |node: &str| Lease::of(client(address), "enforcer-system", node).held_for(held);
    let (mut one, mut two) = (lease("one"), lease("two"));
    assert!(one.take().await.expect("it is free"));
    assert!(!two.take().await.expect("it is another's"));
    assert!(one.take().await.expect("it is renewed"));
    assert!(!two.take().await.expect("it was renewed"));
    // Nobody renews it any more.
    let end = Instant::now() + Duration::from_secs(20);
    while !two.take().await.expect("the server answers") {
        assert!(Instant::now() < end, "an old lease is free in the end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!one.take().await.expect("it is another's"));
    let lease = double.held().lease.clone().expect("a lease");
    assert_eq!(lease["spec"]["holderIdentity"], "two");
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
}

#[tokio::test]
async fn an_agent_without_the_lease_writes_nothing_and_one_with_it_does() {
    let double = Double::default();
    let address = double.serve().await;
    let writer = |node: &str| Writer::new(client(address), "enforcer-system", node);
    let (mut one, mut two) = (writer("one"), writer("two"));
    let wanted = differs("it denies more");
    assert!(one.step(&wanted, true).await.expect("it writes"));
    assert!(
        !two.step(&differs("otherwise"), true)
            .await
            .expect("it does not")
    );
    assert_eq!(
        double.held().status["conditions"][0]["message"],
        "it denies more"
    );
    assert!(
        !one.step(&differs("later"), false)
            .await
            .expect("nothing is due")
    );
    assert_eq!(double.held().patches, 1);
}

#[tokio::test]
async fn a_missing_verb_is_named() {
    let double = Double::default();
    let mut writer = Writer::new(client(double.serve().await), "enforcer-system", "one");
    double.held().forbidden = true;
    let error = writer
        .step(&differs("x"), true)
        .await
        .expect_err("forbidden");
    assert!(
        error
            .to_string()
            .contains("get, create and update on leases")
    );
    let error = writer.write(&differs("x")).await.expect_err("forbidden");
    assert!(error.to_string().contains("list on authorizationpolicies"));
}
