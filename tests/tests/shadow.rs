//! What the kernel alone knows of pauses and shadow tables: its clock, and what it asks the other
//! table. And what that costs, printed.

use std::net::Ipv4Addr;

use aya::maps::{Array, PerCpuArray, RingBuf};
use enforcer_ebpf::{
    flow::Hits,
    maps::{ACTIVE, EVENTS, HITS, REASONS, active, global, hits_index, program},
    reason::Reason,
    words::{Address, Cell, Holder, Verdict, header, options, pod, pod_flags},
};
use tests::{
    bpf::{Bpf, L7_IFINDEX, Plain, REJ_IFINDEX, read_event, unavailable},
    frame::{Frame, flag},
    prog_run,
    table_builder::{Pod, Scope, TableBuilder},
};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const INTERFACE: u32 = 1;
const NEXT: i32 = -1;
const REDIRECT: i32 = 7;

/// One pod; everybody meets the verdict, by the record.
fn table(verdict: Verdict, record: u32, epoch: u32) -> TableBuilder {
    TableBuilder {
        epoch,
        v4: vec![
            (CLIENT, 32, Address::new(Holder::RemotePod, 1)),
            (SERVER, 32, Address::new(Holder::LocalPod(0), 2)),
        ],
        scopes: vec![Scope {
            width: 1,
            cells: vec![Cell::new(verdict, false, false, record)],
            ..Scope::default()
        }],
        pods: vec![Pod {
            interface: INTERFACE,
            flags: pod_flags::ENROLLED,
            scope_v4: Some(0),
            ..Pod::default()
        }],
        ..TableBuilder::default()
    }
}

fn load() -> Bpf {
    let globals = [
        (global::L7_IFINDEX, L7_IFINDEX),
        (global::REJ_IFINDEX, REJ_IFINDEX),
    ];
    Bpf::load("enforcer-ebpf", &globals).unwrap_or_else(|error| panic!("{error:#}"))
}

fn judge(bpf: &Bpf, hook: &str, frame: &Frame, repeat: u32) -> (i32, u32) {
    let program = bpf.program(hook).expect("it is loaded");
    let run = prog_run::run(program, &frame.build(), INTERFACE, 9, repeat);
    let run = run.expect("the kernel runs it");
    (run.answer, run.nanoseconds)
}

fn to_pod(flags: u8) -> Frame {
    Frame::tcp((CLIENT.into(), 40_000), (SERVER.into(), 8_080), flags)
}

fn seconds() -> u32 {
    enforcer::apply::seconds_since_boot()
}

#[test]
fn a_pause_holds_until_its_last_second_and_lets_nobody_forge() {
    if unavailable().is_some() {
        return;
    }
    let mut bpf = load();
    let slot = bpf.add_table(0).expect("memory for a table");
    bpf.activate(0).expect("ACTIVE is there");
    let built = table(Verdict::Deny, 1, 1).build();
    let first = built[header::PODS as usize] as usize;
    let of_pod = |flag: u32, word: u32, until: u32| {
        let mut words = built.clone();
        words[first + pod::FLAGS as usize] |= flag;
        words[first + word as usize] = until;
        words
    };
    let of_all = |until: u32| {
        let mut words = built.clone();
        words[header::OPTIONS as usize] |= options::PAUSED;
        words[header::PAUSED_UNTIL as usize] = until;
        words
    };
    let (over, holds) = (seconds() - 1, seconds() + 600);
    let cases = [
        (built.clone(), REDIRECT),
        (of_pod(pod_flags::PAUSED, pod::PAUSED_UNTIL, holds), NEXT),
        (of_pod(pod_flags::PAUSED, pod::PAUSED_UNTIL, over), REDIRECT),
        (of_pod(pod_flags::PAUSED, pod::PAUSED_UNTIL, 0), REDIRECT),
        (
            of_pod(pod_flags::PAUSED, pod::SEEDING_UNTIL, holds),
            REDIRECT,
        ),
        (of_pod(pod_flags::SEEDING, pod::SEEDING_UNTIL, holds), NEXT),
        (
            of_pod(pod_flags::SEEDING, pod::SEEDING_UNTIL, over),
            REDIRECT,
        ),
        (of_pod(0, pod::PAUSED_UNTIL, holds), REDIRECT),
        (of_all(holds), NEXT),
        (of_all(over), REDIRECT),
    ];
    for (number, (words, expected)) in cases.iter().enumerate() {
        bpf.write_table(slot, words).expect("it fits");
        let (answer, _) = judge(&bpf, program::TO_POD, &to_pod(flag::SYN), 1);
        assert_eq!(answer, *expected, "case {number}");
    }
    // Other pods' verdicts rest on the addresses that this one sends from.
    bpf.write_table(slot, &of_all(holds)).expect("it fits");
    let forged = Frame::tcp((CLIENT.into(), 40_000), (SERVER.into(), 8_080), flag::SYN);
    let (answer, _) = judge(&bpf, program::FROM_POD, &forged, 1);
    assert_ne!(answer, NEXT, "a paused pod must not forge");
}

