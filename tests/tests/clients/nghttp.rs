//! nghttp2's own tools: frames as they are, and many streams at once.

use super::{DECLARED_HTTP, HTTP, ONLY_OK, UNDECLARED, World, has};

#[test]
fn streams_of_one_connection_are_judged_each_by_itself() {
    if !has("nghttp") {
        return;
    }
    let world = World::new("cl-ng", ONLY_OK);
    for first in [DECLARED_HTTP, UNDECLARED] {
        let url = world.url(first + HTTP);
        let [a, b, c] = ["/ok/1", "/no", "/ok/large-300000"].map(|path| format!("{url}{path}"));
        let said = world.client("nghttp", &["-v", "--no-dep", &a, &b, &c]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(said.out.matches(":status: 200").count(), 2, "{}", said.out);
        assert_eq!(said.out.matches(":status: 403").count(), 1, "{}", said.out);
        assert!(said.out.contains("RBAC: access denied"), "{}", said.out);
        assert!(!said.out.contains("recv RST_STREAM"), "{}", said.out);
    }
}

#[test]
fn a_grpc_denial_is_trailers_alone_with_status_7() {
    if !has("nghttp") {
        return;
    }
    let world = World::new("cl-ngrpc", ONLY_OK);
    let url = format!("{}/no.Service/Method", world.url(DECLARED_HTTP + HTTP));
    let kind = "content-type: application/grpc";
    let said = world.client("nghttp", &["-v", "-H", ":method: POST", "-H", kind, &url]);
    assert!(said.out.contains(":status: 200"), "{}", said.out);
    assert!(said.out.contains("grpc-status: 7"), "{}", said.out);
    assert!(
        said.out.contains("grpc-message: RBAC: access denied"),
        "{}",
        said.out
    );
    let answer = said.out.split("recv HEADERS frame").nth(1);
    let answer = answer.unwrap_or_default();
    assert!(
        answer.contains("END_STREAM"),
        "the head is all: {}",
        said.out
    );
    assert!(!said.out.contains("recv DATA"), "{}", said.out);
}

#[test]
fn hundreds_of_streams_are_all_answered() {
    if !has("h2load") {
        return;
    }
    let world = World::new("cl-h2load", ONLY_OK);
    let url = world.url(DECLARED_HTTP + HTTP);
    for (path, counted) in [
        ("/ok/1", "400 2xx, 0 3xx, 0 4xx, 0 5xx"),
        ("/no", "0 2xx, 0 3xx, 400 4xx, 0 5xx"),
    ] {
        for protocol in ["h2c", "http/1.1"] {
            let url = format!("{url}{path}");
            let many = ["-n", "400", "-c", "8", "-m", "20", "-p", protocol, &url];
            let said = world.client("h2load", &many);
            assert!(said.out.contains(counted), "{protocol} {path}: {said:?}");
            assert!(
                said.out.contains(" 0 errored, 0 timeout"),
                "{protocol} {path}: {said:?}"
            );
        }
    }
}
