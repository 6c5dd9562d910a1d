//! What the node's interfaces do while the agent runs, and what it makes of that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use serde_json::Value;

use super::*;

/// What `status` says of a pod.
#[track_caller]
fn row(world: &World, name: &str) -> Value {
    let status = world.home.status().expect("the agent answers");
    let pods = status["pods"].as_array().cloned().unwrap_or_default();
    let row = pods.iter().find(|pod| pod["name"] == name).cloned();
    row.unwrap_or_else(|| panic!("no row of {name} in {pods:?}"))
}

/// Waits until `status` says of `backend` what is wanted.
#[track_caller]
fn told(world: &World, why: &str, wanted: impl Fn(&Value) -> bool) {
    let found = until(LATE, || wanted(&row(world, "default/backend")));
    assert!(
        found,
        "{why}: {}\n{}",
        row(world, "default/backend"),
        fs::read_to_string(world.home.file("agent.log")).unwrap_or_default()
    );
}

fn is_guarded(row: &Value) -> bool {
    row["not_enforced"].is_null() && row["interfaces"].as_array().is_some_and(|i| !i.is_empty())
}

/// Whom nobody lets in tries all the time. Counts what is answered.
struct Burglar {
    stop: Arc<AtomicBool>,
    tries: Arc<AtomicU64>,
    thread: thread::JoinHandle<u64>,
}

impl Burglar {
    fn start(world: &World) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tries = Arc::new(AtomicU64::new(0));
        let (stopping, counting) = (stop.clone(), tries.clone());
        let to = (world.backend()[0], PORT).into();
        let thread = world.pod("other").netns.spawn(move || {
            let mut answers = 0;
            while !stopping.load(Ordering::Relaxed) {
                // Nothing but a handshake: what follows is judged anew.
                let met = std::net::TcpStream::connect_timeout(&to, Duration::from_millis(30));
                answers += u64::from(met.is_ok());
                counting.fetch_add(1, Ordering::Relaxed);
            }
            answers
        });
        Self {
            stop,
            tries,
            thread,
        }
    }

    fn stop(self) -> u64 {
        let tries = self.tries.load(Ordering::Relaxed);
        let more = until(PATIENCE, || self.tries.load(Ordering::Relaxed) > tries + 3);
        self.stop.store(true, Ordering::Relaxed);
        assert!(more, "it tries until the end");
        self.thread.join().expect("no panic")
    }
}

#[test]
fn a_renamed_interface_stays_guarded_without_a_gap() {
    if !possible() {
        return;
    }
    let world = World::new("lv-rename");
    let _agent = world.start(ONLY_FRONTEND, &[]);
    world.expect("other", Met::Refusal, "no rule allows its principal");
    let burglar = Burglar::start(&world);
    let pod = world.pod("backend");
    world
        .net
        .node
        .ip(&format!(
            "link set vbackend down
             link set vbackend name elsewhere
             link set elsewhere up
             addr replace fe80::1/64 dev elsewhere nodad
             route add {}/32 dev elsewhere scope link
             route add {}/128 dev elsewhere",
            pod.v4, pod.v6
        ))
        .expect("its name is free");
    told(&world, "the new name", |row| {
        row["interfaces"][0] == "elsewhere"
    });
    world.expect("frontend", Met::Answer, "its principal is allowed");
    world.expect("other", Met::Refusal, "still no rule");
    assert_eq!(burglar.stop(), 0, "nothing came through in between");
    let status = world.home.status().expect("the agent answers");
    assert_eq!(status["epoch"], 1, "a name is nothing to a table");
    // The interface is found by its number when policies change, too.
    let none = world.bundle("none.bin", NOBODY);
    world.home.load(&none).expect("a good bundle");
    world.expect("frontend", Met::Refusal, "nobody may");
}

