//! What one agent leaves to the next: counts, slots, connections, programs; and what it must not.

use enforcer::{
    attach::{Attach, Classifiers},
    netlink,
};

use super::*;

/// As [`ONLY_FRONTEND`], under another name and by another condition.
const ONLY_FRONTEND_BY_ADDRESS: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-frontends-address, namespace: default}
spec:
  selector: {matchLabels: {app: backend}}
  action: ALLOW
  rules:
  - from: [{source: {ipBlocks: [10.88.0.2/32, \"fd88::2/128\"]}}]
";

/// Packets counted for rules of a policy.
#[track_caller]
fn hits(world: &World, policy: &str) -> u64 {
    let status = world.home.status().expect("the agent answers");
    let hits = status["hits"].as_array().cloned().unwrap_or_default();
    hits.iter()
        .filter(|hit| hit["policy"] == policy)
        .filter_map(|hit| hit["packets"].as_u64())
        .sum()
}

#[test]
fn hits_of_an_earlier_agents_bundle_are_never_anothers() {
    if !possible() {
        return;
    }
    let world = World::new("lv-hits");
    let other = world.bundle("other.bin", ONLY_FRONTEND_BY_ADDRESS);
    let name = "default/only-frontends-address";
    // The old bundle lies in the slot that the new agent writes at once, then in the one that it
    // writes at its first load.
    for loads in [1, 0] {
        let agent = world.start(ONLY_FRONTEND, &[]);
        let first = world.home.file("first.bin");
        for _ in 0..loads {
            world.expect("frontend", Met::Answer, "its principal is allowed");
            world.home.load(&first).expect("a good bundle");
        }
        world.expect("frontend", Met::Answer, "its principal is allowed");
        assert!(hits(&world, "default/only-frontend") > 0, "hits are there");
        agent.kill().expect("our own process");
        let started = world.home.start(&world.net.node, &other, &[]);
        let _agent = started.expect("an agent takes over what another has left");
        assert_eq!(
            hits(&world, name),
            0,
            "nothing was sent since, {loads} loads"
        );
        world.home.load(&other).expect("a good bundle");
        assert_eq!(
            hits(&world, name),
            0,
            "nor is the other slot's count taken over"
        );
        world.expect("frontend", Met::Answer, "its address is allowed");
        assert!(hits(&world, name) > 0, "its own hits are counted");
        let detached = world.home.detach(&world.net.node);
        detached.expect("detach with an agent");
    }
}

#[test]
fn tables_that_grow_keep_connections_slots_and_the_epoch() {
    if !possible() {
        return;
    }
    let world = World::new("lv-grow");
    let _other_server = Echo::start(world.pod("other"), 9090).expect("the port is free");
    let v4 = world.pod("other").v4.into();
    let agent = world.start(ONLY_FRONTEND, &[]);
    // Opened under the eyes of the programs: seeding would not find the second one, whose port is
    // not one that the kernel gives out.
    let mut outbound = connect(world.pod("backend"), v4, 9090, PATIENCE).expect("a pod may call");
    let low = connect_by(1234, world.pod("backend"), v4, 9090);
    let mut low = low.expect("a pod may call from any port");
    let backend = world.backend()[0];
    let stream = connect(world.pod("frontend"), backend, PORT, PATIENCE);
    let talker = Talker::start(stream.expect("frontend is allowed"));
    agent.kill().expect("our own process");

    let bundle = world.home.file("first.bin");
    let started = world
        .home
        .start(&world.net.node, &bundle, &["--capacity", "1000000"]);
    let agent = started.expect("an agent takes over what another has left");
    let status = world.home.status().expect("the agent answers");
    assert_eq!(status["epoch"], 2, "activations are counted on");
    assert_eq!(status["table"]["capacity_words"], 1_000_000);
    assert!(agent.log().contains("made=0"), "{}", agent.log());
    for stream in [&mut outbound, &mut low] {
        let met = exchange(stream, PATIENCE);
        assert_eq!(met, Met::Answer, "what the pod opened is remembered");
    }
    world.expect("other", Met::Refusal, "no rule allows its principal");
    agent.kill().expect("our own process");

    // From here on the larger tables are the ones that are taken over.
    let started = world.home.start(&world.net.node, &bundle, &[]);
    let _agent = started.expect("an agent takes over what another has left");
    let status = world.home.status().expect("the agent answers");
    assert_eq!(
        (&status["epoch"], &status["table"]["capacity_words"]),
        (&3.into(), &1_000_000.into())
    );
    for stream in [&mut outbound, &mut low] {
        let met = exchange(stream, PATIENCE);
        assert_eq!(met, Met::Answer, "what the pod opened is remembered");
    }
    let (_, longest, last) = talker.stop();
    assert_eq!(last, Met::Answer, "the connection lived through it all");
    assert!(
        longest < Duration::from_secs(1),
        "without a gap: {longest:?}"
    );
}

#[test]
fn connections_of_a_pod_that_was_not_policed_before_are_found_at_a_restart() {
    if !possible() {
        return;
    }
    let world = World::new("lv-seed");
    let _other_server = Echo::start(world.pod("other"), 9090).expect("the port is free");
    let v4 = world.pod("other").v4.into();
    let bundle = world.bundle("first.bin", NOBODY);
    // Guarded and not policed; not known at all.
    for (inventory, options) in [
        (
            world.manifests.clone(),
            &["--exclude-namespace", "default"][..],
        ),
        (one_pod(&world.manifests, "other"), &[]),
    ] {
        let file = world.home.file("inventory.yaml");
        fs::write(&file, &inventory).expect("a file of its own");
        let started = world.home.start(&world.net.node, &bundle, options);
        let agent = started.expect("an agent on a fresh node");
        let mut outbound = connect(world.pod("backend"), v4, 9090, PATIENCE).expect("it may call");
        assert_eq!(
            exchange(&mut outbound, PATIENCE),
            Met::Answer,
            "{options:?}"
        );
        world.expect("frontend", Met::Answer, "backend is not policed");
        agent.kill().expect("our own process");

        fs::write(&file, &world.manifests).expect("a file of its own");
        let _agent = world.start(NOBODY, &[]);
        world.expect("frontend", Met::Refusal, "backend is policed");
        let met = exchange(&mut outbound, PATIENCE);
        assert_eq!(
            met,
            Met::Answer,
            "what the pod had opened goes on: {options:?}"
        );
        let detached = world.home.detach(&world.net.node);
        detached.expect("detach with an agent");
    }
}

/// The manifests of the namespace and of one pod.
fn one_pod(manifests: &str, name: &str) -> String {
    let wanted = |document: &&str| !document.contains("kind: Pod") || document.contains(name);
    let documents: Vec<&str> = manifests.split("---\n").filter(wanted).collect();
    documents.join("---\n")
}

/// A connection from a port that the kernel gives to nobody.
pub fn connect_by(
    own: u16,
    from: &Pod,
    to: IpAddr,
    port: u16,
) -> std::io::Result<std::net::TcpStream> {
    let socket = from.netns.enter(|| {
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::STREAM,
            None,
        )?;
        rustix::net::bind(&socket, &std::net::SocketAddr::new(from.v4.into(), own))?;
        rustix::net::connect(&socket, &std::net::SocketAddr::new(to, port))?;
        Ok::<_, rustix::io::Errno>(socket)
    })?;
    Ok(socket.into())
}

#[test]
fn a_restart_that_fails_changes_no_verdict() {
    if !possible() {
        return;
    }
    let world = World::new("lv-fail");
    let agent = world.start(ONLY_FRONTEND, &[]);
    agent.kill().expect("our own process");
    // A link that can be neither replaced nor removed: that is found out late.
    let in_the_way = world.home.pins().join("v1/links/proxy_lookup");
    fs::remove_file(&in_the_way).expect("it is pinned");
    fs::create_dir(&in_the_way).expect("a place on the BPF file system");
    let nobody = world.bundle("nobody.bin", NOBODY);
    let cases: [(&[&str], &str); 3] = [
        (&[], "cannot remove"),
        (&["--capacity", "1000000"], "cannot remove"),
        (&["--capacity", "99999999"], "99999999 words"),
    ];
    let maps = || {
        let maps = fs::read_dir(world.home.pins().join("v1/maps")).expect("they are pinned");
        maps.count()
    };
    let before = maps();
    for (options, why) in cases {
        let spawned = world.home.spawn(&world.net.node, &nobody, options);
        let mut agent = spawned.expect("the program is there");
        assert!(agent.ends_within(LATE), "{options:?} must be refused");
        assert!(agent.log().contains(why), "{}", agent.log());
        world.expect("frontend", Met::Answer, "the old policy is in force");
        assert_eq!(maps(), before, "{options:?} leaves no maps of its own");
    }
    fs::remove_dir(&in_the_way).expect("it is still there");
    let started = world.home.start(&world.net.node, &nobody, &[]);
    let _agent = started.expect("an agent takes over what others have left");
    world.expect("frontend", Met::Refusal, "the new policy is in force");
}

/// Number of an interface of the node.
#[track_caller]
fn index_of(world: &World, interface: &str) -> u32 {
    let links = links(world);
    let line = links
        .lines()
        .find(|line| line.contains(&format!(" {interface}@")))
        .expect("the node has it");
    let index = line.split(':').next().unwrap_or_default();
    index.trim().parse().expect("`ip -o link` begins with it")
}

#[test]
fn another_way_to_attach_takes_over_and_the_old_one_is_gone() {
    if !possible() {
        return;
    }
    let world = World::new("lv-attach");
    let bundle = world.bundle("first.bin", ONLY_FRONTEND);
    let index = index_of(&world, "vbackend");
    let other = match Attach::best() {
        Attach::Tcx => "tcx",
        // This kernel has but one.
        Attach::Clsact => "clsact",
    };
    for attach in ["clsact", other, "clsact"] {
        let started = world
            .home
            .start(&world.net.node, &bundle, &["--attach", attach]);
        let agent = started.expect("an agent takes over what another has left");
        world.expect("frontend", Met::Answer, attach);
        world.expect("other", Met::Refusal, attach);
        let found = classifiers(&world);
        for program in ["to_pod", "from_pod"] {
            let link = world
                .home
                .pins()
                .join(format!("v1/links/{program}-{index}"));
            let there = (found.has(index, program), link.exists());
            let expected = (attach == "clsact", attach == "tcx");
            assert_eq!(there, expected, "as classifier, and as link, by {attach}");
        }
        agent.kill().expect("our own process");
        world.expect("other", Met::Refusal, "enforcement outlives the agent");
    }
}

/// Our classifiers on the node.
fn classifiers(world: &World) -> Classifiers {
    let runtime = tokio::runtime::Runtime::new().expect("threads can be made");
    let path = world.net.node.path();
    let found = runtime.block_on(async {
        let node = netlink::connect(&enforcer::netns::Netns::open(&path)?)?;
        let links = netlink::links(&node).await?;
        Classifiers::find(&node, &links).await
    });
    found.expect("the kernel says")
}

#[test]
fn an_interface_that_took_anothers_number_is_guarded_all_the_same() {
    if !possible() {
        return;
    }
    let world = World::new("lv-moved");
    let agent = world.start(ONLY_FRONTEND, &[]);
    agent.kill().expect("our own process");
    // The link goes with the device, into another namespace, and another device has its number.
    let node = &world.net.node;
    let index = index_of(&world, "vbackend");
    let backend = world.pod("backend");
    backend
        .netns
        .ip("link set eth0 down
             addr flush dev eth0
             link set eth0 name gone")
        .expect("its own device");
    let elsewhere = tests::netns::Netns::create(&format!("{}-x", node.name()));
    let elsewhere = elsewhere.expect("a name of its own");
    node.ip(&format!("link set vbackend netns {}", elsewhere.name()))
        .expect("a device may move");
    node.ip(&format!(
        "link add vbackend index {index} type veth peer name eth0 netns {}
         addr add fe80::1/64 dev vbackend nodad
         link set vbackend up",
        backend.netns.name()
    ))
    .expect("the number is free");
    let (v4, v6) = (backend.v4, backend.v6);
    backend
        .netns
        .ip(&format!(
            "addr add {v4}/32 dev eth0
             addr add {v6}/128 dev eth0 nodad
             link set eth0 up
             route add 169.254.1.1 dev eth0 scope link
             route add default via 169.254.1.1
             route add ::/0 via fe80::1 dev eth0"
        ))
        .expect("its own device");
    node.sysctl("net/ipv4/conf/vbackend/proxy_arp", "1")
        .and_then(|()| node.sysctl("net/ipv4/neigh/vbackend/proxy_delay", "0"))
        .and_then(|()| {
            node.ip(&format!(
                "route add {v4}/32 dev vbackend scope link
                 route add {v6}/128 dev vbackend"
            ))
        })
        .expect("its own device");
    world.expect("other", Met::Answer, "the new device is bare");
    let bundle = world.home.file("first.bin");
    let started = world.home.start(node, &bundle, &[]);
    let agent = started.expect("an agent takes over what another has left");
    // Made, where the old ones were bound to the device, and made again, where to its number.
    assert!(agent.log().contains("made=2 "), "{}", agent.log());
    world.expect("frontend", Met::Answer, "its principal is allowed");
    world.expect("other", Met::Refusal, "no rule allows its principal");
}
