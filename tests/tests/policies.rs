//! Random policies on a small cluster: the kernel decides an opening segment as the oracle says that
//! it must be decided there, or steers it where the oracle says that more must be seen; and the cell
//! that decided names the oracle's cause, policy and rule.

#[path = "../../policyc/tests/properties/world.rs"]
#[expect(dead_code, reason = "requests of HTTP are for the property tests")]
mod world;

#[path = "../../policyc/tests/properties/requests.rs"]
#[expect(dead_code, reason = "as above")]
mod requests;

use std::{collections::BTreeMap, net::IpAddr};

use aya::maps::RingBuf;
use enforcer_ebpf::{
    event::Event,
    maps::{EVENTS, global, program},
    reason::Reason,
    words::{Cell, options},
};
use policyc::{
    cluster::{Cluster, Pod},
    conformance::{Engine as _, Oracle},
    ir::Program,
    link::{self, Interface, Linked, NodeView},
    options::{CatchAllDeny, Options},
    request::{Authorizer, Expected, IpSource, Judgement, Layer, Request, SourceRef, Wire},
    resolve,
};
use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};
use tests::{
    bpf::{Bpf, L7_IFINDEX, REJ_IFINDEX, read_event, unavailable},
    frame::{Frame, flag},
    prog_run,
    world::INTERFACE,
};

const CLUSTERS: u32 = 120;
const PORTS: [u16; 4] = [80, 81, 82, 83];
/// Where what no pod sent comes in.
const UPLINK: u32 = 60;
const OUTSIDE: [&str; 4] = ["192.0.2.7", "10.0.0.200", "2001:db8::7", "fd00::7777"];
const NEXT: i32 = -1;

/// One opening segment: who sends it, and what the oracle is asked about it.
struct Opening {
    request: Request,
    source: IpAddr,
    destination: IpAddr,
    ingress: u32,
}

#[test]
fn the_kernel_decides_random_policies_as_the_oracle_does() {
    if unavailable().is_some() {
        return;
    }
    let globals = [
        (global::L7_IFINDEX, L7_IFINDEX),
        (global::REJ_IFINDEX, REJ_IFINDEX),
    ];
    let mut bpf = Bpf::load("enforcer-ebpf", &globals).unwrap_or_else(|error| panic!("{error:#}"));
    let table = bpf.add_table(0).expect("memory for one table");
    bpf.activate(0).expect("ACTIVE is there");
    let mut events = RingBuf::try_from(bpf.ebpf.take_map(EVENTS).expect("EVENTS")).expect("a ring");
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::<&str, u32>::new();
    for number in 0..CLUSTERS {
        let policies = vec(world::policy(), 0..5)
            .new_tree(&mut runner)
            .expect("it draws");
        let cluster = world::cluster(policies.current());
        let options = Options {
            now: 1_767_225_600,
            catch_all_deny: match number % 4 {
                0 => CatchAllDeny::DefaultDeny,
                _ => CatchAllDeny::DenyAll,
            },
            ..Options::default()
        };
        for to in &cluster.pods {
            let (program, linked) = linked(&cluster, &options, to);
            bpf.write_table(table, &linked.words).expect("it fits");
            for opening in openings(&cluster, to) {
                bpf.spend_no_budget();
                let expected = Oracle.judge(&cluster, &options, &opening.request);
                let expected = expected.expect("everybody here has an address of each family");
                let answer = segment(&bpf, &opening);
                let event = events.next().map(|bytes| read_event(&bytes));
                let event = event.expect("each opening segment makes an event");
                let met = met(answer, &event, &linked, &program);
                let wanted = wanted(&expected);
                assert_eq!(
                    met, wanted,
                    "cluster {number}: {:?} {expected:?}\n{:#?}",
                    opening.request, cluster.policies
                );
                *seen.entry(wanted.verdict).or_default() += 1;
            }
        }
    }
    println!("openings decided alike: {seen:?}");
    for verdict in ["allowed", "denied", "steered"] {
        let times = seen.get(verdict).copied().unwrap_or(0);
        assert!(times > 1_000, "only {times} were {verdict}: {seen:?}");
    }
}

/// What happened to an opening segment, and because of which rule where one decided.
#[derive(PartialEq, Eq, Debug)]
struct Met {
    verdict: &'static str,
    rule: Option<(String, u32)>,
}

