//! The inventory changes while the agent runs, and `enforcer refresh` says so.

use std::net::{SocketAddr, TcpStream};

use socket2::{Domain, Protocol, Socket, Type};
use tests::topology::REMOTE_V4;

use super::*;

const FAR_V4: &str = "10.99.0.6";
const FAR_V6: &str = "fd99::6";

/// A pod of another node, of some service account.
fn far(account: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: far, namespace: default, labels: {{app: far}}}}
spec: {{nodeName: far, serviceAccountName: {account}, containers: [{{name: main, image: none}}]}}
status:
  phase: Running
  podIPs: [{{ip: {FAR_V4}}}, {{ip: '{FAR_V6}'}}]
"
    )
}

/// A world with another node behind the uplink, from which `far` speaks.
fn with_far() -> World {
    let mut net = three_pods("lv-refresh").expect("a node with three pods");
    net.with_remote().expect("an uplink");
    let remote = net.remote.as_ref().expect("made above");
    remote
        .ip(&format!(
            "addr add {FAR_V4}/32 dev lo
             addr add {FAR_V6}/128 dev lo nodad"
        ))
        .expect("addresses of its own");
    let way = format!("route replace {FAR_V4}/32 via {REMOTE_V4}");
    net.node.ip(&way).expect("a route to the other node's pod");
    World::on(net)
}

/// What `far` meets at `backend`.
fn met(world: &World) -> [Met; 2] {
    world.backend().map(|address| {
        let to = SocketAddr::new(address, PORT);
        let from = if to.is_ipv4() { FAR_V4 } else { FAR_V6 };
        let from = SocketAddr::new(from.parse().expect("an address"), 0);
        let made = world.net.remote.as_ref().expect("made above").enter(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&from.into())?;
            socket.connect_timeout(&to.into(), PATIENCE)?;
            std::io::Result::Ok(TcpStream::from(socket))
        });
        match made {
            Ok(mut stream) => exchange(&mut stream, PATIENCE),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Met::Refusal,
            Err(error) => panic!("far met something unforeseen: {error}"),
        }
    })
}

/// Writes the inventory, has it read, and tells what the command said.
#[track_caller]
fn refresh(world: &World, inventory: &str) -> Result<String, String> {
    fs::write(world.home.file("inventory.yaml"), inventory).expect("a file of its own");
    let output = world.home.call(&["refresh"]).expect("the program is there");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

#[test]
fn a_pod_of_another_node_is_judged_anew_and_the_flows_of_others_lose_nothing() {
    if !possible() {
        return;
    }
    let world = with_far();
    let _agent = world.start(ONLY_FRONTEND, &[]);
    let mut open = connect(world.pod("frontend"), world.backend()[0], PORT, PATIENCE)
        .expect("frontend is allowed");
    let steps = [
        ("", [Met::Refusal; 2], "nobody knows it"),
        ("frontend", [Met::Answer; 2], "it has the principal"),
        ("other", [Met::Refusal; 2], "it has another account"),
        ("frontend", [Met::Answer; 2], "it has the principal again"),
        ("", [Met::Refusal; 2], "its address is nobody's"),
    ];
    let epoch = world.home.status().expect("the agent answers")["epoch"].clone();
    for (account, expected, why) in steps {
        let pod = match account {
            "" => String::new(),
            account => far(account),
        };
        let said = refresh(&world, &format!("{}{pod}", world.manifests));
        let said = said.expect("a good inventory");
        assert!(said.contains("written in place"), "{why}: {said}");
        assert_eq!(met(&world), expected, "{why}");
        assert_eq!(exchange(&mut open, PATIENCE), Met::Answer, "{why}");
    }
    let refused = refresh(&world, "kind: [").expect_err("a list has no end");
    assert!(refused.contains("inventory.yaml"), "{refused}");
    assert_eq!(exchange(&mut open, PATIENCE), Met::Answer);
    let after = world.home.status().expect("the agent answers")["epoch"].clone();
    assert_eq!(after, epoch, "one table all the time");
}

#[test]
fn a_pod_of_this_node_comes_and_goes_with_the_inventory() {
    if !possible() {
        return;
    }
    let world = World::new("lv-comes");
    let all = world.manifests.clone();
    let documents = all
        .split("---\n")
        .filter(|text| !text.contains("app: other"));
    let without = documents.collect::<Vec<_>>().join("---\n");
    fs::write(world.home.file("inventory.yaml"), &without).expect("a file of its own");
    let _agent = world.start(ONLY_FRONTEND, &[]);
    let row = || {
        let status = world.home.status().expect("the agent answers");
        let pods = status["pods"].as_array().cloned().unwrap_or_default();
        let found = pods.into_iter().find(|pod| pod["name"] == "default/other");
        found.map(|pod| pod["interfaces"][0].clone())
    };
    assert_eq!(row(), None);
    refresh(&world, &all).expect("a good inventory");
    let interface = world.pod("other").interface.clone();
    assert!(
        until(PATIENCE, || row() == Some(interface.as_str().into())),
        "{:?}",
        row()
    );
    world.expect("other", Met::Refusal, "it has no principal that is allowed");
    world.expect("frontend", Met::Answer, "it has");
    refresh(&world, &without).expect("a good inventory");
    assert!(until(PATIENCE, || row().is_none()), "{:?}", row());
    world.expect("frontend", Met::Answer, "as before");
}
