//! Which pods are policed: by namespace, by the pod's own label, and not where a mesh stands between.

use super::*;

/// The inventory, with these lines in the metadata of `backend`.
fn inventory(world: &World, labels: &str, annotation: &str) -> String {
    let labelled = world.manifests.replace(
        "labels: {app: backend}",
        &format!("labels: {{app: backend{labels}}}"),
    );
    let (before, after) = labelled.split_once("name: backend\n").expect("backend");
    let after = after.replacen("annotations:\n", &format!("annotations:\n{annotation}"), 1);
    format!("{before}name: backend\n{after}")
}

/// What `status` says of `backend`.
fn backend(world: &World) -> serde_json::Value {
    let status = world.home.status().expect("the agent answers");
    let pods = status["pods"].as_array().expect("pods").clone();
    let found = pods
        .into_iter()
        .find(|pod| pod["name"] == "default/backend");
    found.expect("it is a pod of this node")
}

#[test]
fn a_pods_label_and_a_mesh_decide_whether_it_is_policed() {
    if !possible() {
        return;
    }
    let world = World::new("lv-enrol");
    let label = |value: &str| format!(", enforcer/enroll: \"{value}\"");
    let sidecar = "    sidecar.istio.io/status: '{}'\n";
    let ambient = "    ambient.istio.io/redirection: enabled\n";
    let excluded = ["--exclude-namespace", "default"];
    let cases: [(String, &str, &[&str], Option<&str>); 7] = [
        (
            label("false"),
            "",
            &[],
            Some("its label enforcer/enroll is"),
        ),
        (label("false"), "", &["--ignore-enroll-label"], None),
        (
            String::new(),
            "",
            &excluded,
            Some("its namespace is excluded"),
        ),
        (label("true"), "", &excluded, None),
        (label("true"), sidecar, &[], Some("it has a sidecar proxy")),
        (
            String::new(),
            ambient,
            &[],
            Some("redirected by an ambient mesh"),
        ),
        (String::new(), sidecar, &["--enroll-meshed"], None),
    ];
    for (labels, annotation, options, left_out) in cases {
        let inventory = inventory(&world, &labels, annotation);
        fs::write(world.home.file("inventory.yaml"), inventory).expect("a file of its own");
        let _agent = world.start(NOBODY, options);
        let why = format!("{labels} {annotation} {options:?}");
        let said = backend(&world);
        match left_out {
            Some(reason) => {
                world.expect("frontend", Met::Answer, &why);
                let not_enforced = said["not_enforced"].to_string();
                assert!(not_enforced.contains(reason), "{why}: {said}");
                assert_eq!(said["enrolled"], false);
                assert_eq!(said["lost"], false);
                assert_ne!(said["interfaces"], serde_json::json!([]), "it is guarded");
            }
            None => {
                world.expect("frontend", Met::Refusal, &why);
                assert_eq!(said["enrolled"], true);
                let in_mesh = !annotation.is_empty();
                assert_eq!(said["mesh"].is_string(), in_mesh, "{why}: {said}");
            }
        }
        world.home.detach(&world.net.node).expect("it detaches");
    }
}

#[test]
fn a_pod_that_is_left_to_a_mesh_still_cannot_borrow_an_address() {
    if !possible() {
        return;
    }
    let world = World::new("lv-enrol-spoof");
    let (before, after) = world.manifests.split_once("name: other\n").expect("other");
    let injected = "annotations:\n    sidecar.istio.io/status: '{}'\n";
    let after = after.replacen("annotations:\n", injected, 1);
    let inventory = format!("{before}name: other\n{after}");
    fs::write(world.home.file("inventory.yaml"), inventory).expect("a file of its own");
    let _agent = world.start(ONLY_FRONTEND, &[]);
    let doctor = world.home.call(&["doctor", "--format", "json"]);
    let doctor = String::from_utf8_lossy(&doctor.expect("it runs").stdout).into_owned();
    assert!(doctor.contains("pods in a mesh"), "{doctor}");
    assert!(doctor.contains("default/other"), "{doctor}");

    let (frontend, other) = (world.pod("frontend"), world.pod("other"));
    let borrowed = format!("addr add {}/32 dev eth0", frontend.v4);
    other.netns.ip(&borrowed).expect("its own device");
    // Who asks for its neighbour under another's address gets no answer.
    let own = other.netns.sysctl("net/ipv4/conf/all/arp_announce", "2");
    own.expect("a namespace of its own");
    let before = world.counted("spoofed_pod_source");
    let from = std::net::SocketAddr::new(frontend.v4.into(), 0);
    let to = std::net::SocketAddr::new(world.backend()[0], PORT);
    let sent = other.netns.enter(|| {
        let socket = std::net::UdpSocket::bind(from)?;
        socket.send_to(b"x", to)
    });
    sent.expect("the pod may try");
    assert!(
        until(PATIENCE, || world.counted("spoofed_pod_source") > before),
        "backend's verdict about frontend rests on frontend's address: {}",
        String::from_utf8_lossy(&world.home.call(&["status"]).expect("it runs").stdout)
    );
}
