//! The programs in the kernel decide as the same functions do on the host: on the same bytes, with
//! the same table and the same flows, the same return value, counters, hits, event and entries.

#[path = "kernel/flood.rs"]
mod flood;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aya::{
    maps::{HashMap as BpfHashMap, MapData, PerCpuArray, RingBuf},
    util::KernelVersion,
};
use enforcer_ebpf::{
    event::{Event, Hook, RESETS_PER_WINDOW},
    flow::{DatagramKey, DatagramValue, FlowKey, Hits, OutValue, ProxyValue},
    judge::{
        Action, Flows as _, Judgement, Place, features, judge_from_l7, judge_from_pod, judge_to_pod,
    },
    maps::{EVENTS, HITS, MASQUERADED, OUT, PROXY, REASONS, UPSTREAM, global, hits_index, program},
    packet::{Frame, Packet, parse},
    reason::Reason,
    words::header,
};
use fastrand::Rng;
use tests::{
    bpf::{Bpf, L7_IFINDEX, Plain, REJ_IFINDEX, read_event, unavailable},
    flow_model::FlowModel,
    prog_run,
    world::{self, INTERFACE, RECORDS},
};

/// Tables, and frames a hook for each.
const TABLES: u32 = 60;
const FRAMES: u32 = 250;
/// Flows of datagrams are over after a minute without one, of which the host's model knows nothing.
/// On an emulated machine they are forgotten in time.
const FORGET_AFTER: Duration = Duration::from_secs(20);
/// Most instructions that the verifier may walk for one program. Its time grows with them, and its
/// own limit is a million: what is near to that on one kernel is beyond it on the next.
const VERIFIED_MAX: u32 = 20_000;
/// The same on kernels before [`PRUNES_WELL`], which walk again what those recognise.
const VERIFIED_MAX_BEFORE: u32 = 60_000;
const PRUNES_WELL: KernelVersion = KernelVersion::new(6, 12, 0);
/// Everything that programs may be loaded for.
const ALL: u32 = features::UPLINKS | features::NON_TCP | features::UNKNOWN_PODS;
/// Reasons that must have been met.
const SEEN: &[&str] = &[
    "allowed",
    "denied",
    "steered",
    "outbound",
    "outbound_opened",
    "proxied",
    "upstream",
    "bare_reset",
    "host_probe",
    "non_tcp",
    "not_enrolled",
    "link_control",
    "unknown_identity",
    "spoofed_local_source",
    "spoofed_pod_source",
    "foreign_destination",
    "foreign_proxy_packet",
    "syn_on_live_flow",
    "malformed",
    "bad_flags",
    "bad_extension",
    "bad_fragment",
    "unknown_fragment",
    "audit_would_deny",
    "audit_would_ask",
    "paused",
    "reply_refused",
    "foreign_error",
];
/// Return values of a TC program: on to the next one, drop, redirected.
const NEXT: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

#[test]
fn the_kernel_decides_as_the_host_does() {
    if unavailable().is_some() {
        return;
    }
    decides_as_the_host_does(0, SEEN);
}

#[test]
fn the_kernel_decides_as_the_host_does_with_everything_on() {
    if unavailable().is_some() {
        return;
    }
    let seen: Vec<&str> = SEEN
        .iter()
        .chain(&["untrusted_path", "datagram_needs_proxy", "unknown_pod"])
        .copied()
        .filter(|reason| *reason != "non_tcp")
        .collect();
    decides_as_the_host_does(ALL, &seen);
}

