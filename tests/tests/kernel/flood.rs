//! What a flood costs, and what it does not: no entry of ours, no live flow, no neighbour's place.

use std::net::{IpAddr, Ipv4Addr};

use aya::maps::{HashMap as BpfHashMap, MapData};
use enforcer_ebpf::{
    flow::{FlowKey, OUT_PER_POD_MAX, OutValue, ProxyValue},
    judge::features,
    maps::{DATAGRAMS_IN, DATAGRAMS_OUT, MASQUERADED, OUT, PROXY, SWITCHED, UPSTREAM},
    words::{Address, Cell, Holder, Verdict, pod_flags},
};
use tests::{
    frame::{Frame, flag},
    table_builder::{Pod, Scope, TableBuilder},
};

use super::*;

const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PORT: u16 = 8080;
const UPLINK: u32 = 60;
/// Spoofed sources.
const SOURCES: u32 = 1_000_000;
/// How long a flood may take.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(20);
/// Where a frame without options has its IPv4 source, and its ports.
const SOURCE: usize = 14 + 12;
const PORTS: usize = 14 + 20;

/// A pod behind the loopback device, and a neighbour; what others may do is `verdict`.
fn table(verdict: Verdict) -> TableBuilder {
    let scope = Scope {
        width: 1,
        cells: vec![Cell::new(verdict, false, false, 1)],
        ..Scope::default()
    };
    let mut table = TableBuilder {
        scopes: vec![scope],
        ..TableBuilder::default()
    };
    for (slot, address, interface) in [(0, POD, INTERFACE), (1, NEIGHBOUR, 100)] {
        let held = Address::new(Holder::LocalPod(slot), 1);
        table.v4.push((address, 32, held));
        table.pods.push(Pod {
            interface,
            flags: pod_flags::ENROLLED | pod_flags::PROXIED,
            netns_id: 9_999,
            scope_v4: Some(0),
            ..Pod::default()
        });
    }
    table
}

fn started(table: &TableBuilder, features: u32) -> Bpf {
    let mut bpf = load(features);
    let slot = bpf.add_table(0).expect("memory for one table");
    bpf.activate(0).expect("ACTIVE is there");
    bpf.write_table(slot, &table.build()).expect("it fits");
    bpf
}

/// Entries of a map whose keys have `K` and values `V`.
fn entries<K: aya::Pod, V: aya::Pod>(bpf: &Bpf, name: &str) -> usize {
    let map: BpfHashMap<&MapData, K, V> = typed(bpf, name);
    map.keys().count()
}

fn tcp(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), flags: u8) -> Frame {
    let at = |(address, port): (Ipv4Addr, u16)| (IpAddr::from(address), port);
    Frame::tcp(at(source), at(destination), flags)
}

/// H5, H15: opening segments from a million addresses, of every kind of policy.
#[test]
fn a_million_spoofed_sources_make_no_entry_and_push_out_no_live_flow() {
    if unavailable().is_some() {
        return;
    }
    for (verdict, count) in [
        (Verdict::Deny, SOURCES),
        (Verdict::Ask, SOURCES / 10),
        (Verdict::Allow, SOURCES / 10),
    ] {
        let bpf = started(&table(verdict), 0);
        let remote = Ipv4Addr::new(192, 0, 2, 1);
        // The pod's own connection, which must outlive the flood.
        let own = tcp((POD, 40_000), (remote, 443), flag::SYN).build();
        assert_eq!(run(&bpf, Hook::FromPod, &own, 0).expect("it runs"), NEXT);
        let mut frame = tcp((remote, 1), (POD, PORT), flag::SYN).build();
        let began = std::time::Instant::now();
        for i in 0..count {
            if i % 1_000 == 0 && began.elapsed() > LONGEST {
                // An emulated machine sends as many as it can.
                println!("{i} sources of {count}");
                assert!(i > 20_000, "only {i} sources");
                break;
            }
            // None within the pods' own /24.
            frame[SOURCE..SOURCE + 4].copy_from_slice(&(0x0b00_0000 + i * 7).to_be_bytes());
            let port = u16::try_from(i % 60_000 + 1).expect("a port");
            frame[PORTS..PORTS + 2].copy_from_slice(&port.to_be_bytes());
            let answer = run(&bpf, Hook::ToPod, &frame, UPLINK).expect("it runs");
            if i < 1_000 {
                let passes = verdict == Verdict::Allow;
                assert_eq!(answer == NEXT, passes, "{verdict:?}");
            }
        }
        assert_eq!(entries::<Plain<FlowKey>, Plain<OutValue>>(&bpf, OUT), 1);
        for name in [PROXY, UPSTREAM] {
            let made = entries::<Plain<FlowKey>, Plain<ProxyValue>>(&bpf, name);
            assert_eq!(made, 0, "{name}, {verdict:?}");
        }
        for name in [SWITCHED, MASQUERADED] {
            assert_eq!(entries::<Plain<FlowKey>, u32>(&bpf, name), 0, "{name}");
        }
        let answer = tcp((remote, 443), (POD, 40_000), flag::SYN | flag::ACK).build();
        let answer = run(&bpf, Hook::ToPod, &answer, UPLINK).expect("it runs");
        assert_eq!(answer, NEXT, "{verdict:?}: the pod's own connection lives");
    }
}

