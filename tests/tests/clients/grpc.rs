//! gRPC between Python's client and Python's server.

use std::process::{Command, Stdio};

use super::{DECLARED_HTTP, Lines, OWN, UNDECLARED, World, python, script};

/// Of the service, two of four methods may be called.
const TWO_METHODS: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: two-methods, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  action: ALLOW
  rules:
  - to: [{operation: {methods: [POST], paths: [/echo.Echo/Unary, /echo.Echo/Talk]}}]
";

#[test]
fn calls_are_judged_by_their_method_unary_and_streaming() {
    let Some(python) = python() else { return };
    let world = World::new("cl-grpc", TWO_METHODS);
    for first in [DECLARED_HTTP, UNDECLARED] {
        let port = first + OWN;
        let mut serve = Command::new(&python);
        serve.args([&script("grpc_server.py"), &port.to_string()]);
        let _server = world.serve(&mut serve, port);
        let at = format!("{}:{port}", world.backend()[0]);
        let call = |method: &str, kind: &str| {
            let said = world.client(&python, &[&script("grpc_client.py"), &at, method, kind]);
            assert_eq!(said.code, Some(0), "{said:?}");
            said.out.trim().to_owned()
        };
        let denied = "PERMISSION_DENIED RBAC: access denied";
        assert_eq!(call("Unary", "unary"), "['echo 0']");
        assert_eq!(
            call("Talk", "stream"),
            "['echo 0', 'echo 1', 'echo 2', 'echo 3', 'echo 4']"
        );
        assert_eq!(call("Secret", "unary"), denied);
        assert_eq!(call("SecretTalk", "stream"), denied);
        // More than one window of flow control, both ways.
        assert_eq!(call("Unary", "large"), "[3000005]");
    }
}

#[test]
fn a_call_that_loses_its_permission_is_broken_off() {
    let Some(python) = python() else { return };
    let world = World::new("cl-grpcoff", TWO_METHODS);
    let port = DECLARED_HTTP + OWN;
    let mut serve = Command::new(&python);
    serve.args([&script("grpc_server.py"), &port.to_string()]);
    let _server = world.serve(&mut serve, port);
    let at = format!("{}:{port}", world.backend()[0]);
    let mut call = Command::new(&python);
    call.args([&script("grpc_client.py"), &at, "Talk", "endless"]);
    call.stdout(Stdio::piped()).stdin(Stdio::null());
    let netns = &world.net.get("frontend").netns;
    let mut call = netns.process(&mut call).expect("Python is there");
    let lines = Lines::of(call.child());
    assert_eq!(lines.next(), "echo 0");
    world.load(&TWO_METHODS.replace(", /echo.Echo/Talk", ""));
    let mut last = lines.next();
    while last.starts_with("echo") {
        last = lines.next();
    }
    // Its stream is reset: neither a message nor an end.
    assert!(last.contains("RST_STREAM"), "{last}");
}
