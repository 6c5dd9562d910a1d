//! What an agent was told, and what it tells those who are to help.

use super::*;

#[test]
fn a_support_bundle_helps_and_holds_no_secrets() {
    if !possible() {
        return;
    }
    // A key set and a policy with a header's value, such as nobody should send around.
    const SECRETS: &str = "
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  jwtRules:
  - issuer: the-issuer
    jwks: '{\"keys\":[{\"kty\":\"oct\",\"kid\":\"one\",\"alg\":\"HS256\",\"k\":\"c2VjcmV0LWtleS1tYXRlcmlhbC1vZi0zMi1ieXRlcyE\"}]}'
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: header, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  action: ALLOW
  rules:
  - when: [{key: \"request.headers[x-api-key]\", values: [hidden-api-key]}]
";
    let world = World::new("lv-support");
    serve_http(world.pod("backend"), PORT + 1);
    let _agent = world.start(&format!("{ONLY_GET}{SECRETS}"), &["--events", "all"]);
    let line =
        "GET /private?token=hidden-query HTTP/1.1\r\nAuthorization: Bearer hidden.token.here";
    request(&world, "frontend", line.trim_end_matches(" HTTP/1.1"));
    let said = world
        .home
        .call(&["pause", "all", "--for", "1m", "--reason", "hidden-reason"]);
    assert!(said.expect("it is there").status.success());
    let file = world.home.file("support.tar.gz");
    let bundle = || {
        let mut command = Command::new(ENFORCER);
        command.args(["support-bundle", "-o"]).arg(&file);
        command.arg("--socket").arg(world.home.file("socket"));
        command
            .arg("--bpffs")
            .arg(world.home.pins().parent().expect("a folder"));
        command.env("ENFORCER_SECRET", "hidden-variable");
        command.output().expect("the program is there")
    };
    let said = bundle();
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    let mode = fs::metadata(&file).expect("it was written").permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
        0o600
    );
    let again = bundle();
    assert!(!again.status.success(), "nothing is overwritten");
    let mut tar = Command::new("tar");
    let all = tar.arg("-xzOf").arg(&file).output().expect("tar is there");
    assert!(
        all.status.success(),
        "{}",
        String::from_utf8_lossy(&all.stderr)
    );
    let all = String::from_utf8_lossy(&all.stdout).into_owned();
    for wanted in [
        "\"abi\"",
        "\"counters\"",
        "default/backend",
        "\"socket\"",
        "to_pod-",
        "net/ipv4/ip_forward",
        "What it does not hold",
        "(left out)",
    ] {
        assert!(all.contains(wanted), "{wanted} is missing:\n{all}");
    }
    for secret in ["hidden", "c2VjcmV0", "secret-key", "/private", "the-issuer"] {
        assert!(!all.contains(secret), "{secret} must not be in it:\n{all}");
    }
}

#[test]
fn a_file_configures_an_agent_and_status_says_how() {
    if !possible() {
        return;
    }
    let world = World::new("lv-config");
    let config = world.home.file("config.yaml");
    fs::write(&config, "mode: audit\nrefuse: drop\nno-proxy: true\n").expect("a file of its own");
    let config = config.to_str().expect("plain text");
    let _agent = world.start(NOBODY, &["--config", config, "--refuse", "reset"]);
    world.expect("other", Met::Answer, "audit mode");
    let status = world.home.status().expect("the agent answers");
    assert_eq!(
        (&status["mode"], &status["refuse"]),
        (&"audit".into(), &"reset".into())
    );
    assert_eq!(status["proxy"], serde_json::Value::Null);
    let options = &status["configuration"];
    assert_eq!(options["mode"]["value"], "audit");
    assert_eq!(options["refuse"]["from"], "command line");
}
