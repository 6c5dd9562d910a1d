//! What a monitor shows of real traffic is what `policyc` replays: under the same policies nothing
//! changes, and under others what a replay tells is what the traffic then meets.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
};

use policyc::{
    cluster::Cluster,
    options::CatchAllDeny,
    read,
    replay::{Recording, Replay, Verdict, flow, replay},
    request::SourceRef,
    resolve::resolve,
    suggest::{Wanted, suggest},
};

use super::*;

/// Connects from both pods and returns what the agent reported of it.
fn record(world: &World) -> Vec<String> {
    let stream = UnixStream::connect(world.home.file("socket")).expect("the agent listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    let mut stream = BufReader::new(stream);
    writeln!(stream.get_mut(), "{{\"command\":\"monitor\"}}").expect("the agent reads");
    let mut line = String::new();
    stream.read_line(&mut line).expect("the agent answers");
    assert!(line.contains("monitoring"), "{line}");
    world.expect("frontend", Met::Answer, "its principal is allowed");
    world.expect("other", Met::Refusal, "nobody else is");
    let mut lines: Vec<String> = Vec::new();
    // Two pods, over IPv4 and IPv6.
    let verdicts = |lines: &[String]| {
        let of_policies = |line: &&String| {
            let read = flow::parse(line.as_bytes()).expect("every line can be read");
            matches!(read, flow::Line::Flow(flow) if matches!(flow.seen, flow::Seen::Verdict { .. }))
        };
        lines.iter().filter(of_policies).count()
    };
    while verdicts(&lines) < 4 {
        let mut line = String::new();
        stream
            .read_line(&mut line)
            .expect("another verdict in time");
        lines.push(line);
    }
    lines
}

fn cluster(world: &World, policies: &str) -> Cluster {
    let text = format!("{}---\n{policies}", world.manifests);
    read::load_str("t.yaml", &text, None).0.cluster
}

fn replayed(recording: &Recording, cluster: &Cluster) -> Replay {
    let nowhere = |_: &policyc::diagnostic::At| (String::new(), 0);
    let program = resolve(cluster, CatchAllDeny::DenyAll, &BTreeMap::new(), &nowhere);
    replay(
        &program.expect("the test's own policies"),
        cluster,
        recording,
        0,
    )
}

#[test]
fn recorded_traffic_is_replayed_as_it_was_and_as_it_will_be() {
    if !possible() {
        return;
    }
    let world = World::new("lv-record");
    let _agent = world.start(ONLY_FRONTEND, &["--events", "all"]);
    let mut recording = Recording::default();
    for line in record(&world) {
        let read = flow::parse(line.as_bytes()).expect("every line can be read");
        recording.add(read).expect("a few flows");
    }
    let same = replayed(&recording, &cluster(&world, ONLY_FRONTEND));
    assert_eq!((same.flows, same.same), (4, 4), "{same:?}");

    let nobody = replayed(&recording, &cluster(&world, NOBODY));
    assert_eq!((nobody.same, nobody.narrowed.len()), (2, 2), "{nobody:?}");
    for changed in &nobody.narrowed {
        assert_eq!((changed.was, changed.now), (Verdict::Allow, Verdict::Deny));
        assert_eq!(changed.flow.src, SourceRef::Pod("default/frontend".into()));
    }
    world
        .home
        .load(&world.bundle("nobody.bin", NOBODY))
        .expect("a good bundle");
    world.expect("frontend", Met::Refusal, "as the replay has told");

    let suggestion = suggest(&cluster(&world, ""), &recording, Wanted::default());
    let suggestion = suggestion.expect("it does what it should");
    assert_eq!(suggestion.admitted, 2, "{suggestion:?}");
    let bundle = world.bundle("suggested.bin", &suggestion.yaml);
    world.home.load(&bundle).expect("a good bundle");
    world.expect("frontend", Met::Answer, "it was seen");
    world.expect("other", Met::Refusal, "it was not");
}
