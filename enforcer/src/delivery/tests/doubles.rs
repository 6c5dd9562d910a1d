//! A registry and an API server, as far as bundles are fetched from them.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use k8s_openapi::{ByteString, api::core::v1::ConfigMap};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::double::{self, Answer, answer, serve};

fn digest(bytes: &[u8]) -> String {
    let digest: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{digest}")
}

pub struct Registry {
    pub address: SocketAddr,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    /// By tag and by digest.
    manifests: HashMap<String, Vec<u8>>,
    /// By digest.
    blobs: HashMap<String, Vec<u8>>,
    blobs_sent: usize,
    /// Whose requests are answered; `None`: anybody's.
    login: Option<String>,
    /// So many requests are answered with this.
    failing: Option<(u16, usize)>,
}

impl Registry {
    pub async fn new() -> Self {
        let held = Arc::<Mutex<Held>>::default();
        let within = held.clone();
        let address = serve(move |request| {
            let answer = lock(&within).respond(&request);
            async move { answer }
        });
        Self {
            address: address.await,
            held,
        }
    }

    pub fn place(&self, tag: &str) -> String {
        format!("oci+http:{}/policies:{tag}", self.address)
    }

    pub fn place_of(&self, digest: &str) -> String {
        format!("oci+http:{}/policies@{digest}", self.address)
    }

