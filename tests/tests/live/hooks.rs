//! Networks whose packets skip the node's end of a pod's link: redirected into the pod, and netkit.

use enforcer::attach::Attach;
use tests::{ready::has_device, redirector};

use super::*;

/// Packets to `backend` take a way through the node on which a program of that name redirects them
/// into the pod, past the node's end of its link.
fn redirect(world: &World, name: &str) -> impl Sized {
    let node = &world.net.node;
    let backend = world.pod("backend");
    node.ip("link add sw0 type veth peer name sw1
             link set sw0 address 02:00:00:00:77:01
             link set sw1 address 02:00:00:00:77:02
             link set sw0 up
             link set sw1 up")
        .expect("a way through the node");
    for address in backend.addresses() {
        node.ip(&format!(
            "neigh add {address} lladdr 02:00:00:00:77:02 dev sw0
             route replace {address} dev sw0"
        ))
        .expect("its own device");
    }
    // The way back is another one.
    let rp_filter = format!("net/ipv4/conf/{}/rp_filter", backend.interface);
    node.sysctl(&rp_filter, "0").expect("its own device");
    let pin = world.home.pins().with_file_name("redirector");
    let target = index_of(world, &backend.interface);
    redirector::attach(node, "sw1", name, target, &pin).expect("this kernel has TCX")
}

fn index_of(world: &World, interface: &str) -> u32 {
    let shown = world
        .net
        .node
        .output(Command::new("ip").args(["-j", "link", "show", interface]));
    let shown: serde_json::Value =
        serde_json::from_str(&shown.expect("it is there")).expect("JSON");
    let index = shown[0]["ifindex"]
        .as_u64()
        .and_then(|n| u32::try_from(n).ok());
    index.expect("it has an index")
}

#[track_caller]
fn hook_of(world: &World, pod: &str) -> (String, String) {
    let status = world.home.status().expect("the agent answers");
    let pods = status["pods"].as_array().cloned().unwrap_or_default();
    let row = pods
        .iter()
        .find(|row| row["name"] == pod)
        .expect("it is a pod of this node");
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    (text("hook"), text("path"))
}

/// Waits until the hooks were asked.
#[track_caller]
fn expect_hook(world: &World, hook: &str, path: &str) {
    let expected = (hook.to_owned(), path.to_owned());
    assert!(
        until(LATE, || hook_of(world, "default/backend") == expected),
        "{:?} instead of {expected:?}\n{}",
        hook_of(world, "default/backend"),
        fs::read_to_string(world.home.file("agent.log")).unwrap_or_default()
    );
}

fn not_ready(world: &World) -> Vec<serde_json::Value> {
    let status = world.home.status().expect("the agent answers");
    status["not_ready"].as_array().cloned().unwrap_or_default()
}

/// Before TCX no pod can be guarded from inside; which kernels those are is no accident of a machine.
fn has_tcx() -> bool {
    let has = Attach::best() == Attach::Tcx;
    if !has {
        println!("not run here: this kernel is older than TCX");
    }
    has
}

#[test]
fn the_hooks_of_an_ordinary_network_are_on_the_path() {
    if !possible() {
        return;
    }
    let world = World::new("lv-path");
    let _agent = world.start(ONLY_FRONTEND, &[]);
    expect_hook(&world, "host", "seen");
    assert!(world.counted("self_test") >= 3, "each pod's was asked");
    assert!(not_ready(&world).is_empty());
    // Nobody but the node may ask: to others it is a protocol like any other.
    let before = world.counted("self_test");
    let other = world.pod("other");
    let to = std::net::SocketAddr::new(world.pod("backend").v4.into(), 0);
    let sent = other.netns.enter(|| {
        let protocol = Some(socket2::Protocol::from(253));
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, protocol)?;
        (0..3).try_for_each(|_| socket.send_to(b"enforcer", &to.into()).map(drop))
    });
    sent.expect("a pod may send what it likes");
    assert_eq!(
        world.counted("self_test"),
        before,
        "a pod's packets are not the node's"
    );
    world.expect("frontend", Met::Answer, "its principal is allowed");
    world.expect("other", Met::Refusal, "no rule allows its principal");
}

#[test]
fn a_pod_whose_packets_skip_the_hook_is_guarded_from_inside() {
    if !possible() || !has_tcx() {
        return;
    }
    let world = World::new("lv-skip");
    let _way = redirect(&world, "some_redirect");
    {
        let _agent = world.start(ONLY_FRONTEND, &["--hook", "host"]);
        expect_hook(&world, "host", "skipped");
        assert_eq!(not_ready(&world).len(), 1, "{:?}", not_ready(&world));
        let accepted = || {
            world
                .server
                .accepted
                .load(std::sync::atomic::Ordering::Relaxed)
        };
        world.expect(
            "other",
            Met::Refusal,
            "the pod's answers are judged all the same, and the client is told",
        );
        assert_eq!(accepted(), 0, "no handshake was completed");
        assert!(
            world.counted("reply_refused") > 0,
            "but the pod was reached"
        );
        world
            .home
            .detach(&world.net.node)
            .expect("detach with an agent");
    }
    let agent = world.start(ONLY_FRONTEND, &[]);
    expect_hook(&world, "pod", "seen");
    assert!(not_ready(&world).is_empty());
    world.expect("frontend", Met::Answer, "its principal is allowed");
    world.expect("other", Met::Silence, "what is refused inside vanishes");
    agent.kill().expect("our own process");
    world.expect("other", Met::Silence, "enforcement outlives the agent");

    // The next one knows at once, and has no time without a guard.
    let agent = world.start(ONLY_FRONTEND, &[]);
    assert_eq!(
        hook_of(&world, "default/backend").0,
        "pod",
        "{}",
        agent.log()
    );
    world.expect("frontend", Met::Answer, "its principal is allowed");
    world.expect("other", Met::Silence, "no rule allows its principal");
    let detached = world.home.detach(&world.net.node);
    detached.expect("detach with an agent");
    world.expect("other", Met::Answer, "nothing is enforced any more");
}

