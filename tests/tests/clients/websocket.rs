//! WebSocket between Python's client and Python's server.

use std::process::{Command, Stdio};

use super::{DECLARED_HTTP, Lines, ONLY_OK, OWN, UNDECLARED, World, python, script};

#[test]
fn a_handshake_is_judged_and_messages_are_carried() {
    let Some(python) = python() else { return };
    let world = World::new("cl-ws", ONLY_OK);
    for first in [DECLARED_HTTP, UNDECLARED] {
        let port = first + OWN;
        let mut serve = Command::new(&python);
        serve.args([&script("websocket_server.py"), &port.to_string()]);
        let _server = world.serve(&mut serve, port);
        let talk = |path: &str| {
            let url = format!("ws://{}:{port}{path}", world.backend()[0]);
            let said = world.client(&python, &[&script("websocket_client.py"), &url, "once"]);
            assert_eq!(said.code, Some(0), "{said:?}");
            said.out.trim().to_owned()
        };
        assert_eq!(talk("/ok/ws"), "5 2000000 closed 1000");
        assert_eq!(talk("/no/ws"), "403 RBAC: access denied");
    }
}

#[test]
fn a_connection_that_loses_its_permission_is_broken_off() {
    let Some(python) = python() else { return };
    let world = World::new("cl-wsoff", ONLY_OK);
    let port = DECLARED_HTTP + OWN;
    let mut serve = Command::new(&python);
    serve.args([&script("websocket_server.py"), &port.to_string()]);
    let _server = world.serve(&mut serve, port);
    let url = format!("ws://{}:{port}/ok/ws", world.backend()[0]);
    let mut talk = Command::new(&python);
    talk.args([&script("websocket_client.py"), &url, "wait"]);
    talk.stdout(Stdio::piped()).stdin(Stdio::null());
    let netns = &world.net.get("frontend").netns;
    let mut talk = netns.process(&mut talk).expect("Python is there");
    let lines = Lines::of(talk.child());
    assert_eq!(lines.next(), "open");
    world.load(&ONLY_OK.replace("/ok/*", "/ok/else"));
    assert_eq!(lines.next(), "broken off");
}
