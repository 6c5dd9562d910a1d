//! What the agent makes of the node it runs on: its processors, its protocols, its addresses.

use aya::maps::MapData;
use enforcer_ebpf::{maps::HITS, words::SLOTS};

use super::*;

/// Records that the pinned map of hits has room for.
fn records(world: &World) -> u32 {
    let map = MapData::from_pin(world.home.pins().join("v1/maps").join(HITS));
    let info = map.expect("it is pinned").info();
    info.expect("the kernel says").max_entries() / SLOTS
}

#[test]
fn hits_take_memory_for_the_records_that_the_bundle_has() {
    if !possible() {
        return;
    }
    let world = World::new("lv-hits");
    let agent = world.start(ONLY_FRONTEND, &[]);
    assert_eq!(records(&world), 1024, "the least there is");

    // The rule of each port is a record of its own.
    let many = (0..2).map(|n| {
        let ports = 10_000 + n * 350..10_350 + n * 350;
        let rules: String = ports
            .map(|port| format!("  - to: [{{operation: {{ports: [\"{port}\"]}}}}]\n"))
            .collect();
        let policy = NOBODY.replace("name: nobody", &format!("name: many-{n}"));
        format!("---{policy}  action: ALLOW\n  rules:\n{rules}")
    });
    let many = format!("{ONLY_FRONTEND}{}", many.collect::<String>());
    let bundle = compile(&world.manifests, &many, 0).expect("the test's own policies");
    let bundle = world.home.bundle("many.bin", &bundle);
    let bundle = bundle.expect("a file of its own");
    let refused = world
        .home
        .load(&bundle)
        .expect_err("they cannot be counted");
    let refused = format!("{refused:#}");
    assert!(refused.contains("attribution records"), "{refused}");
    assert!(refused.contains("start it again"), "{refused}");
    world.expect("frontend", Met::Answer, "the old table is still in force");
    world.expect("other", Met::Refusal, "the old table is still in force");
    agent.kill().expect("our own process");

    let started = world.home.start(&world.net.node, &bundle, &[]);
    let agent = started.expect("an agent makes the counters that it needs");
    let grown = records(&world);
    assert!(grown > 1024 && grown.is_power_of_two(), "{grown} records");
    world.expect("frontend", Met::Answer, "its principal is allowed");
    world.expect("other", Met::Refusal, "no rule allows its principal");
    let status = world.home.status().expect("the agent answers");
    let hits = status["hits"].as_array().cloned().unwrap_or_default();
    let of_frontend = hits.iter().find(|hit| hit["rule"] == 0);
    assert!(
        of_frontend.is_some_and(|hit| hit["opened"].as_u64() >= Some(2)),
        "they are counted: {hits:?}"
    );
    agent.kill().expect("our own process");
    // Not made smaller again, with a table in it that needs them all.
    let _agent = world.start(ONLY_FRONTEND, &[]);
    assert_eq!(records(&world), grown, "what was there is taken over");
}

/// As it is on every kernel; the one that matters was started with `ipv6.disable=1`.
#[test]
fn a_node_that_speaks_ipv4_only_is_enforced() {
    if !possible() {
        return;
    }
    let world = World::new("lv-v4only");
    let backend = world.pod("backend").v4.into();
    let met = |from: &str| try_once(world.pod(from), backend, PORT, PATIENCE);
    {
        let _agent = world.start(ONLY_FRONTEND, &[]);
        assert_eq!(met("frontend"), Met::Answer, "its principal is allowed");
        assert_eq!(met("other"), Met::Refusal, "no rule allows its principal");
    }
    let agent = world.start(ONLY_GET, &[]);
    assert_eq!(met("other"), Met::Refusal, "no rule allows its principal");
    // The echo server's client speaks no HTTP: the proxy ends its connection.
    assert_eq!(met("frontend"), Met::Refusal, "the proxy judged it");
    let log = agent.log();
    assert!(world.counted("steered") > 0, "it went there:\n{log}");
    assert_eq!(world.counted("redirect_unavailable"), 0, "{log}");
    println!(
        "IPv6 is {}",
        if enforcer::netns::has_ipv6() {
            "there"
        } else {
            "off"
        }
    );
}