#[test]
fn a_flood_of_refused_packets_is_answered_up_to_a_limit() {
    if unavailable().is_some() {
        return;
    }
    let bpf = started(&table(Verdict::Deny), 0);
    let frame = tcp((Ipv4Addr::new(192, 0, 2, 1), 1), (POD, PORT), flag::SYN).build();
    let started = std::time::Instant::now();
    let mut reset = 0u64;
    const TRIES: u64 = 20_000;
    for _ in 0..TRIES {
        match run(&bpf, Hook::ToPod, &frame, UPLINK).expect("it runs") {
            REDIRECT => reset += 1,
            SHOT => {}
            other => panic!("neither refused nor dropped: {other}"),
        }
    }
    // One budget for each window and CPU that this took part in; the first and last are cut.
    let windows = 2 + u64::try_from(started.elapsed().as_millis()).expect("short") / 1_000;
    let cpus = u64::try_from(std::thread::available_parallelism().map_or(1, usize::from));
    let most = RESETS_PER_WINDOW * windows * cpus.expect("few");
    assert!(
        reset >= RESETS_PER_WINDOW,
        "resets below the limit: {reset}"
    );
    assert!(reset <= most, "{reset} resets, {most} at most");
    let counters = reasons(&bpf);
    assert_eq!(counters[Reason::Denied as usize], TRIES, "all are denied");
    assert_eq!(counters[Reason::ResetLimited as usize], TRIES - reset);
}

/// A pod that opens connections without end uses up its own places alone.
#[test]
fn one_pods_outbound_flood_leaves_its_neighbours_their_places() {
    if unavailable().is_some() {
        return;
    }
    let mut spec = table(Verdict::Deny);
    let mut bpf = started(&spec, 0);
    let remote = Ipv4Addr::new(192, 0, 2, 1);
    let mut frame = tcp((POD, 1), (remote, 443), flag::SYN).build();
    let mut opened = 0;
    for i in 0..OUT_PER_POD_MAX + 1_000 {
        let port = u16::try_from(i % 60_000 + 1).expect("a port");
        frame[PORTS..PORTS + 2].copy_from_slice(&port.to_be_bytes());
        opened += u32::from(run(&bpf, Hook::FromPod, &frame, 0).expect("it runs") == NEXT);
    }
    assert_eq!(opened, OUT_PER_POD_MAX, "the quota, and not one more");
    // The same hook, as the neighbour's.
    spec.pods[0].interface = 100;
    spec.pods[1].interface = INTERFACE;
    bpf.write_table(0, &spec.build()).expect("it fits");
    let own = tcp((NEIGHBOUR, 1), (remote, 443), flag::SYN).build();
    assert_eq!(run(&bpf, Hook::FromPod, &own, 0).expect("it runs"), NEXT);
    let answer = tcp((remote, 443), (NEIGHBOUR, 1), flag::SYN | flag::ACK).build();
    let answer = run(&bpf, Hook::ToPod, &answer, UPLINK).expect("it runs");
    assert_eq!(answer, NEXT, "and it is answered");
}

/// As above, of datagrams, which others send as well.
#[test]
fn datagrams_of_spoofed_sources_make_no_entry_that_counts() {
    if unavailable().is_some() {
        return;
    }
    let bpf = started(&table(Verdict::Deny), features::NON_TCP);
    let remote = IpAddr::from([192, 0, 2, 1]);
    let mut frame = Frame::udp((remote, 1), (POD.into(), PORT)).build();
    for i in 0..SOURCES / 10 {
        frame[SOURCE..SOURCE + 4].copy_from_slice(&(0x0b00_0000 + i * 7).to_be_bytes());
        let answer = run(&bpf, Hook::ToPod, &frame, UPLINK).expect("it runs");
        assert_eq!(answer, SHOT);
    }
    for name in [DATAGRAMS_OUT, DATAGRAMS_IN] {
        let made = entries::<Plain<DatagramKey>, Plain<DatagramValue>>(&bpf, name);
        assert_eq!(made, 0, "{name}");
    }
}
