//! Whom the agent itself asks, and what can be seen of it: an authorizer, an issuer's keys, metrics,
//! the access log.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use policyc::{bundle, inventory::Inventory, options::CatchAllDeny, read, resolve};
use tests::netns::Netns;

use super::*;

const HTTP: u16 = PORT + 1;
const AUTHORIZER: u16 = 9_000;
const ISSUER: u16 = 9_001;
const METRICS: u16 = 9_002;

const MESH: &str = "
extensionProviders:
- name: guard
  envoyExtAuthzHttp:
    service: 127.0.0.1
    port: 9000
    timeout: 5s
    statusOnError: \"503\"
    includeRequestHeadersInCheck: [x-pass]
    headersToUpstreamOnAllow: [x-user]
";

const POLICIES: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask-the-guard, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  action: CUSTOM
  provider: {name: guard}
  rules:
  - to: [{operation: {paths: [/ask]}}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  jwtRules:
  - {issuer: joe, jwksUri: \"http://127.0.0.1:9001/keys\"}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-joe, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  action: DENY
  rules:
  - from: [{source: {notRequestPrincipals: [joe/sub]}}]
    to: [{operation: {paths: [/joe]}}]
";

/// HS256 with the key below; `{\"iss\":\"joe\",\"sub\":\"sub\"}`.
fn token() -> String {
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    let key = jsonwebtoken::EncodingKey::from_secret(b"0123456789abcdef0123456789abcdef");
    let claims = serde_json::json!({"iss": "joe", "sub": "sub"});
    jsonwebtoken::encode(&header, &claims, &key).expect("claims are JSON")
}

const KEYS: &str = r#"{"keys":[{"kty":"oct","k":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}]}"#;

/// Serves one answer a connection on the node's loopback: `answer` makes it of the request's head.
fn serve_on_node(
    node: &Netns,
    port: u16,
    stop: &Arc<AtomicBool>,
    answer: impl Fn(&str) -> String + Send + 'static,
) {
    let listener = node.enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)));
    let listener = listener.expect("the port is free");
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let answer = answer(&head.join("\n").to_ascii_lowercase());
            let _gone = (&stream).write_all(answer.as_bytes());
        }
    });
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
}

/// A request; status and body of the answer.
fn get(mut stream: TcpStream, path: &str, headers: &str) -> (u16, String) {
    let head =
        format!("GET {path} HTTP/1.1\r\nhost: backend\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    let mut all = String::new();
    stream.read_to_string(&mut all).expect("an answer");
    let status = all.split(' ').nth(1).and_then(|s| s.parse().ok());
    let body = all.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.expect("a status"), body.unwrap_or_default())
}

