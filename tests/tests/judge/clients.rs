//! The proxy knows its clients as the kernel does.

use std::net::SocketAddr;

use enforcer::{
    proxy::{Decision, Flow, Maker, rules::Rules},
    proxy_flows::maker,
};
use enforcer_ebpf::{
    judge::{Action, Flows as _},
    words::Words,
};
use policyc::{
    ir::{Program, Residual},
    link::{Linked, Record, Summary},
    lower::cell::Decided,
    request::Cause,
};

use crate::world::*;

struct Kept(Vec<u32>);

impl Words for Kept {
    fn at(&self, index: u32) -> u32 {
        self.0[..].at(index)
    }
}

/// What the proxy makes of a client, by the same table.
fn asks(world: &World, client: u8, maker: Maker) -> bool {
    let record = Record {
        verdict: Decided::Ask,
        cause: Cause::NoAllowMatched,
        rule: None,
        audit: Vec::new(),
        dry_run: Vec::new(),
        residual: 0,
    };
    let linked = Linked {
        words: Vec::new(),
        records: vec![record.clone(), record],
        residuals: vec![Residual::default()],
        pods: Vec::new(),
        classes: Default::default(),
        extra_classes: Vec::new(),
        disputed: Default::default(),
        summary: Summary::default(),
    };
    let words = Box::new(Kept(world.table.build()));
    let rules = Rules::new(1, &Program::default(), &linked, words).expect("nothing to compile");
    let flow = Flow {
        pod: SocketAddr::new(ip(SERVER), ASKED),
        remote: SocketAddr::new(ip(client), CLIENT_PORT),
    };
    matches!(rules.ruling(flow, maker).decision, Decision::Ask { .. })
}

#[test]
fn a_client_is_judged_by_the_proxy_as_the_kernel_has_judged_it() {
    for (ingress, client, why) in [
        (UPLINK, REMOTE, "by its address"),
        (UPLINK, OUTSIDE, "by its address"),
        (
            CLIENT_IF,
            CLIENT,
            "by its address, which its interface proves",
        ),
        (CLIENT_IF, NODE, "by its interface: the node may do nothing"),
        (
            CLIENT_IF,
            STRANGER,
            "by its interface: the address is nobody's",
        ),
        (0, NODE, "the node itself, which may do nothing"),
        (UPLINK, STRANGER, "nobody"),
        (
            UPLINK,
            NODE,
            "by the node's address, under which it came to a NodePort",
        ),
        (
            BRIDGE,
            NODE,
            "by the node's address, behind which a bridge has lost it",
        ),
    ] {
        let world = World::new().from(ingress);
        let steered = world.to(client, ASKED, SYN).0 == Action::Steer;
        let note = world.flows.masqueraded_by(&key(client, ASKED));
        let asked = asks(&world, client, maker(note));
        assert_eq!(asked, steered, "{client} from {ingress}: {why}");
    }
    // The same where everybody may ask.
    for ingress in [UPLINK, BRIDGE, CLIENT_IF, 0] {
        let mut world = World::new().from(ingress);
        world.table.scopes[0].classes.clear();
        assert_eq!(
            world.to(NODE, ASKED, SYN).0,
            Action::Steer,
            "from {ingress}"
        );
        let note = world.flows.masqueraded_by(&key(NODE, ASKED));
        assert!(asks(&world, NODE, maker(note)), "from {ingress}");
    }
}

#[test]
fn who_hides_behind_the_node_is_the_node_only_where_the_kernel_says_so() {
    let mut world = World::new();
    // Here the node may ask as well: its class is anybody's.
    world.table.scopes[0].classes.clear();
    assert!(asks(&world, NODE, Maker::Node));
    assert!(asks(&world, NODE, Maker::Nobody));
    assert!(
        !asks(&world, NODE, Maker::Unknown),
        "any pod may be behind the node's address"
    );
    assert!(!asks(&world, NODE, Maker::Pod(9)), "no such pod");
    assert!(asks(&world, CLIENT, Maker::Unknown), "its own address");
}