fn removed_and_made_again(what: &str, options: &[&str]) {
    if !possible() {
        return;
    }
    let world = World::new(what);
    let _other_server = Echo::start(world.pod("other"), 9090).expect("the port is free");
    let _agent = world.start(ONLY_FRONTEND, options);
    let remove = || world.net.node.ip("link del vbackend").expect("it is there");
    let burglar = Burglar::start(&world);
    for round in 0..3 {
        remove();
        told(&world, "it is gone", |row| {
            row["not_enforced"]
                .as_str()
                .is_some_and(|r| r.contains("its interface is gone") && r.contains("vbackend"))
        });
        // Who borrows the pod's address meanwhile is nobody.
        if round == 0 {
            let spoofed = world.counted("spoofed_pod_source");
            let (thief, pod) = (world.pod("other"), world.pod("backend"));
            let borrow = |what| format!("addr {what} {}/32 dev eth0", pod.v4);
            thief.netns.ip(&borrow("add")).expect("its own device");
            let from = std::net::SocketAddr::new(pod.v4.into(), 0);
            let to = std::net::SocketAddr::new(world.pod("frontend").v4.into(), PORT);
            let sent = thief
                .netns
                .enter(|| std::net::UdpSocket::bind(from)?.send_to(b"x", to));
            sent.expect("it may try");
            let counted = until(PATIENCE, || world.counted("spoofed_pod_source") > spoofed);
            assert!(counted, "the address is still the pod's");
            thief.netns.ip(&borrow("del")).expect("its own device");
        }
        world
            .net
            .connect(world.pod("backend"))
            .expect("as a CNI does");
        told(&world, "it is back", is_guarded);
        let guarded = until(LATE, || {
            try_once(world.pod("other"), world.backend()[0], PORT, SILENCE) == Met::Refusal
        });
        assert!(guarded, "round {round}");
        world.expect("other", Met::Refusal, "from now on");
        world.expect("frontend", Met::Answer, "its principal is allowed");
        let met = try_once(
            world.pod("backend"),
            world.pod("other").v4.into(),
            9090,
            PATIENCE,
        );
        assert_eq!(met, Met::Answer, "the pod itself may call");
    }
    println!(
        "handshakes before an interface was guarded: {}",
        burglar.stop()
    );
    let status = world.home.status().expect("the agent answers");
    assert!(status["interfaces_error"].is_null(), "{status}");
}

#[test]
fn an_interface_removed_and_made_again_is_guarded_again() {
    removed_and_made_again("lv-remade", &[]);
}

#[test]
fn an_interface_removed_and_made_again_is_guarded_again_by_the_older_hook() {
    removed_and_made_again("lv-remadecls", &["--attach", "clsact"]);
}

#[test]
fn an_interface_that_moves_away_and_back_is_guarded_again() {
    if !possible() {
        return;
    }
    for (what, options) in [
        ("lv-move", &[][..]),
        ("lv-movecls", &["--attach", "clsact"]),
    ] {
        let world = World::new(what);
        let _agent = world.start(ONLY_FRONTEND, options);
        world.expect("other", Met::Refusal, "no rule allows its principal");
        let away = Netns::create(&format!("{}-away", world.net.node.name()));
        let away = away.expect("a namespace");
        let (node, pod) = (&world.net.node, world.pod("backend"));
        node.ip(&format!("link set vbackend netns {}", away.name()))
            .expect("it is there");
        told(&world, "it is away", |row| !row["not_enforced"].is_null());
        away.ip(&format!("link set vbackend netns {}", node.name()))
            .expect("it is there");
        told(&world, "it is back", is_guarded);
        node.ip(&format!(
            "addr replace fe80::1/64 dev vbackend nodad
             link set vbackend up
             route add {}/32 dev vbackend scope link
             route add {}/128 dev vbackend",
            pod.v4, pod.v6
        ))
        .expect("it is back");
        node.sysctl("net/ipv4/conf/vbackend/proxy_arp", "1")
            .expect("a setting");
        node.sysctl("net/ipv4/neigh/vbackend/proxy_delay", "0")
            .expect("a setting");
        world.expect("other", Met::Refusal, "as before");
        world.expect("frontend", Met::Answer, "its principal is allowed");
    }
}