fn decides_as_the_host_does(features: u32, wanted: &[&str]) {
    let mut bpf = load(features);
    let table = bpf.add_table(0).expect("memory for one table");
    bpf.activate(0).expect("ACTIVE is there");
    let mut events = RingBuf::try_from(bpf.ebpf.take_map(EVENTS).expect("EVENTS")).expect("a ring");
    let mut seen = BTreeMap::<&str, u32>::new();
    let flows = FlowModel::default();
    let mut runs = 0;
    let mut since = Instant::now();
    for seed in 0..TABLES {
        if since.elapsed() > FORGET_AFTER {
            since = Instant::now();
            bpf.forget_datagrams();
            let mut memory = flows.memory.borrow_mut();
            memory.datagrams_in.clear();
            memory.datagrams_out.clear();
        }
        let mut rng = Rng::with_seed(u64::from(seed));
        let judged = rng.u32(0..4);
        flows_of_the_proxy(&mut rng, judged, &mut bpf, &flows);
        let words = world::table(&mut rng, judged).build();
        bpf.write_table(table, &words).expect("it fits");
        let reasons = reasons(&bpf);
        let hits = hits(&bpf);
        let mut expected = Expected::default();
        for _ in 0..FRAMES {
            for hook in [Hook::ToPod, Hook::FromPod, Hook::FromL7] {
                let (frame, ingress) =
                    world::frame(&mut rng, judged, !matches!(hook, Hook::FromPod));
                let Ok(answer) = run(&bpf, hook, &frame, ingress) else {
                    // The kernel makes no packet of so few bytes.
                    assert!(
                        frame.len() < 54,
                        "refused {} bytes: {frame:02x?}",
                        frame.len()
                    );
                    continue;
                };
                let packet = read(&frame, features);
                let judgement = judge(hook, &packet, &words, &flows, ingress, features);
                let context = format!(
                    "seed {seed} {hook:?} from {ingress}: {packet:?} {judgement:?} {frame:02x?}"
                );
                assert_eq!(
                    answer,
                    answer_for(&judgement),
                    "return value: {context}; the kernel counted {}",
                    risen(&reasons, &self::reasons(&bpf), &expected)
                );
                let event = events.next().map(|bytes| read_event(&bytes));
                let wanted = judgement
                    .is_news(words[header::OPTIONS as usize], packet.opens())
                    .then(|| event_for(hook, &packet, &judgement, &words));
                assert_eq!(event, wanted, "event: {context}");
                expected.add(&packet, &judgement);
                *seen.entry(judgement.reason.name()).or_default() += 1;
                runs += 1;
            }
            bpf.spend_no_budget();
        }
        expected.check(&reasons, &self::reasons(&bpf), &hits, &self::hits(&bpf));
    }
    assert!(runs >= 20_000, "only {runs} runs");
    same_entries(&bpf, &flows);
    println!("{runs} runs agree; reasons seen: {seen:?}");
    for reason in wanted {
        assert!(seen.contains_key(reason), "no frame met `{reason}`");
    }
}

#[test]
fn every_program_is_verified_within_its_limit() {
    if unavailable().is_some() {
        return;
    }
    let kernel = KernelVersion::current().expect("the kernel says its version");
    let most = match kernel >= PRUNES_WELL {
        true => VERIFIED_MAX,
        false => VERIFIED_MAX_BEFORE,
    };
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let mut over = Vec::new();
    // What is off must cost nothing, and what is on may cost half as much again.
    for (features, most) in [(0, most), (ALL, most + most / 2)] {
        let bpf = load(features);
        for name in [
            program::TO_POD,
            program::FROM_POD,
            program::FROM_L7,
            program::PROXY_LOOKUP,
        ] {
            let verified = bpf.verified(name).expect("the kernel counts");
            // `cargo xtask` shows the lines that begin so, of each kernel.
            println!(
                "verified: {name:<12} {verified:>7} of at most {most} instructions, Linux {release}"
            );
            if verified > most {
                over.push(format!("{name}: {verified}, features {features}"));
            }
        }
    }
    assert!(
        over.is_empty(),
        "the verifier walks too many instructions: {}",
        over.join(", ")
    );
}

#[test]
fn without_a_table_everything_is_refused() {
    if unavailable().is_some() {
        return;
    }
    let mut bpf = load(0);
    bpf.activate(u32::MAX).expect("ACTIVE is there");
    let mut rng = Rng::with_seed(1);
    let before = reasons(&bpf)[Reason::NoTable as usize];
    for _ in 0..100 {
        let (frame, ingress) = world::frame(&mut rng, 0, true);
        if let Ok(answer) = run(&bpf, Hook::ToPod, &frame, ingress) {
            assert_eq!(answer, SHOT, "no table must mean no packet");
        }
    }
    assert!(
        reasons(&bpf)[Reason::NoTable as usize] > before,
        "the reason was not counted"
    );
}