    /// Publishes layers under a tag. Returns the digest of the manifest.
    pub fn push(&self, tag: &str, layers: &[&[u8]]) -> String {
        let mut held = lock(&self.held);
        let described = |bytes: &[u8]| {
            json!({ "mediaType": "application/vnd.enforcer.bundle", "digest": digest(bytes),
                "size": bytes.len() })
        };
        for layer in layers {
            held.blobs.insert(digest(layer), layer.to_vec());
        }
        let layers: Vec<_> = layers.iter().map(|layer| described(layer)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described(b"{}"), "layers": layers
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = digest(&manifest);
        held.manifests.insert(tag.into(), manifest.clone());
        held.manifests.insert(digest.clone(), manifest);
        digest
    }

    /// Answers with another manifest than was asked for.
    pub fn replace(&self, digest: &str, by: &str) {
        let mut held = lock(&self.held);
        let other = held.manifests[by].clone();
        held.manifests.insert(digest.into(), other);
    }

    /// Sends other bytes for a layer.
    pub fn damage(&self, layer: &[u8], by: &[u8]) {
        lock(&self.held).blobs.insert(digest(layer), by.to_vec());
    }

    pub fn blobs_sent(&self) -> usize {
        lock(&self.held).blobs_sent
    }

    pub fn ask_for(&self, name: &str, password: &str) {
        assert_eq!((name, password), ("reader", "secret"));
        lock(&self.held).login = Some("Basic cmVhZGVyOnNlY3JldA==".into());
    }

    pub fn fail_with(&self, status: u16, times: usize) {
        lock(&self.held).failing = Some((status, times)).filter(|(_, times)| *times > 0);
    }
}

impl Held {
    fn respond(&mut self, request: &Request<Incoming>) -> Answer {
        if let Some((status, times)) = self.failing {
            self.failing = (times > 1).then_some((status, times - 1));
            return answer(status, "it fails");
        }
        let login = request.headers().get("authorization");
        let known = self
            .login
            .as_ref()
            .is_none_or(|wanted| login.is_some_and(|login| login.as_bytes() == wanted.as_bytes()));
        if !known {
            let mut refused = answer(401, "{}");
            let challenge = http::HeaderValue::from_static("Basic realm=\"double\"");
            refused.headers_mut().insert("www-authenticate", challenge);
            return refused;
        }
        let path = request.uri().path();
        if path == "/v2/" {
            return answer(200, "{}");
        }
        if let Some(name) = path.strip_prefix("/v2/policies/manifests/") {
            let Some(manifest) = self.manifests.get(name) else {
                return answer(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#);
            };
            let body = match *request.method() {
                Method::HEAD => Vec::new(),
                _ => manifest.clone(),
            };
            let mut found = answer(200, body);
            let kind = "application/vnd.oci.image.manifest.v1+json".to_owned();
            for (name, value) in [
                ("content-type", kind),
                ("docker-content-digest", digest(manifest)),
            ] {
                let value = value.parse().expect("a header");
                found.headers_mut().insert(name, value);
            }
            return found;
        }
        let blob = path.strip_prefix("/v2/policies/blobs/");
        match blob.and_then(|digest| self.blobs.get(digest)) {
            Some(blob) => {
                self.blobs_sent += 1;
                answer(200, blob.clone())
            }
            None => answer(404, r#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#),
        }
    }
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().expect("no test has panicked with it")
}

/// One ConfigMap, `enforcer-system/enforcer`, that can be listed and watched.
pub struct ApiServer {
    address: SocketAddr,
    now: Arc<watch::Sender<Now>>,
}

#[derive(Clone, Default)]
struct Now {
    version: u64,
    map: Option<ConfigMap>,
    forbidden: bool,
}

impl ApiServer {
    pub async fn new() -> Self {
        let now = Arc::new(watch::Sender::new(Now::default()));
        let within = now.clone();
        let address = serve(move |request| {
            let now = within.clone();
            async move { respond(&request, &now) }
        });
        Self {
            address: address.await,
            now,
        }
    }

    pub fn client(&self) -> kube::Client {
        double::client(self.address)
    }

    /// What the ConfigMap has, with one key; `None`: there is none.
    pub fn set(&self, content: Option<(&str, &[u8])>) {
        self.now.send_modify(|now| {
            now.version += 1;
            now.map = content.map(|(key, bytes)| ConfigMap {
                metadata: kube::api::ObjectMeta {
                    name: Some("enforcer".into()),
                    namespace: Some("enforcer-system".into()),
                    resource_version: Some(now.version.to_string()),
                    ..Default::default()
                },
                binary_data: Some(BTreeMap::from([(key.into(), ByteString(bytes.to_vec()))])),
                ..ConfigMap::default()
            });
        });
    }

    pub fn forbid(&self, forbidden: bool) {
        self.now.send_modify(|now| now.forbidden = forbidden);
    }
}

fn respond(request: &Request<Incoming>, now: &watch::Sender<Now>) -> Answer {
    let uri = request.uri();
    assert_eq!(uri.path(), "/api/v1/namespaces/enforcer-system/configmaps");
    let query = uri.query().unwrap_or_default();
    assert!(query.contains("metadata.name%3Denforcer"), "{query}");
    if now.borrow().forbidden {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": "no", "reason": "Forbidden", "code": 403 });
        return answer(403, status.to_string());
    }
    if query.contains("watch=true") {
        let from = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("resourceVersion="))
            .and_then(|version| version.parse().ok())
            .expect("a version to begin after");
        return Response::new(BodyExt::boxed(StreamBody::new(changes(
            now.subscribe(),
            from,
        ))));
    }
    let now = now.borrow();
    let items: Vec<&ConfigMap> = now.map.iter().collect();
    let list = json!({ "kind": "ConfigMapList", "apiVersion": "v1", "items": items,
        "metadata": { "resourceVersion": now.version.to_string() } });
    answer(200, list.to_string())
}

/// What changes after a version, as it changes.
fn changes(
    now: watch::Receiver<Now>,
    from: u64,
) -> impl stream::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + Sync {
    stream::unfold((now, from), |(mut now, from)| async move {
        let changed = now.wait_for(|now| now.version > from).await.ok()?.clone();
        let event = match &changed.map {
            Some(map) => json!({ "type": "MODIFIED", "object": map }),
            None => json!({ "type": "DELETED", "object": { "metadata": { "name": "enforcer",
                "namespace": "enforcer-system", "resourceVersion": changed.version.to_string() } } }),
        };
        let line = Bytes::from(format!("{event}\n"));
        Some((Ok(Frame::data(line)), (now, changed.version)))
    })
}