#[test]
fn from_inside_a_pod_is_guarded_as_well_as_from_outside() {
    if !possible() || !has_tcx() {
        return;
    }
    let world = World::new("lv-inside");
    let _way = redirect(&world, "cil_from_netdev");
    // By the name of the program that redirects, without being asked.
    let agent = world.start(ONLY_FRONTEND, &[]);
    for pod in ["backend", "frontend", "other"] {
        assert_eq!(
            hook_of(&world, &format!("default/{pod}")).0,
            "pod",
            "{}",
            agent.log()
        );
    }
    world.expect("frontend", Met::Answer, "its principal is allowed");
    world.expect("other", Met::Silence, "no rule allows its principal");
    // What the pod opens is remembered, and its answers come in.
    let other = world.pod("other");
    let _server = Echo::start(other, 9090).expect("the port is free");
    let met = try_once(world.pod("backend"), other.v4.into(), 9090, PATIENCE);
    assert_eq!(met, Met::Answer, "a pod may call others");
    // An administrator of the pod's own network cannot take the hook away.
    let backend = &world.pod("backend").netns;
    for arguments in [
        &["qdisc", "add", "dev", "eth0", "clsact"][..],
        &["filter", "del", "dev", "eth0", "ingress"],
        &["qdisc", "del", "dev", "eth0", "clsact"],
    ] {
        let mut command = Command::new("tc");
        // Whether there is such a thing is all the same.
        let _tried = backend.output(command.args(arguments));
    }
    backend
        .ip("link set eth0 down\nlink set eth0 name eth9\nlink set eth9 up")
        .expect("its own");
    backend
        .ip("route replace 169.254.1.1 dev eth9 scope link
             route replace default via 169.254.1.1
             route replace ::/0 via fe80::1 dev eth9")
        .expect("its own");
    let v4 = world.backend()[0];
    assert_eq!(
        try_once(other, v4, PORT, SILENCE),
        Met::Silence,
        "it is still there"
    );
    let met = try_once(world.pod("frontend"), v4, PORT, PATIENCE);
    assert_eq!(met, Met::Answer, "and so is the pod");
    // A forged source is refused where the pod cannot get at it.
    let before = world.counted("spoofed_pod_source");
    backend
        .ip(&format!("addr add {}/32 dev eth9", other.v4))
        .expect("its own");
    let from = std::net::SocketAddr::new(other.v4.into(), 0);
    let to = std::net::SocketAddr::new(world.pod("frontend").v4.into(), PORT);
    let sent = backend.enter(|| std::net::UdpSocket::bind(from)?.send_to(b"x", to));
    sent.expect("the pod may try");
    assert!(until(PATIENCE, || world.counted("spoofed_pod_source") > before));
    drop(agent);

    // Rules that need the proxy are refused, and that is said.
    let _agent = world.start(ONLY_GET, &[]);
    assert_eq!(
        try_once(world.pod("frontend"), v4, PORT, SILENCE),
        Met::Silence
    );
    assert!(world.counted("redirect_unavailable") > 0);
    let shown = world.home.call(&["status"]).expect("the program is there");
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains("what needs it is refused"), "{shown}");
}

#[test]
fn pods_on_netkit_are_guarded_from_inside() {
    if !possible() || !has_tcx() || !has_device("netkit") {
        return;
    }
    let mut world = World::new("lv-netkit");
    let node = &world.net.node;
    // In place of the veths that the topology has made. An `ip` that is older than netkit cannot name
    // the far end, which the kernel then calls nk0.
    for pod in &world.net.pods {
        let (name, interface) = (pod.netns.name(), &pod.interface);
        node.ip(&format!(
            "link del {interface}
             link add {interface} type netkit
             link set nk0 netns {name} name eth0
             addr add fe80::1/64 dev {interface} nodad
             link set {interface} up
             route add {}/32 dev {interface} scope link
             route add {}/128 dev {interface}",
            pod.v4, pod.v6
        ))
        .expect("the kernel has netkit");
        pod.netns
            .ip(&format!(
                "addr add {}/32 dev eth0
                 addr add {}/128 dev eth0 nodad
                 link set eth0 up
                 route add default dev eth0
                 route add ::/0 dev eth0",
                pod.v4, pod.v6
            ))
            .expect("its own device");
    }
    world.manifests = manifests(&world.net);
    let _agent = world.start(ONLY_FRONTEND, &[]);
    expect_hook(&world, "pod", "seen");
    world.expect("frontend", Met::Answer, "its principal is allowed");
    world.expect("other", Met::Silence, "no rule allows its principal");
    println!("netkit: pods are guarded from inside");
}

#[test]
fn inside_needs_tcx() {
    if !possible() {
        return;
    }
    let world = World::new("lv-notcx");
    let bundle = world.bundle("first.bin", ONLY_FRONTEND);
    let options = ["--hook", "pod", "--attach", "clsact"];
    let spawned = world.home.spawn(&world.net.node, &bundle, &options);
    let mut agent = spawned.expect("the program is there");
    assert!(agent.ends_within(LATE), "it is refused");
    assert!(agent.log().contains("needs TCX links"), "{}", agent.log());
    assert_nothing_left(&world);
}