/// Entries that the proxy would have made, in the maps and in the model.
fn flows_of_the_proxy(rng: &mut Rng, judged: u32, bpf: &mut Bpf, flows: &FlowModel) {
    for name in [PROXY, UPSTREAM] {
        let map = bpf.ebpf.map_mut(name).expect("a map of that name");
        let mut map = BpfHashMap::try_from(map).expect("a hash of these types");
        for _ in 0..20 {
            let key = world::flow(rng, judged);
            let value = ProxyValue {
                slot: judged,
                made_seconds: 0,
            };
            map.insert(Plain(key), Plain(value), 0).expect("room");
            let mut memory = flows.memory.borrow_mut();
            let entries = match name {
                PROXY => &mut memory.proxied,
                _ => &mut memory.upstream,
            };
            entries.insert(key, judged);
        }
    }
}

fn load(features: u32) -> Bpf {
    let globals = [
        (global::FEATURES, features),
        (global::L7_IFINDEX, L7_IFINDEX),
        (global::REJ_IFINDEX, REJ_IFINDEX),
    ];
    Bpf::load("enforcer-ebpf", &globals).unwrap_or_else(|error| panic!("{error:#}"))
}

fn run(bpf: &Bpf, hook: Hook, frame: &[u8], ingress: u32) -> anyhow::Result<i32> {
    let name = match hook {
        Hook::ToPod => program::TO_POD,
        Hook::FromPod => program::FROM_POD,
        _ => program::FROM_L7,
    };
    let program = bpf.program(name).expect("loaded");
    Ok(prog_run::run(program, frame, INTERFACE, ingress, 1)?.answer)
}

/// Without the ports that nobody asks for.
struct Portless<'a>(&'a [u8]);

impl Frame for Portless<'_> {
    fn near<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.near(at)
    }
    fn near_words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        self.0.near_words(at)
    }
    fn far<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.far(at)
    }
    fn length(&self) -> usize {
        self.0.len()
    }
    fn wants_ports(&self) -> bool {
        false
    }
}

fn read(frame: &[u8], features: u32) -> Packet {
    match features & features::NON_TCP {
        0 => parse(&Portless(frame)),
        _ => parse(frame),
    }
}

fn judge(
    hook: Hook,
    packet: &Packet,
    words: &[u32],
    flows: &FlowModel,
    ingress: u32,
    features: u32,
) -> Judgement {
    let place = Place {
        interface: INTERFACE,
        ingress,
        l7: L7_IFINDEX,
        rejects: REJ_IFINDEX,
        features,
    };
    match hook {
        Hook::ToPod => judge_to_pod(packet, words, flows, &place),
        Hook::FromPod => judge_from_pod(packet, words, flows, &place),
        _ => judge_from_l7(packet, words, flows),
    }
}

fn answer_for(judgement: &Judgement) -> i32 {
    match judgement.action {
        Action::Pass => NEXT,
        Action::Drop => SHOT,
        Action::Refuse | Action::Steer | Action::ToProxy | Action::ToPod => REDIRECT,
    }
}

fn event_for(hook: Hook, packet: &Packet, judgement: &Judgement, words: &[u32]) -> Event {
    Event {
        epoch: words[header::EPOCH as usize],
        cell: judgement.cell.0,
        ifindex: INTERFACE,
        reason: judgement.reason as u8,
        hook: hook as u8,
        protocol: packet.protocol,
        tcp_flags: packet.flags,
        source: packet.source,
        destination: packet.destination,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        time_low: 0,
        time_high: 0,
        slot: judgement.slot,
        ..Event::default()
    }
}

/// The reasons that rose by something else than expected.
fn risen(before: &[u64], now: &[u64], expected: &Expected) -> String {
    (0..now.len())
        .filter(|i| now[*i] - before[*i] != expected.reasons.get(i).copied().unwrap_or(0))
        .filter_map(|i| Reason::from_number(u8::try_from(i).ok()?))
        .map(Reason::name)
        .collect::<Vec<_>>()
        .join(", ")
}

/// What the counters should have risen by.
#[derive(Default)]
struct Expected {
    reasons: BTreeMap<usize, u64>,
    hits: BTreeMap<u32, (u64, u64)>,
}

