//! The straight way: packets that pass and do nothing else, which are nearly all; the opening segments
//! of a pod, which are remembered; and those that vanish, which are nearly all of a flood.
//!
//! What is asked here is what the whole judgement asks of such a packet, without what is there for the
//! others: to fetch another's instructions costs more than the decision. Where it does not know the
//! answer the whole judgement is asked; where it does, that would have given the same one, and tests
//! hold the two against each other.

use super::{Action, Flows, Judgement, Place, features, readable, to_pod::from_the_proxy};
use crate::{
    decide::{address_v4, decide, is_a_pods},
    flow::FlowKey,
    packet::{MAPPED, Plain},
    reason::Reason,
    words::{Address, Cell, Holder, Verdict, Words, header, options, pod, pod_flags},
};

/// A packet to the pod behind the place's interface, as [`super::judge_to_pod`] judges it.
#[inline(always)]
pub fn straight_to_pod<W: Words + ?Sized, F: Flows>(
    packet: &Plain,
    words: &W,
    flows: &F,
    place: &Place,
) -> Option<Judgement> {
    if place.has(features::UPLINKS) || place.has(features::INSIDE) {
        return None;
    }
    if from_the_proxy(place) {
        return None;
    }
    if !readable(words) {
        return None;
    }
    let to = behind(words, place, packet.destination)?;
    if !to.is(pod_flags::ENROLLED) {
        return passes(words, packet, Reason::NotEnrolled);
    }
    let source = address_v4(words, packet.source);
    if !sent_by(words, place, source) {
        return None;
    }
    let key = key(
        (packet.destination, packet.destination_port),
        (packet.source, packet.source_port),
    );
    let cell = cell_of(words, flows, &to, &key, source.class())?;
    if packet.opens() {
        opens(words, flows, place, &to, &key, cell)
    } else {
        follows(flows, &key, cell)
    }
}

/// A packet from the pod behind the place's interface, as [`super::judge_from_pod`] judges it.
#[inline(always)]
pub fn straight_from_pod<W: Words + ?Sized, F: Flows>(
    packet: &Plain,
    words: &W,
    flows: &F,
    place: &Place,
) -> Option<Judgement> {
    if !readable(words) {
        return None;
    }
    let remote = address_v4(words, packet.destination);
    let from = behind(words, place, packet.source)?;
    if !from.is(pod_flags::ENROLLED) {
        return passes(words, packet, Reason::NotEnrolled);
    }
    let key = key(
        (packet.source, packet.source_port),
        (packet.destination, packet.destination_port),
    );
    if packet.opens() {
        let opened = passes(words, packet, Reason::OutboundOpened)?;
        return flows.open_out(&key, from.slot).then_some(opened);
    }
    if matches!(remote.holder(), Holder::Node | Holder::Unknown) {
        return None;
    }
    let cell = cell_of(words, flows, &from, &key, remote.class())?;
    follows(flows, &key, cell)
}

/// It passes whatever the table says, and nobody is to be told.
#[inline(always)]
fn passes<W: Words + ?Sized>(words: &W, packet: &Plain, reason: Reason) -> Option<Judgement> {
    let told = packet.opens() && words.at(header::OPTIONS) & options::EVENTS_ALLOWED != 0;
    (!told).then_some(Judgement::pass(reason))
}

/// The pod behind the hook's interface.
struct Local {
    slot: u32,
    flags: u32,
    /// Its scope for IPv4.
    scope: u32,
}

/// The pod that holds the address, if it is the one behind the interface. A pod's own words name its first
/// interface: to look for it among all interfaces would take more than the rest.
#[inline(always)]
fn behind<W: Words + ?Sized>(words: &W, place: &Place, address: u32) -> Option<Local> {
    let Holder::LocalPod(slot) = address_v4(words, address).holder() else {
        return None;
    };
    if !is_behind(words, slot, place.interface) {
        return None;
    }
    const { assert!(pod::SCOPE_V4 == 0 && pod::FLAGS == 2) };
    let [scope, _, flags, _] = words.four(at(words, slot));
    Some(Local { slot, flags, scope })
}