#[test]
fn what_an_interface_let_through_unguarded_is_judged_at_its_next_packet() {
    if !possible() {
        return;
    }
    let mut net = three_pods("lv-late").expect("a node with three pods");
    net.with_remote().expect("a remote node");
    let world = World::on(net);
    let agent = world.start(ONLY_FRONTEND, &[]);
    let remote = world.net.remote.as_ref().expect("just made");
    for to in world.backend() {
        let met = try_from(remote, to, PORT, PATIENCE);
        assert_eq!(met, Met::Refusal, "no rule allows it");
    }
    // Nobody is there to see it come.
    agent.kill().expect("our own process");
    world.net.node.ip("link del vbackend").expect("it is there");
    world
        .net
        .connect(world.pod("backend"))
        .expect("as a CNI does");
    world.expect("other", Met::Silence, "a pod's address at another's place");
    let streams = world
        .backend()
        .map(|to| connect_from(remote, to, PORT, PATIENCE))
        .map(|stream| stream.expect("a new interface without an agent is open to others"));
    let _agent = world.start(ONLY_FRONTEND, &[]);
    for mut stream in streams {
        let met = exchange(&mut stream, PATIENCE);
        assert_eq!(met, Met::Refusal, "what began before is judged as well");
    }
    world.expect("other", Met::Refusal, "from now on");
}

/// `backend` is found by its namespace, and has a second address in each family.
fn with_second_addresses(world: &World) {
    let pod = world.pod("backend");
    let manifests = fs::read_to_string(world.home.file("inventory.yaml")).expect("it is there");
    let more = manifests
        .replace("    enforcer/interface: vbackend\n", "")
        .replace(
            &format!("podIPs: [{{ip: {}}}, ", pod.v4),
            &format!(
                "podIPs: [{{ip: {}}}, {{ip: 10.88.0.33}}, {{ip: \"fd88::33\"}}, ",
                pod.v4
            ),
        );
    assert_ne!(more, manifests, "the pod is among them");
    fs::write(world.home.file("inventory.yaml"), more).expect("a file of its own");
}