#[test]
fn doctor_says_what_is_missing_and_leaves_nothing() {
    if !possible() {
        return;
    }
    let world = World::new("lv-doctor");
    let node = &world.net.node;
    let plain = world.home.file("plain");
    fs::create_dir(&plain).expect("a folder of its own");
    let examine = |bpffs: &Path| {
        let mut command = Command::new(ENFORCER);
        command.args(["doctor", "--format", "json", "--bpffs"]);
        let output = node.enter(|| command.arg(bpffs).output());
        let output = output.expect("the program is there");
        let findings = serde_json::from_slice::<Vec<serde_json::Value>>(&output.stdout);
        (output.status.code(), findings.expect("JSON"))
    };
    let state_of = |findings: &[serde_json::Value], what: &str| {
        let found = findings.iter().find(|finding| finding["what"] == what);
        let found = found.unwrap_or_else(|| panic!("nothing of {what} in {findings:?}"));
        let text = format!("{}", found["found"]);
        (found["state"].as_str().unwrap_or_default().to_owned(), text)
    };

    let bpffs = world.home.pins();
    let bpffs = bpffs.parent().expect("it is within one");
    let (code, findings) = examine(bpffs);
    assert_eq!(
        code,
        Some(0),
        "the tests' own machine can enforce: {findings:?}"
    );
    let (state, found) = state_of(&findings, "BPF programs");
    assert!(state == "ok" && found.contains("to_pod"), "{found}");
    for what in [
        "CAP_BPF",
        "veth devices",
        "socket tables",
        "IPv4 forwarding",
    ] {
        assert_eq!(state_of(&findings, what).0, "ok", "{what}");
    }
    let entries = fs::read_dir(bpffs).expect("it is there").flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().contains("enforcer"));
    assert_eq!(ours.count(), 0, "the trial's pins are gone");
    assert_nothing_left(&world);

    let (code, findings) = examine(&plain);
    assert_eq!(
        code,
        Some(1),
        "without a BPF file system nothing is enforced"
    );
    assert_eq!(state_of(&findings, "BPF file system").0, "missing");
    assert_eq!(state_of(&findings, "BPF programs").0, "note", "not tried");

    assert_eq!(state_of(&findings, "uplinks").0, "ok", "there is none");
    node.ip("route add 198.51.100.0/24 via 192.0.2.9 dev void onlink")
        .expect("a router on a link");
    let (_, findings) = examine(bpffs);
    let (state, found) = state_of(&findings, "uplink void");
    assert!(
        state == "note" && found.contains("not authenticate"),
        "{found}"
    );

    let netkit = node.ip("link add nk0 type netkit").is_ok();
    let (_, findings) = examine(bpffs);
    let seen = findings.iter().any(|f| f["what"] == "netkit devices");
    assert_eq!(seen, netkit, "{findings:?}");
}

#[test]
fn addresses_that_the_node_is_given_later_are_its_own() {
    if !possible() {
        return;
    }
    let world = World::new("lv-address");
    let _agent = world.start(NOBODY, &["--host", "all"]);
    let node = &world.net.node;
    let epoch = || world.home.status().expect("the agent answers")["epoch"].as_u64();
    assert_eq!(epoch(), Some(1), "nothing has changed yet");
    for (own, to) in [("10.77.9.1", 0), ("fd77:9::1", 1)] {
        let (own, to): (IpAddr, IpAddr) = (own.parse().expect("an address"), world.backend()[to]);
        let bits = if own.is_ipv4() { 32 } else { 128 };
        let dad = if own.is_ipv4() { "" } else { "nodad" };
        let before = epoch();
        let added = node.ip(&format!("addr add {own}/{bits} dev void {dad}"));
        added.expect("its own device");
        assert!(
            until(PATIENCE, || epoch() > before),
            "the table is linked anew"
        );
        let met = || {
            let stream = node.enter(|| {
                let socket = socket2::Socket::new(
                    socket2::Domain::for_address((own, 0).into()),
                    socket2::Type::STREAM,
                    None,
                )?;
                socket.bind(&std::net::SocketAddr::new(own, 0).into())?;
                socket.connect_timeout(&std::net::SocketAddr::new(to, PORT).into(), PATIENCE)?;
                std::io::Result::Ok(std::net::TcpStream::from(socket))
            });
            stream.map(|mut stream| exchange(&mut stream, PATIENCE))
        };
        assert_eq!(
            met().expect("it is let in"),
            Met::Answer,
            "{own} is the node"
        );
        // Gone again, it is anybody's: a pod that takes it is not the node.
        let before = epoch();
        let gone = node.ip(&format!("addr del {own}/{bits} dev void"));
        gone.expect("its own device");
        assert!(
            until(PATIENCE, || epoch() > before),
            "the table is linked anew"
        );
    }
    world.expect("other", Met::Refusal, "the policies are in force as before");
}