/// Who it is must be plain: a local pod behind its own interface, or anybody behind no pod's.
#[inline(always)]
fn sent_by<W: Words + ?Sized>(words: &W, place: &Place, source: Address) -> bool {
    match source.holder() {
        Holder::LocalPod(slot) => is_behind(words, slot, place.ingress),
        Holder::RemotePod | Holder::Outside => !is_a_pods(words, place.ingress),
        Holder::Node | Holder::Unknown => false,
    }
}

/// Offset of the pod in a slot.
#[inline(always)]
fn at<W: Words + ?Sized>(words: &W, slot: u32) -> u32 {
    words
        .at(header::PODS)
        .wrapping_add(slot.wrapping_mul(pod::WORDS))
}

/// Whether the pod in a slot is behind an interface.
#[inline(always)]
fn is_behind<W: Words + ?Sized>(words: &W, slot: u32, interface: u32) -> bool {
    interface != 0
        && slot < words.at(header::PODS_COUNT)
        && words.at(at(words, slot).wrapping_add(pod::INTERFACE)) == interface
}

impl Local {
    #[inline(always)]
    fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// What the table says, as far as nothing else has a say.
#[inline(always)]
fn cell_of<W: Words + ?Sized, F: Flows>(
    words: &W,
    flows: &F,
    pod: &Local,
    key: &FlowKey,
    class: u32,
) -> Option<Cell> {
    // VERIFIER: before anything is looked up in a map. What Linux 6.1 has learnt of an offset it forgets
    // when that is put aside for the call of a helper.
    let cell = decide(words, pod.scope, class, key.pod_port as u32);
    if pod.is(pod_flags::PROXIED) && (flows.is_proxied(key) || flows.is_upstream(key)) {
        return None;
    }
    Some(cell)
}

/// The table allows the flow, or the pod began it.
#[inline(always)]
fn follows<F: Flows>(flows: &F, key: &FlowKey, cell: Cell) -> Option<Judgement> {
    if matches!(cell.verdict(), Verdict::Allow) {
        return Some(Judgement::new(Action::Pass, Reason::Allowed, cell));
    }
    flows
        .is_out(key)
        .then_some(Judgement::pass(Reason::Outbound))
}

/// The table allows the connection, and nobody is to be told; or it denies it, and refusals are
/// silent.
#[inline(always)]
fn opens<W: Words + ?Sized, F: Flows>(
    words: &W,
    flows: &F,
    place: &Place,
    to: &Local,
    key: &FlowKey,
    cell: Cell,
) -> Option<Judgement> {
    let options = words.at(header::OPTIONS);
    let told = cell.audit() || cell.dry_run() || options & options::EVENTS_ALLOWED != 0;
    // Something else may come of it.
    const LENIENT: u32 = options::AUDIT_MODE | options::PAUSED;
    const OTHERWISE: u32 = pod_flags::PAUSED | pod_flags::SEEDING | pod_flags::SWITCHED;
    let lenient = options & LENIENT != 0 || to.is(OTHERWISE);
    let silent = options & options::REFUSE_DROP != 0 || place.rejects == 0;
    let judgement = match cell.verdict() {
        Verdict::Allow if !told => Judgement::new(Action::Pass, Reason::Allowed, cell),
        Verdict::Deny if silent && !lenient => Judgement::new(Action::Drop, Reason::Denied, cell),
        _ => return None,
    };
    // What is known of its ports is to be asked first.
    (!flows.may_be_out(key, to.slot)).then_some(judgement)
}

#[inline(always)]
fn key(pod: (u32, u16), remote: (u32, u16)) -> FlowKey {
    FlowKey {
        pod: [0, 0, MAPPED, pod.0],
        remote: [0, 0, MAPPED, remote.0],
        pod_port: pod.1,
        remote_port: remote.1,
    }
}