#[test]
fn authorizers_are_asked_keys_are_fetched_and_all_of_it_is_seen() {
    if !possible() {
        return;
    }
    let world = World::new("lv-asks");
    world.net.node.ip("link set lo up").expect("lo");
    // The pod answers with what it was sent.
    let listener = world.pod("backend").netns.enter(|| {
        let any = (IpAddr::from([0u16; 8]), HTTP);
        TcpListener::bind(any)
    });
    let listener = listener.expect("the port is free");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let _gone = (&stream).write_all(answer("200 OK", "", &head.join("\n")).as_bytes());
        }
    });
    let stop = Arc::new(AtomicBool::new(false));
    serve_on_node(&world.net.node, AUTHORIZER, &stop, |head| {
        match head.contains("x-pass: yes") {
            true => answer("200 OK", "x-user: u1\r\n", ""),
            false => answer("401 Unauthorized", "x-why: guard\r\n", "who?"),
        }
    });
    let text = format!("{}---\n{POLICIES}", world.manifests);
    let (loaded, _) = read::load_str("asks.yaml", &text, Some(MESH));
    let place = |_: &policyc::diagnostic::At| ("asks.yaml".into(), 1);
    let none = BTreeMap::new();
    let program = resolve::resolve(&loaded.cluster, CatchAllDeny::DenyAll, &none, &place);
    let inventory = Inventory::of(&loaded.cluster);
    let bytes = bundle::write(&program.expect("sound policies"), &inventory, 0);
    let bundle = world.home.bundle("asks.bin", &bytes.expect("it is small"));
    let log = world.home.file("access.log");
    let log = log.to_str().expect("plain text");
    let metrics = format!("127.0.0.1:{METRICS}");
    let options = ["--access-log", log, "--metrics-listen", &metrics];
    let bundle = bundle.expect("a file");
    let agent = world.home.start(&world.net.node, &bundle, &options);
    let agent = agent.expect("the agent starts");

    let to = world.backend()[0];
    let from = || connect(world.pod("frontend"), to, HTTP, PATIENCE).expect("it accepts");
    let (status, body) = get(from(), "/ask", "x-pass: yes\r\n");
    assert_eq!(status, 200, "{}", agent.log());
    assert!(body.to_ascii_lowercase().contains("x-user: u1"), "{body}");
    let (status, body) = get(from(), "/ask", "");
    assert_eq!((status, &*body), (401, "who?"));
    let (status, _) = get(from(), "/other", "");
    assert_eq!(status, 200, "nobody is asked about it");
    stop.store(true, Ordering::SeqCst);
    // The listener takes one more connection before it sees that.
    let _last = get(from(), "/ask", "x-pass: yes\r\n");
    let (status, _) = get(from(), "/ask", "x-pass: yes\r\n");
    assert_eq!(status, 503, "`statusOnError`");

    let bearer = format!("authorization: Bearer {}\r\n", token());
    let (status, _) = get(from(), "/joe", &bearer);
    assert_eq!(status, 401, "no key has come yet");
    let keys = Arc::new(AtomicBool::new(false));
    serve_on_node(&world.net.node, ISSUER, &keys, |_| {
        answer("200 OK", "", KEYS)
    });
    let fetched = until(Duration::from_secs(60), || {
        get(from(), "/joe", &bearer).0 == 200
    });
    assert!(fetched, "the keys come: {}", agent.log());
    assert_eq!(get(from(), "/joe", "").0, 403, "without a token");

    let node = || {
        let at = (Ipv4Addr::LOCALHOST, METRICS);
        world
            .net
            .node
            .enter(|| TcpStream::connect(at))
            .expect("it listens")
    };
    assert_eq!(get(node(), "/healthz", ""), (200, "ok\n".into()));
    assert_eq!(get(node(), "/readyz", ""), (200, "ok\n".into()));
    let (status, text) = get(node(), "/metrics", "");
    assert_eq!(status, 200);
    for line in [
        "enforcer_proxy_verdicts_total{verdict=\"deny\"}",
        "enforcer_proxy_verdicts_total{verdict=\"allow\"}",
        "enforcer_packets_total{reason=\"steered\"}",
        "enforcer_authorizer_questions_total",
        "enforcer_proxy_request_seconds_bucket{le=\"+Inf\"}",
        "enforcer_key_set_keys{source=\"http://127.0.0.1:9001/keys\"} 1",
    ] {
        assert!(text.contains(line), "no `{line}` in\n{text}");
    }
    let lines = fs::read_to_string(log).expect("the access log");
    let first: serde_json::Value =
        serde_json::from_str(lines.lines().next().expect("a line")).expect("JSON");
    assert_eq!(first["path"], "/ask");
    assert_eq!(first["status"], 200);
    assert_eq!(first["verdict"], "allow");
    let principal = "cluster.local/ns/default/sa/frontend";
    assert_eq!(first["src_principal"], principal);
    assert!(first["duration_us"].as_u64().is_some_and(|us| us > 0));
    let denied = lines.lines().nth(1).expect("a second line");
    assert!(
        denied.contains("\"policy\":\"default/ask-the-guard\""),
        "{denied}"
    );
    assert!(denied.contains("\"reason\":\"custom_denied\""), "{denied}");
}