fn wanted(expected: &Judgement) -> Met {
    if expected.layer == Layer::L7 {
        return Met {
            verdict: "steered",
            rule: None,
        };
    }
    Met {
        verdict: match expected.verdict {
            Expected::Allow => "allowed",
            Expected::Deny => "denied",
        },
        rule: expected.policy.clone().zip(expected.rule),
    }
}

fn met(answer: i32, event: &Event, linked: &Linked, program: &Program) -> Met {
    let reason = Reason::from_number(event.reason).expect("a reason of this version");
    assert_eq!(
        answer == NEXT,
        reason == Reason::Allowed,
        "the answer {answer} and the reason {} tell the same",
        reason.name()
    );
    let verdict = reason.name();
    if verdict == "steered" {
        return Met {
            verdict,
            rule: None,
        };
    }
    let record = &linked.records[Cell(event.cell).record() as usize];
    let named = record.rule.map(|rule| {
        let policy = &program.policies[rule.policy.index()];
        (policy.qualified_name(), rule.rule)
    });
    Met {
        verdict,
        rule: named,
    }
}

/// The table, with `to` behind the interface that the programs are run on.
fn linked(cluster: &Cluster, options: &Options, to: &Pod) -> (Program, Linked) {
    let nowhere = |_: &policyc::diagnostic::At| (String::new(), 0);
    let program = resolve::resolve(cluster, options.catch_all_deny, &options.jwks, &nowhere)
        .expect("the generator makes valid policies only");
    let interfaces = cluster.pods.iter().map(|pod| {
        let interface = Interface {
            ifindex: interface_of(cluster, pod, to),
            ..Interface::default()
        };
        ((pod.namespace.clone(), pod.name.clone()), vec![interface])
    });
    let node = NodeView {
        interfaces: interfaces.collect(),
        options: options::EVENTS_ALLOWED,
        epoch: 1,
        ..NodeView::default()
    };
    let linked = link::link(&program, cluster, &node, &[]).expect("a small cluster");
    (program, linked)
}

/// Frames can be run on real interfaces only, so the pod in question is behind the loopback one.
fn interface_of(cluster: &Cluster, pod: &Pod, to: &Pod) -> u32 {
    let is =
        |pod: &Pod, other: &Pod| (&other.namespace, &other.name) == (&pod.namespace, &pod.name);
    if is(pod, to) {
        return INTERFACE;
    }
    let place = cluster.pods.iter().position(|other| is(pod, other));
    100 + u32::try_from(place.expect("one of them")).expect("few pods")
}

/// Everybody else to one pod, on each port and in both families.
fn openings(cluster: &Cluster, to: &Pod) -> Vec<Opening> {
    let mut all = Vec::new();
    let ways = to.ips.iter().flat_map(|ip| PORTS.map(|port| (*ip, port)));
    for (destination, port) in ways {
        let alike = |ip: &IpAddr| ip.is_ipv4() == destination.is_ipv4();
        for from in &cluster.pods {
            let ingress = interface_of(cluster, from, to);
            let source = from.ips.iter().copied().find(alike);
            if let (true, Some(source)) = (ingress != INTERFACE, source) {
                let src = SourceRef::Pod(format!("{}/{}", from.namespace, from.name));
                all.push(Opening {
                    request: request(src, Some(source), to, port),
                    source,
                    destination,
                    ingress,
                });
            }
        }
        let outside = OUTSIDE.map(|ip| ip.parse().expect("an address"));
        all.extend(outside.into_iter().filter(alike).map(|source| Opening {
            request: request(SourceRef::Ip(IpSource { ip: source }), None, to, port),
            source,
            destination,
            ingress: UPLINK,
        }));
    }
    all
}

fn request(src: SourceRef, src_ip: Option<IpAddr>, to: &Pod, port: u16) -> Request {
    let answers = ["grpc", "web", "gone"].map(|name| (name.to_owned(), Authorizer::Allow));
    Request {
        id: String::new(),
        src,
        src_ip,
        src_trust_domain: None,
        dst: format!("{}/{}", to.namespace, to.name),
        port,
        protocol: Wire::Tcp,
        http: None,
        sni: None,
        ext_authz: Some(BTreeMap::from(answers)),
        expect: None,
    }
}

fn segment(bpf: &Bpf, opening: &Opening) -> i32 {
    let frame = Frame::tcp(
        (opening.source, 40_000),
        (opening.destination, opening.request.port),
        flag::SYN,
    );
    let program = bpf.program(program::TO_POD).expect("loaded");
    let outcome = prog_run::run(program, &frame.build(), INTERFACE, opening.ingress, 1);
    outcome.expect("a whole frame").answer
}