#[test]
fn a_shadow_table_is_asked_of_opening_segments_and_decides_nothing() {
    if unavailable().is_some() {
        return;
    }
    let mut bpf = load();
    let active_table = bpf.add_table(0).expect("memory for a table");
    let shadow_table = bpf.add_table(2).expect("memory for a table");
    bpf.activate(0).expect("ACTIVE is there");
    let words = table(Verdict::Allow, 1, 7).build();
    bpf.write_table(active_table, &words).expect("it fits");
    let mut events = RingBuf::try_from(bpf.ebpf.take_map(EVENTS).expect("EVENTS")).expect("a ring");
    let (syn, ack) = (to_pod(flag::SYN), to_pod(flag::ACK));
    let fastest = |bpf: &Bpf, frame: &Frame| -> u32 {
        let rounds = (0..5).map(|_| judge(bpf, program::TO_POD, frame, 200_000).1);
        rounds.min().expect("five")
    };
    let alone = (fastest(&bpf, &syn), fastest(&bpf, &ack));
    for (verdict, disagrees) in [(Verdict::Allow, 0), (Verdict::Deny, 1), (Verdict::Ask, 1)] {
        let words = table(verdict, 3, 9).build();
        bpf.write_table(shadow_table, &words).expect("it fits");
        set_shadow(&mut bpf, 2);
        bpf.spend_no_budget();
        let before = (hits(&bpf), disagreed(&bpf));
        assert_eq!(judge(&bpf, program::TO_POD, &ack, 1).0, NEXT);
        assert_eq!(
            hits(&bpf),
            before.0,
            "only opening segments are asked about"
        );
        assert_eq!(judge(&bpf, program::TO_POD, &syn, 1).0, NEXT, "{verdict:?}");
        let now = (hits(&bpf), disagreed(&bpf));
        let risen = (now.0.0 - before.0.0, now.0.1 - before.0.1);
        assert_eq!(risen, (disagrees, 1), "{verdict:?}: disagreed, asked");
        assert_eq!(now.1 - before.1, disagrees, "{verdict:?}");
        let event = events.next().map(|bytes| read_event(&bytes));
        assert_eq!(event.is_some(), disagrees == 1, "{verdict:?}: {event:?}");
        if let Some(event) = event {
            assert_eq!((event.epoch, event.shadow_epoch), (7, 9));
            assert_eq!(Cell(event.cell).verdict(), Verdict::Allow);
            assert_eq!(Cell(event.shadow_cell).verdict(), verdict);
            assert_eq!(event.reason, Reason::Allowed as u8);
        }
    }
    let words = table(Verdict::Allow, 3, 9).build();
    bpf.write_table(shadow_table, &words).expect("it fits");
    let beside = (fastest(&bpf, &syn), fastest(&bpf, &ack));
    println!("to_pod, opening, established: {alone:?} ns alone, {beside:?} ns beside a shadow");
    set_shadow(&mut bpf, u32::MAX);
    let before = hits(&bpf);
    judge(&bpf, program::TO_POD, &syn, 1);
    assert_eq!(hits(&bpf), before, "it is not asked any more");
}

fn set_shadow(bpf: &mut Bpf, slot: u32) {
    let map = bpf.ebpf.map_mut(ACTIVE).expect("ACTIVE");
    let mut map = Array::<_, u32>::try_from(map).expect("words");
    map.set(active::SHADOW, slot, 0).expect("it is there");
}

/// Disagreements and questions of the shadow's record.
fn hits(bpf: &Bpf) -> (u64, u64) {
    let map = PerCpuArray::<_, Plain<Hits>>::try_from(bpf.ebpf.map(HITS).expect("HITS"));
    let values = map
        .expect("Hits")
        .get(&hits_index(2, 3), 0)
        .expect("it is there");
    values.iter().fold((0, 0), |sum, hits| {
        (sum.0 + hits.0.opened, sum.1 + hits.0.packets)
    })
}

fn disagreed(bpf: &Bpf) -> u64 {
    let map = PerCpuArray::<_, u64>::try_from(bpf.ebpf.map(REASONS).expect("REASONS"));
    let reason = u32::from(Reason::ShadowDisagrees as u8);
    let values = map.expect("u64").get(&reason, 0).expect("it is there");
    values.iter().sum()
}
