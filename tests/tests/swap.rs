//! Ten thousand switches between two tables while processors judge: no packet is judged by a mixture.
//! The two mean the same by different numbers, so a mixture would refuse what both allow. Another
//! number of switches is `ENFORCER_TEST_FLIPS`'s to say.

use std::{
    net::Ipv4Addr,
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::maps::{MapData, PerCpuArray};
use enforcer::table::{Staged, Tables};
use enforcer_ebpf::{
    maps::{ACTIVE, CAPACITY_COMPILED, REASONS, TABLES, program},
    reason::Reason,
    words::{Address, Cell, Holder, Verdict, pod_flags},
};
use tests::{
    bpf::{Bpf, unavailable},
    frame::{Frame, flag},
    prog_run,
    ready::GUEST,
    table_builder::{Pod, Scope, TableBuilder},
};

const FLIPS: u32 = 10_000;
/// The same on an emulated machine.
const FLIPS_IN_A_GUEST: u32 = 500;
/// For each switch with the table written anew, so many without.
const FLIPS_PER_REWRITE: u32 = 100;
/// Writes of a whole table into the slot that judges, which nobody may do, for each switch: the
/// control.
const TORN_PER_FLIP: u32 = 2;
/// For how long the control is tried at most.
const CONTROL_LIMIT: Duration = Duration::from_secs(60);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const INTERFACE: u32 = 1;

/// The client has class `class`, and only that class is allowed.
fn table(class: u16, epoch: u32) -> Vec<u32> {
    let table = TableBuilder {
        epoch,
        v4: vec![
            (CLIENT, 32, Address::new(Holder::RemotePod, class)),
            (SERVER, 32, Address::new(Holder::LocalPod(0), 7)),
        ],
        scopes: vec![Scope {
            classes: [(1, 1), (2, 2)].into(),
            width: 1,
            cells: (0..3)
                .map(|row| {
                    let allowed = row == class;
                    let verdict = [Verdict::Deny, Verdict::Allow][usize::from(allowed)];
                    Cell::new(verdict, false, false, 1 + u32::from(allowed))
                })
                .collect(),
            ..Scope::default()
        }],
        pods: vec![Pod {
            interface: INTERFACE,
            flags: pod_flags::ENROLLED,
            scope_v4: Some(0),
            ..Pod::default()
        }],
        ..TableBuilder::default()
    };
    table.build()
}

fn flips() -> u32 {
    match std::env::var("ENFORCER_TEST_FLIPS") {
        Ok(text) => text.parse().expect("a number of switches"),
        Err(_) if std::env::var_os(GUEST).is_some() => FLIPS_IN_A_GUEST,
        Err(_) => FLIPS,
    }
}

fn count(reasons: &PerCpuArray<MapData, u64>, reason: Reason) -> u64 {
    let values = reasons.get(&u32::from(reason as u8), 0);
    values.expect("a counter").iter().sum()
}

/// Packets that were not allowed.
fn refused(reasons: &PerCpuArray<MapData, u64>) -> u64 {
    let others = [Reason::Denied, Reason::NoTable, Reason::UnknownIdentity];
    others.iter().map(|reason| count(reasons, *reason)).sum()
}

/// Judges on every processor while `work` runs. Returns packets allowed, and not.
fn judged_during(
    program: BorrowedFd<'_>,
    reasons: &PerCpuArray<MapData, u64>,
    work: impl FnOnce(&AtomicU64),
) -> (u64, u64) {
    let frame = Frame::tcp((CLIENT.into(), 40_000), (SERVER.into(), 8_080), flag::ACK).build();
    let stop = AtomicBool::new(false);
    let runs = AtomicU64::new(0);
    let allowed = || count(reasons, Reason::Allowed);
    let refused = || refused(reasons);
    let before = (allowed(), refused());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let run = prog_run::run(program, &frame, INTERFACE, 9, 200);
                    run.expect("the kernel runs it");
                    runs.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while runs.load(Ordering::Relaxed) < 2 {
            thread::yield_now();
        }
        work(&runs);
        stop.store(true, Ordering::Relaxed);
    });
    (allowed() - before.0, refused() - before.1)
}

#[test]
fn no_packet_is_judged_by_a_mixture_of_two_tables() {
    if unavailable().is_some() {
        return;
    }
    let mut bpf = Bpf::load("enforcer-ebpf", &[]).expect("the kernel takes the programs");
    let torn = bpf.add_table(0).expect("memory for a table");
    let program = bpf.program(program::TO_POD).expect("it is loaded");
    let program = program.try_clone_to_owned().expect("a descriptor");
    let reasons = bpf.ebpf.take_map(REASONS).expect("REASONS");
    let reasons = PerCpuArray::try_from(reasons).expect("u64");
    let active = bpf.ebpf.map(ACTIVE).expect("ACTIVE");
    let aya::maps::Map::Array(active) = active else {
        panic!("ACTIVE is an array");
    };
    let active = active
        .fd()
        .as_fd()
        .try_clone_to_owned()
        .expect("a descriptor");
    let active = MapData::from_fd(active).expect("a map");
    let outer = bpf.ebpf.take_map(TABLES).expect("TABLES");
    let mut tables = Tables::adopt(outer, &active, CAPACITY_COMPILED).expect("our own maps");
    let words = [table(1, 1), table(2, 2)];
    for words in &words {
        let staged = tables.stage(words).expect("it fits");
        tables.switch(&staged);
    }
    let (first, second) = (0, 1);

    let flips = flips();
    let (rewrites, torn_writes) = (flips / FLIPS_PER_REWRITE, flips * TORN_PER_FLIP);
    let start = Instant::now();
    let (allowed, refused) = judged_during(program.as_fd(), &reasons, |runs| {
        for flip in 0..flips {
            let slot = if flip % 2 == 0 { first } else { second };
            tables.switch(&Staged {
                slot,
                epoch: slot + 1,
            });
            // Packets come in between.
            let (seen, since) = (runs.load(Ordering::Relaxed), Instant::now());
            while flip % 16 == 0
                && runs.load(Ordering::Relaxed) == seen
                && since.elapsed() < Duration::from_millis(50)
            {
                thread::yield_now();
            }
        }
        for round in 0..rewrites {
            let words = &words[(round % 2) as usize];
            let staged = tables.stage(words).expect("it fits");
            tables.switch(&staged);
        }
    });
    println!(
        "{flips} flips, {rewrites} rewrites, {allowed} packets, {refused} refused, {:?}",
        start.elapsed()
    );
    assert_eq!(refused, 0, "a mixture refuses");
    assert!(
        allowed > u64::from(flips),
        "packets were judged all the while: {allowed}"
    );

    // The control: the same with a table that is overwritten while it judges.
    tables.switch(&Staged { slot: 0, epoch: 1 });
    let (_, refused) = judged_during(program.as_fd(), &reasons, |_| {
        // On a busy machine all of them may fall between two packets.
        let (none, since) = (self::refused(&reasons), Instant::now());
        let seen = || self::refused(&reasons) > none || since.elapsed() > CONTROL_LIMIT;
        let mut written = 0;
        while written < torn_writes || !seen() {
            let words = &words[(written % 2) as usize];
            bpf.write_table(torn, words).expect("it fits");
            written += 1;
        }
    });
    println!("{torn_writes} torn writes and more: {refused} refused");
    assert!(refused > 0, "the test would see a mixture");
}
