//! Each row of the hygiene matrix, packet by packet: first by the functions on the host, then by the
//! programs in this kernel.

use aya::maps::PerCpuArray;
use enforcer_ebpf::{
    event::Hook,
    judge::{Action, Place, judge_from_l7, judge_from_pod, judge_to_pod},
    maps::{REASONS, global, program},
    packet::parse,
    reason::Reason,
};
use tests::{
    bpf::{Bpf, L7_IFINDEX, REJ_IFINDEX, unavailable},
    flow_model::FlowModel,
    hygiene::{Case, Packets, Port, Row, ingress, rows, words},
    prog_run,
    world::INTERFACE,
};

/// Shortest frames of IPv4 and IPv6 that the kernel makes a packet of.
const SHORTEST: usize = 54;

/// Calls `meet` for every case of every row, with the frames of one train in order.
fn for_each_train(mut meet: impl FnMut(&Row, &Case, &[Vec<u8>])) {
    let mut id = 0;
    for row in rows() {
        let Packets::Built(build) = row.packets else {
            continue;
        };
        let mut trains = 0;
        for &hook in row.hooks {
            for v6 in [false, true] {
                for port in Port::ALL {
                    // Trains of one case may be of one datagram, and must not know of each other.
                    let case = Case { hook, v6, port, id };
                    let count = build(&case).len();
                    for train in 0..count {
                        id += 1;
                        let case = Case { id, ..case };
                        meet(&row, &case, &build(&case)[train]);
                        trains += 1;
                    }
                }
            }
        }
        assert!(trains > 0, "no packet shows `{}`", row.packet);
    }
}

#[test]
fn every_row_holds_on_the_host() {
    let (words, flows) = (words(), FlowModel::default());
    for_each_train(|row, case, train| {
        let place = Place {
            interface: INTERFACE,
            ingress: ingress(case.hook),
            l7: L7_IFINDEX,
            rejects: REJ_IFINDEX,
            features: 0,
        };
        let judge = |frame: &Vec<u8>| {
            let packet = parse(&frame[..]);
            match case.hook {
                Hook::ToPod => judge_to_pod(&packet, &words[..], &flows, &place),
                Hook::FromPod => judge_from_pod(&packet, &words[..], &flows, &place),
                _ => judge_from_l7(&packet, &words[..], &flows),
            }
        };
        let last = train.iter().map(judge).last().expect("a train has a frame");
        assert_eq!(
            (last.action, last.reason),
            row.meets.expected(case),
            "{}: {case:?} {train:02x?}",
            row.packet
        );
    });
}

#[test]
fn every_row_holds_in_the_kernel() {
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
    bpf.write_table(table, &words()).expect("it fits");
    let mut runs = 0;
    for_each_train(|row, case, train| {
        let about = || format!("{}: {case:?} {train:02x?}", row.packet);
        let Some((answer, reason)) = train
            .iter()
            .fold(None, |_, frame| Some(run(&bpf, case.hook, frame)))
        else {
            panic!("a train has a frame: {}", about());
        };
        let Some(answer) = answer else {
            let short = train.iter().all(|frame| frame.len() < SHORTEST);
            assert!(short, "the kernel refuses the frame: {}", about());
            return;
        };
        let (action, wanted) = row.meets.expected(case);
        assert_eq!(reason, vec![wanted], "{}", about());
        assert_eq!(answer, answer_for(action), "{}", about());
        runs += 1;
    });
    assert!(runs > 500, "only {runs} packets");
    println!("{runs} packets of {} rows", rows().len());
}

/// Return value of the hook's program, `None` where the kernel makes no packet of the frame, and the
/// reasons that were counted.
fn run(bpf: &Bpf, hook: Hook, frame: &[u8]) -> (Option<i32>, Vec<Reason>) {
    let name = match hook {
        Hook::ToPod => program::TO_POD,
        Hook::FromPod => program::FROM_POD,
        _ => program::FROM_L7,
    };
    let program = bpf.program(name).expect("loaded");
    let before = reasons(bpf);
    let outcome = prog_run::run(program, frame, INTERFACE, ingress(hook), 1).ok();
    let after = reasons(bpf);
    let risen = (0..after.len()).filter(|i| after[*i] > before[*i]);
    let risen = risen.filter_map(|i| Reason::from_number(u8::try_from(i).ok()?));
    // Events that found the ring full are beside the point.
    let risen = risen.filter(|reason| *reason != Reason::EventDropped);
    (outcome.map(|outcome| outcome.answer), risen.collect())
}

fn answer_for(action: Action) -> i32 {
    match action {
        Action::Pass => -1,
        Action::Drop => 2,
        Action::Refuse | Action::Steer | Action::ToProxy | Action::ToPod => 7,
    }
}

fn reasons(bpf: &Bpf) -> Vec<u64> {
    let map = PerCpuArray::<_, u64>::try_from(bpf.ebpf.map(REASONS).expect("REASONS"));
    let map = map.expect("u64");
    (0..map.len())
        .map(|i| map.get(&i, 0).expect("within").iter().sum())
        .collect()
}