#[test]
fn every_address_of_a_pod_is_policed_on_every_interface_it_has_or_gets() {
    if !possible() {
        return;
    }
    let world = World::new("lv-second");
    with_second_addresses(&world);
    let _agent = world.start(ONLY_FRONTEND, &[]);
    let (node, pod) = (&world.net.node, world.pod("backend"));
    let second: [IpAddr; 2] = [[10, 88, 0, 33].into(), "fd88::33".parse().expect("one")];
    let reach = |why: &str| {
        world.expect("frontend", Met::Answer, why);
        world.expect("other", Met::Refusal, why);
        for to in second {
            let met = try_once(world.pod("frontend"), to, PORT, PATIENCE);
            assert_eq!(met, Met::Answer, "frontend to {to}: {why}");
            let met = try_once(world.pod("other"), to, PORT, PATIENCE);
            assert_eq!(met, Met::Refusal, "other to {to}: {why}");
        }
    };
    pod.netns
        .ip("addr add 10.88.0.33/32 dev eth0
             addr add fd88::33/128 dev eth0 nodad")
        .expect("its own device");
    node.ip("route add 10.88.0.33/32 dev vbackend scope link
             route add fd88::33/128 dev vbackend")
        .expect("they are free");
    reach("on the same interface");
    // A second interface comes, and the second addresses move there.
    node.ip(&format!(
        "link add vsecond type veth peer name eth1 netns {}",
        pod.netns.name()
    ))
    .expect("its name is free");
    told(&world, "both are guarded", |row| {
        row["interfaces"].as_array().map(Vec::len) == Some(2)
    });
    pod.netns
        .ip("addr del 10.88.0.33/32 dev eth0
             addr del fd88::33/128 dev eth0
             link set eth1 up
             addr add 10.88.0.33/32 dev eth1
             addr add fd88::33/128 dev eth1 nodad")
        .expect("its own devices");
    node.ip("link set vsecond up
             addr add fe80::1/64 dev vsecond nodad
             route replace 10.88.0.33/32 dev vsecond scope link
             route replace fd88::33/128 dev vsecond")
        .expect("they are there");
    for device in ["all", "eth0", "eth1"] {
        let name = format!("net/ipv4/conf/{device}/rp_filter");
        pod.netns.sysctl(&name, "0").expect("a setting");
    }
    node.sysctl("net/ipv4/conf/vsecond/rp_filter", "0")
        .expect("a setting");
    node.sysctl("net/ipv4/conf/vbackend/rp_filter", "0")
        .expect("a setting");
    reach("on two interfaces");
    node.ip("link del vsecond").expect("it is there");
    told(&world, "one is left", |row| {
        row["interfaces"].as_array().map(Vec::len) == Some(1)
    });
    world.expect(
        "other",
        Met::Refusal,
        "the first one is guarded all the while",
    );
}

#[test]
fn a_pod_that_comes_later_is_found_and_policed() {
    if !possible() {
        return;
    }
    let world = World::new("lv-later");
    let unannotated = inventory::unannotated(&world);
    fs::write(world.home.file("inventory.yaml"), unannotated).expect("a file of its own");
    world.net.node.ip("link del vbackend").expect("it is there");
    let _agent = world.start(ONLY_FRONTEND, &["--node-name", "n1"]);
    told(&world, "it is not there", |row| {
        row["not_enforced"]
            .as_str()
            .is_some_and(|r| r.contains("no network namespace"))
    });
    world
        .net
        .connect(world.pod("backend"))
        .expect("as a CNI does");
    told(&world, "it is there", is_guarded);
    world.expect("other", Met::Refusal, "no rule allows its principal");
    world.expect("frontend", Met::Answer, "its principal is allowed");
}

/// What the proxy's links carry at most, at each end.
#[track_caller]
fn mtus(world: &World) -> [u64; 4] {
    let node = world.net.node.name();
    let proxy = world.home.netns();
    let ends = [
        (node, "enf-l7"),
        (proxy, "l7"),
        (node, "enf-rej"),
        (proxy, "rej"),
    ];
    ends.map(|(netns, device)| {
        let mut show = Command::new("ip");
        show.args(["-n", netns, "-j", "link", "show", "dev", device]);
        let shown = tests::netns::run(&mut show).expect("it is there");
        let shown: Value = serde_json::from_str(&shown).expect("it is JSON");
        shown[0]["mtu"].as_u64().expect("a device has one")
    })
}

#[test]
fn the_proxys_links_are_never_larger_than_the_smallest_of_the_pods() {
    if !possible() {
        return;
    }
    let world = World::new("lv-mtus");
    let _agent = world.start(ONLY_FRONTEND, &[]);
    assert_eq!(mtus(&world), [1500; 4], "as the pods' links");
    let other = world.pod("other");
    let become_ = |mtu| until(LATE, || mtus(&world) == [mtu; 4]);
    let gone = format!("link delete {}", other.interface);
    world.net.node.ip(&gone).expect("its own link");
    world.net.connect(other).expect("as a CNI does");
    let smaller = |mtu| {
        let link = format!("link set {} mtu {mtu}", other.interface);
        world.net.node.ip(&link).expect("a veth takes it");
    };
    smaller(1400);
    assert!(become_(1400), "{:?}", mtus(&world));
    // IPv6 goes on, for the other pods.
    smaller(1200);
    assert!(become_(1280), "{:?}", mtus(&world));
    world.net.node.ip(&gone).expect("its own link");
    assert!(become_(1500), "{:?}", mtus(&world));
    world.expect("frontend", Met::Answer, "its principal is allowed");
}
