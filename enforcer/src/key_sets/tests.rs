//! Issuers on loopback, over HTTP and HTTPS.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant as Clock,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server, service::service_fn};
use hyper_util::rt::TokioIo;
use policyc::{
    ir::{Authentication, JwtRule, Program},
    l7::Engine,
};

use super::*;

/// The symmetric key of RFC 7515, A.1.
const KEYS: &str = r#"{"keys":[{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}]}"#;

/// What an issuer serves, by path; what is not there is 404.
type Pages = Arc<Mutex<HashMap<String, String>>>;

struct Issuer {
    at: SocketAddr,
    pages: Pages,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let at = listener.local_addr().expect("it");
        let pages = Pages::default();
        let asked = Arc::new(AtomicUsize::new(0));
        let (serve, count) = (Arc::clone(&pages), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (serve, count) = (Arc::clone(&serve), Arc::clone(&count));
                let service = service_fn(move |request: Request<Incoming>| {
                    count.fetch_add(1, Ordering::SeqCst);
                    let page = serve
                        .lock()
                        .expect("whole")
                        .get(request.uri().path())
                        .cloned();
                    async move {
                        let status = if page.is_some() { 200 } else { 404 };
                        let body = Full::new(Bytes::from(page.unwrap_or_default()));
                        Ok::<_, Infallible>(
                            Response::builder()
                                .status(status)
                                .body(body)
                                .expect("a response"),
                        )
                    }
                });
                let builder = server::conn::http1::Builder::new();
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { at, pages, asked }
    }

    fn page(&self, path: &str, text: &str) {
        self.pages
            .lock()
            .expect("whole")
            .insert(path.into(), text.into());
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }
}

/// An engine whose one issuer has these fields.
fn engine(ring: &KeyRing, rule: JwtRule) -> Engine {
    let authentication = Authentication {
        namespace: "ns".into(),
        name: "ra".into(),
        attachment: Default::default(),
        jwt_rules: vec![rule],
    };
    let program = Program {
        authentications: vec![authentication],
        ..Program::default()
    };
    Engine::with_keys(&program, ring)
}

fn by_uri(uri: String) -> JwtRule {
    JwtRule {
        issuer: "joe".into(),
        jwks_uri: Some(uri),
        ..JwtRule::default()
    }
}

fn fresh() -> Freshness {
    Freshness {
        refresh: Duration::from_millis(50),
        stale: Duration::from_millis(400),
        first_pause: Duration::from_millis(20),
        longest_pause: Duration::from_millis(50),
    }
}

/// A fetcher at work.
fn run(ring: &KeyRing, freshness: Freshness) -> (Arc<Fetcher>, watch::Sender<u64>) {
    let (changes, changed) = watch::channel(0);
    let fetcher = Arc::new(Fetcher::new(ring.clone(), Arc::default(), freshness));
    let running = Arc::clone(&fetcher);
    tokio::spawn(async move { running.run(changed).await });
    (fetcher, changes)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Clock::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Clock::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_key_set_comes_is_refreshed_outlives_a_failure_and_ends_when_stale() {
    let issuer = Issuer::start().await;
    issuer.page("/keys", KEYS);
    let ring = KeyRing::default();
    let _engine = engine(&ring, by_uri(issuer.url("/keys")));
    let (fetcher, _changes) = run(&ring, fresh());
    let keys = || fetcher.status().first().map_or(0, |set| set.keys);
    until("the keys come", || keys() == 1).await;
    until("they are fetched again", || {
        issuer.asked.load(Ordering::SeqCst) > 2
    })
    .await;
    issuer.page("/keys", r#"{"keys":[]}"#);
    let failed = || fetcher.status()[0].error.clone();
    until("a failure is told", || failed().is_some()).await;
    assert!(
        failed().is_some_and(|why| why.contains("no key")),
        "{:?}",
        failed()
    );
    until("stale keys are let go of", || keys() == 0).await;
    issuer.page("/keys", KEYS);
    until("and come back", || keys() == 1 && failed().is_none()).await;
}

#[tokio::test]
async fn a_change_of_policy_brings_new_sources_and_ends_old_ones() {
    let issuer = Issuer::start().await;
    issuer.page("/keys", KEYS);
    let ring = KeyRing::default();
    let (fetcher, changes) = run(&ring, Freshness::default());
    let first = engine(&ring, by_uri(issuer.url("/keys")));
    changes.send_replace(1);
    until("it is fetched", || {
        fetcher.status().iter().any(|set| set.keys == 1)
    })
    .await;
    drop(first);
    let discovered = JwtRule {
        issuer: issuer.url(""),
        ..JwtRule::default()
    };
    let document = serde_json::json!({"issuer": issuer.url(""), "jwks_uri": issuer.url("/keys")});
    issuer.page("/.well-known/openid-configuration", &document.to_string());
    let _second = engine(&ring, discovered);
    changes.send_replace(2);
    until("the other one is", || {
        let status = fetcher.status();
        status.len() == 1 && status[0].keys == 1 && status[0].source.contains("well-known")
    })
    .await;
}

#[tokio::test]
async fn what_is_no_key_set_is_told() {
    let issuer = Issuer::start().await;
    issuer.page("/text", "hello");
    issuer.page("/large", &" ".repeat(2 << 20));
    issuer.page(
        "/.well-known/openid-configuration",
        r#"{"issuer": "https://other"}"#,
    );
    let getter = Getter::new(Arc::default());
    for (source, why) in [
        (KeySource::Uri(issuer.url("/none")), "404"),
        (KeySource::Uri(issuer.url("/text")), "no key"),
        (KeySource::Uri(issuer.url("/large")), "limit"),
        (KeySource::Uri("ftp://a/keys".into()), "neither http"),
        (KeySource::Uri("http://127.0.0.1:1/keys".into()), "refused"),
        (KeySource::Issuer(issuer.url("")), "another issuer"),
    ] {
        let error = fetch(&getter, &source).await.expect_err(why);
        let error = crate::chain(&error);
        assert!(error.contains(why), "{source:?}: {error}");
    }
}

#[tokio::test]
async fn over_https_the_certificate_must_be_of_somebody_trusted() {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let issued = issued.expect("a certificate");
    let certificate = issued.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.expect("a key"))
        .expect("a pair");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a port");
    let port = listener.local_addr().expect("it").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(|_: Request<Incoming>| async {
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(
                        KEYS.as_bytes(),
                    ))))
                });
                let builder = server::conn::http1::Builder::new();
                let _served = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    let source = KeySource::Uri(format!("https://localhost:{port}/keys"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).expect("a root");
    let trusting = Getter::trusting(Arc::default(), roots).expect("a client");
    let keys = fetch(&trusting, &source).await.expect("a key set");
    assert_eq!(keys.len(), 1);
    let nobody = rcgen::generate_simple_self_signed(["other".to_owned()]).expect("one");
    let mut others = rustls::RootCertStore::empty();
    others.add(nobody.cert.der().clone()).expect("a root");
    let strict = Getter::trusting(Arc::default(), others).expect("a client");
    let error = fetch(&strict, &source).await.expect_err("nobody trusts it");
    assert!(error.to_string().contains("certificate"), "{error}");
}