impl Expected {
    fn add(&mut self, packet: &Packet, judgement: &Judgement) {
        *self.reasons.entry(judgement.reason as usize).or_default() += 1;
        if judgement.masqueraded {
            let lost = Reason::MasqueradedSource as usize;
            *self.reasons.entry(lost).or_default() += 1;
        }
        let record = judgement.cell.record();
        if record != 0 {
            let hits = self.hits.entry(record).or_default();
            hits.0 += u64::from(packet.opens());
            hits.1 += 1;
        }
    }

    fn check(&self, reasons: &[u64], now: &[u64], hits: &[(u64, u64)], hits_now: &[(u64, u64)]) {
        for (i, (before, after)) in reasons.iter().zip(now).enumerate() {
            let name = Reason::from_number(u8::try_from(i).expect("few")).map(Reason::name);
            let wanted = self.reasons.get(&i).copied().unwrap_or(0);
            assert_eq!(after - before, wanted, "counter {name:?}");
        }
        for (record, (before, after)) in (0u32..).zip(hits.iter().zip(hits_now)) {
            let wanted = self.hits.get(&record).copied().unwrap_or((0, 0));
            let got = (after.0 - before.0, after.1 - before.1);
            assert_eq!(got, wanted, "opened and packets of record {record}");
        }
    }
}

fn reasons(bpf: &Bpf) -> Vec<u64> {
    let map = PerCpuArray::<_, u64>::try_from(bpf.ebpf.map(REASONS).expect("REASONS"));
    let map = map.expect("u64");
    (0..map.len())
        .map(|i| map.get(&i, 0).expect("within").iter().sum())
        .collect()
}

fn hits(bpf: &Bpf) -> Vec<(u64, u64)> {
    let map = PerCpuArray::<_, Plain<Hits>>::try_from(bpf.ebpf.map(HITS).expect("HITS"));
    let map = map.expect("Hits");
    (0..RECORDS)
        .map(|record| {
            let values = map.get(&hits_index(0, record), 0).expect("within");
            values.iter().fold((0, 0), |sum, hits| {
                (sum.0 + hits.0.opened, sum.1 + hits.0.packets)
            })
        })
        .collect()
}

/// The maps hold what the model holds.
fn same_entries(bpf: &Bpf, flows: &FlowModel) {
    let memory = flows.memory.borrow();
    let out: BpfHashMap<&MapData, Plain<FlowKey>, Plain<OutValue>> = typed(bpf, OUT);
    assert_eq!(out.keys().count(), memory.out.len(), "entries of OUT");
    for (key, slot) in &memory.out {
        let value = out
            .get(&Plain(*key), 0)
            .expect("an entry that the model has")
            .0;
        assert_eq!(value.slot, *slot, "slot of an OUT entry");
        assert!(flows.is_out(key), "the model answers for its own entry");
    }
    let proxy: BpfHashMap<&MapData, Plain<FlowKey>, Plain<ProxyValue>> = typed(bpf, PROXY);
    assert_eq!(
        proxy.keys().count(),
        memory.proxied.len(),
        "entries of PROXY"
    );
    let upstream: BpfHashMap<&MapData, Plain<FlowKey>, Plain<ProxyValue>> = typed(bpf, UPSTREAM);
    assert_eq!(
        upstream.keys().count(),
        memory.upstream.len(),
        "entries of UPSTREAM"
    );
    let makers: BpfHashMap<&MapData, Plain<FlowKey>, u32> = typed(bpf, MASQUERADED);
    assert_eq!(
        makers.keys().count(),
        memory.masqueraded.len(),
        "entries of MASQUERADED"
    );
    for (key, maker) in &memory.masqueraded {
        assert_eq!(
            makers.get(&Plain(*key), 0).ok().as_ref(),
            Some(maker),
            "{key:?}"
        );
    }
}

fn typed<'a, K: aya::Pod, V: aya::Pod>(bpf: &'a Bpf, name: &str) -> BpfHashMap<&'a MapData, K, V> {
    let map = bpf.ebpf.map(name).expect("a map of that name");
    BpfHashMap::try_from(map).expect("a hash of these types")
}
