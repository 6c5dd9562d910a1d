//! What is declared against what is spoken, all nine cells, each with real clients and servers.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, TcpListener},
    process::Command,
    thread,
};

use tests::{
    live::traffic::{Echo, Met, connect, try_once},
    netns::Process,
};

use super::{BYTES, DECLARED_HTTP, DECLARED_TCP, HTTP, OWN, PATIENCE, TLS, UNDECLARED, World, has};

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: cells, namespace: default}}\n\
         spec:\n  selector: {{matchLabels: {{app: backend}}}}\n{spec}"
    )
}

/// What clients meet on one port's cells.
#[derive(PartialEq, Eq, Debug)]
struct Met3 {
    get: String,
    post: String,
    bytes: Met,
    /// TLS for `good.example`, then for `bad.example`.
    tls: [bool; 2],
}

fn met(get: &str, post: &str, bytes: Met, tls: [bool; 2]) -> Met3 {
    Met3 {
        get: get.into(),
        post: post.into(),
        bytes,
        tls,
    }
}

/// A status, or `refused`.
fn request(world: &World, port: u16, method: &str) -> String {
    let url = world.url(port);
    let said = world.client(
        "curl",
        &[
            "-s",
            "-X",
            method,
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &url,
        ],
    );
    match said.code {
        Some(0) => said.out,
        // Could not connect; nothing came back; receiving failed: all of it by a reset.
        Some(7 | 52 | 56) => "refused".into(),
        _ => panic!("{said:?}"),
    }
}

fn handshake(world: &World, port: u16, name: &str) -> bool {
    let resolve = format!("{name}:{port}:{}", world.backend()[0]);
    let url = format!("https://{name}:{port}/");
    let said = world.client(
        "curl",
        &["-sk", "-o", "/dev/null", "--resolve", &resolve, &url],
    );
    match said.code {
        Some(0) => true,
        Some(7 | 35 | 56) => false,
        _ => panic!("{said:?}"),
    }
}

fn try_all(world: &World, first: u16) -> Met3 {
    let frontend = world.net.get("frontend");
    let bytes = try_once(frontend, world.backend()[1], first + BYTES, PATIENCE);
    Met3 {
        get: request(world, first + HTTP, "GET"),
        post: request(world, first + HTTP, "POST"),
        bytes,
        tls: ["good.example", "bad.example"].map(|name| handshake(world, first + TLS, name)),
    }
}

/// openssl's own server, which answers each request with a page.
fn tls_server(world: &World, port: u16) -> Process {
    let [key, certificate] = ["tls.key", "tls.pem"].map(|name| world.home.file(name));
    if !certificate.exists() {
        let mut make = Command::new("openssl");
        make.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=backend", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
        tests::netns::run(&mut make).expect("openssl makes a certificate");
    }
    let mut serve = Command::new("openssl");
    serve
        .args([
            "s_server",
            "-quiet",
            "-www",
            "-accept",
            &format!("0.0.0.0:{port}"),
            "-key",
        ])
        .arg(&key)
        .arg("-cert")
        .arg(&certificate);
    world.serve(&mut serve, port)
}

#[test]
fn all_nine_cells_of_declared_against_spoken_are_judged_as_stated() {
    if !has("curl") || !has("openssl") {
        return;
    }
    let world = World::new("cl-cells", &policy("  action: ALLOW\n  rules: [{}]\n"));
    let backend = world.net.get("backend");
    let declared = [DECLARED_HTTP, DECLARED_TCP, UNDECLARED];
    let _echoes = declared.map(|first| Echo::start(backend, first + BYTES).expect("a free port"));
    let _servers = declared.map(|first| tls_server(&world, first + TLS));
    let (answer, refusal) = (Met::Answer, Met::Refusal);
    let nothing = || met("refused", "refused", refusal, [false; 2]);
    let by_method = || met("200", "403", refusal, [false; 2]);
    for (what, spec, expected, only_tcp_is_steered) in [
        (
            "an ALLOW rule with a method is void where no HTTP is spoken",
            "  action: ALLOW\n  rules:\n  - to: [{operation: {methods: [GET]}}]\n",
            [by_method(), nothing(), by_method()],
            false,
        ),
        (
            "a DENY rule with a method loses it where no HTTP is spoken",
            "  action: DENY\n  rules:\n  - to: [{operation: {methods: [POST]}}]\n",
            [by_method(), nothing(), by_method()],
            false,
        ),
        (
            "a DENY of a server name is asked of TLS, on every port",
            "  action: DENY\n  rules:\n  - when: [{key: connection.sni, values: [bad.example]}]\n",
            [(); 3].map(|()| met("200", "200", answer, [true, false])),
            true,
        ),
        (
            "an ALLOW of a server name lets nothing else in",
            "  action: ALLOW\n  rules:\n  - when: [{key: connection.sni, values: [good.example]}]\n",
            [
                met("403", "403", refusal, [true, false]),
                met("refused", "refused", refusal, [true, false]),
                met("403", "403", refusal, [true, false]),
            ],
            true,
        ),
        (
            "what depends on neither is the kernel's",
            "  action: ALLOW\n  rules: [{}]\n",
            [(); 3].map(|()| met("200", "200", answer, [true; 2])),
            false,
        ),
    ] {
        world.load(&policy(spec));
        for (first, expected) in declared.into_iter().zip(expected) {
            let before = world.counted("steered");
            assert_eq!(
                try_all(&world, first),
                expected,
                "port {first}: {what}\n{}",
                world.agent.log()
            );
            if first == DECLARED_TCP {
                let steered = world.counted("steered") > before;
                assert_eq!(steered, only_tcp_is_steered, "{what}: who decides");
            }
        }
    }
    assert_eq!(world.counted("redirect_unavailable"), 0);
}

/// Says a line, reads to the client's end, says how much came, and ends.
fn serve_first(world: &World, port: u16) {
    let backend = &world.net.get("backend").netns;
    let any = (IpAddr::from([0u16; 8]), port);
    let listener = backend
        .enter(|| TcpListener::bind(any))
        .expect("a free port");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut all = Vec::new();
                stream.write_all(b"220 ready\r\n")?;
                stream.read_to_end(&mut all)?;
                stream.write_all(format!("{} bytes", all.len()).as_bytes())
            });
        }
    });
}

#[test]
fn a_server_that_speaks_first_is_heard_and_each_side_ends_for_itself() {
    if !tests::live::possible() {
        return;
    }
    let sni =
        "  action: DENY\n  rules:\n  - when: [{key: connection.sni, values: [bad.example]}]\n";
    // What the pod says first is waited for no longer than this.
    let short = ["--proxy-sniff-timeout", "500ms"];
    let world = World::with("cl-first", &policy(sni), &short);
    let frontend = world.net.get("frontend");
    for first in [DECLARED_HTTP, DECLARED_TCP, UNDECLARED] {
        serve_first(&world, first + OWN);
        for address in world.backend() {
            let before = world.counted("steered");
            let mut stream = connect(frontend, address, first + OWN, PATIENCE).expect("it accepts");
            let mut line = [0; 11];
            stream
                .read_exact(&mut line)
                .expect("the server's own words");
            assert_eq!(&line, b"220 ready\r\n");
            let sent = vec![0; 500_000];
            stream.write_all(&sent).expect("it stands");
            stream.shutdown(Shutdown::Write).expect("it stands");
            let mut rest = String::new();
            stream.read_to_string(&mut rest).expect("an end");
            assert_eq!(rest, "500000 bytes", "what comes after the client's end");
            assert!(world.counted("steered") > before, "by way of the proxy");
        }
    }
}
