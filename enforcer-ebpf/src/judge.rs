//! The order of judgement for one packet, as pure functions of the packet, the table and the flows.
//!
//! TCP is judged by the table, on every packet and in both directions; state is asked only for what
//! the table cannot know: connections that the pod opened (OUT), flows that began through the proxy
//! (PROXY) and the proxy's own legs (UPSTREAM). No remote sender can make an entry, so none can fill
//! a map, and a changed policy meets established connections at their next packet. The entries of
//! the proxy's connections are the proxy's to make and to remove: PROXY when it accepts, UPSTREAM
//! before it connects, and each stays until its own socket is gone, the last acknowledgement
//! included. An opening segment asks the sockets itself and does not wait for that.
//!
//! Three places are judged: [`judge_to_pod`] at the egress of the pod's host interface (the only
//! hook that sees every path into the pod, after service translation), [`judge_from_pod`] at the
//! ingress of the same interface, [`judge_from_l7`] where the proxy's packets enter the node.
//! This module knows no maps, no helpers and no byte order.
//!
//! A verdict is found first ([`find_to_pod`], [`find_from_pod`], [`find_other`]) and concluded then
//! ([`conclude`]), which applies how the node enforces. The kernel checks each part by itself.

mod from_l7;
mod from_pod;
mod nobody;
mod other;
mod pause;
mod reply;
mod shadow;
mod source;
mod straight;
mod to_pod;

use crate::{
    decide::{address_v4, pod_by_interface},
    event::Hook,
    flow::{DatagramKey, FlowKey, FragmentKey, FragmentValue},
    packet::{Kind, Packet, Part},
    reason::Reason,
    words::{ABI, Address, Cell, MAGIC, Verdict, Words, header, options, pod, pod_flags},
};
pub use from_l7::judge_from_l7;
pub use from_pod::find_from_pod;
pub use other::find_other;
pub use shadow::cell_to_pod;
pub use straight::{straight_from_pod, straight_to_pod};
pub use to_pod::find_to_pod;

/// What to do with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Action {
    /// On to whoever comes next.
    Pass = 0,
    /// Away, without a word.
    Drop = 1,
    /// To the kernel behind the rejecting interface, which answers with a reset. A pod's answer becomes
    /// one for its peer besides.
    Refuse = 2,
    /// To the proxy, through the node's end of its interface.
    Steer = 3,
    /// Straight into the proxy's namespace, past the node's stack.
    ToProxy = 4,
    /// Straight into the pod behind [`Judgement::target`], past the node's stack.
    ToPod = 5,
}

/// What was decided about a packet, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judgement {
    pub action: Action,
    pub reason: Reason,
    /// The cell that was asked, or [`Cell::NOTHING`].
    pub cell: Cell,
    /// Slot of the pod, or [`NO_SLOT`].
    pub slot: u32,
    /// Host interface of the pod that [`Action::ToPod`] goes to.
    pub target: u32,
    /// The source was lost to masquerading; counted as [`Reason::MasqueradedSource`] besides.
    pub masqueraded: bool,
}

/// The slot of no pod.
pub const NO_SLOT: u32 = u32::MAX;

/// Where a packet is, by interface index, and what the programs there were loaded to do. `l7` and
/// `rejects` are those of the node's ends of the proxy's interfaces, or 0 while there are none.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The interface whose hook runs.
    pub interface: u32,
    /// Where the packet came into the node; 0 for one that the node itself made.
    pub ingress: u32,
    pub l7: u32,
    pub rejects: u32,
    /// Bits of [`features`].
    pub features: u32,
}

/// What the programs are loaded to do beyond the rest. In the kernel these are constants, so that
/// what is off is not even there.
pub mod features {
    /// `--trusted-uplink`: see [`crate::words::header::UPLINKS`].
    pub const UPLINKS: u32 = 1 << 0;
    /// `--non-tcp=enforce`: datagrams are judged, too.
    pub const NON_TCP: u32 = 1 << 1;
    /// `--unknown-pod=deny`: behind an interface of which the table knows no pod is one all the same.
    pub const UNKNOWN_PODS: u32 = 1 << 2;
    /// The hook is in the pod's own network namespace, where the way in is not seen: the address of
    /// another local pod, which is guarded there, is believed, and that of a pod of another node is
    /// as good as the network between the nodes.
    pub const INSIDE: u32 = 1 << 8;
}

impl Place {
    /// Whether a feature is on.
    #[inline(always)]
    pub(crate) fn has(&self, feature: u32) -> bool {
        self.features & feature != 0
    }
}

/// The network namespace whose sockets are asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Namespace {
    Proxy,
    /// Namespace id of the pod as the node sees it, plus one; 0 when unknown.
    Pod(u32),
}

/// Which way a packet travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    ToPod,
    FromPod,
}

/// The socket that an arriving packet would meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Socket {
    /// None, a listener, or one that only waits for stray segments.
    Dead,
    /// The opening segment is sent, nothing came back yet.
    Opening,
    /// Anything else. Also the answer when the namespace cannot be asked.
    Live,
}

/// What is remembered about flows. Every key is seen from the pod.
pub trait Flows {
    /// The pod opened the connection.
    fn is_out(&self, key: &FlowKey) -> bool;
    /// The same of a pod in `slot`, for who need not be sure: a pod that has opened nothing is not asked
    /// about its flows.
    fn may_be_out(&self, key: &FlowKey, slot: u32) -> bool;
    /// The flow began through the proxy.
    fn is_proxied(&self, key: &FlowKey) -> bool;
    /// The connection is the proxy's own leg.
    fn is_upstream(&self, key: &FlowKey) -> bool;
    /// The flow's packets go past the node's stack, and so must what is answered to them.
    fn is_switched(&self, key: &FlowKey) -> bool;
    /// Who began the flow from an address that does not tell: the slot of a local pod,
    /// [`crate::flow::MADE_BY_NODE`] or [`crate::flow::MADE_BY_NOBODY`].
    fn masqueraded_by(&self, key: &FlowKey) -> Option<u32>;
    /// Remembers that the pod in `slot` opens a connection, unless it is known already. False when
    /// the pod's quota or the map is full.
    fn open_out(&self, key: &FlowKey, slot: u32) -> bool;
    /// Remembers [`Flows::is_switched`]; may forget it under pressure.
    fn note_switched(&self, key: &FlowKey);
    /// Remembers [`Flows::masqueraded_by`]; may forget it under pressure.
    fn note_masqueraded(&self, key: &FlowKey, slot: u32);
    /// Forgets an OUT entry and gives its place in the quota back.
    fn forget_out(&self, key: &FlowKey);
    /// Forgets PROXY and UPSTREAM entries.
    fn forget_proxied(&self, key: &FlowKey);
    /// The socket that a packet of the flow would meet in a namespace, one towards the pod or one from
    /// it.
    fn socket(&self, namespace: Namespace, key: &FlowKey, v6: bool, way: Way) -> Socket;
    /// The pod began the flow of datagrams, and it is not idle. Renews it.
    fn is_datagram_out(&self, key: &DatagramKey) -> bool;
    /// Remembers that the pod in `slot` begins a flow of datagrams. False when the pod's quota or the
    /// map is full.
    fn open_datagram(&self, key: &DatagramKey, slot: u32) -> bool;
    /// Another began the flow of datagrams, and it is not idle: who, as in
    /// [`Flows::masqueraded_by`].
    fn datagram_in(&self, key: &DatagramKey) -> Option<u32>;
    /// Remembers [`Flows::datagram_in`], or renews it; may forget it under pressure.
    fn note_datagram_in(&self, key: &DatagramKey, maker: u32);
    /// What the first fragment of a datagram met.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue>;
    /// Remembers [`Flows::fragment`]; may forget it under pressure.
    fn note_fragment(&self, key: &FragmentKey, value: &FragmentValue);
}

impl Action {
    /// The action with that number; a number of no action drops.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Pass,
            2 => Self::Refuse,
            3 => Self::Steer,
            4 => Self::ToProxy,
            _ => Self::Drop,
        }
    }
}

impl Judgement {
    #[inline(always)]
    pub(crate) const fn new(action: Action, reason: Reason, cell: Cell) -> Self {
        Self {
            action,
            reason,
            cell,
            slot: NO_SLOT,
            target: 0,
            masqueraded: false,
        }
    }
    #[inline(always)]
    pub(crate) const fn pass(reason: Reason) -> Self {
        Self::new(Action::Pass, reason, Cell::NOTHING)
    }
    #[inline(always)]
    pub(crate) const fn drop(reason: Reason) -> Self {
        Self::new(Action::Drop, reason, Cell::NOTHING)
    }
}

impl Judgement {
    /// Worth an event: what is refused or would be, what begins to go through the proxy, what an
    /// audited or dry-run rule matches and, where asked for by the table's options, each connection
    /// that is allowed.
    #[inline(always)]
    pub fn is_news(&self, options: u32, opens: bool) -> bool {
        match self.action {
            Action::Drop | Action::Refuse => !matches!(self.reason, Reason::SelfTest),
            Action::Steer => matches!(self.reason, Reason::Steered),
            Action::Pass => {
                let would = matches!(
                    self.reason,
                    Reason::AuditWouldDeny | Reason::AuditWouldAsk | Reason::Paused
                );
                let flagged = self.cell.audit() || self.cell.dry_run();
                would || (opens && (flagged || options & options::EVENTS_ALLOWED != 0))
            }
            Action::ToProxy | Action::ToPod => false,
        }
    }
}

/// A verdict, and what of the table says how it is carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finding {
    pub judgement: Judgement,
    /// Bits of [`options`].
    pub options: u32,
    /// The pod is policed.
    pub enrolled: bool,
    /// It is not to be hindered: see `pause`.
    pub paused: bool,
}

/// Judges what leaves the node through a pod's host interface.
#[inline(always)]
pub fn judge_to_pod<W: Words + ?Sized, F: Flows>(
    packet: &Packet,
    words: &W,
    flows: &F,
    place: &Place,
) -> Judgement {
    let finding = match packet.kind {
        Kind::Tcp => find_to_pod(packet, words, flows, place),
        _ => find_other(packet, words, flows, place, Hook::ToPod),
    };
    conclude(finding, packet, flows, place, Hook::ToPod)
}

/// Judges what enters the node through a pod's host interface.
#[inline(always)]
pub fn judge_from_pod<W: Words + ?Sized, F: Flows>(
    packet: &Packet,
    words: &W,
    flows: &F,
    place: &Place,
) -> Judgement {
    let finding = match packet.kind {
        Kind::Tcp => find_from_pod(packet, words, flows, place),
        _ => find_other(packet, words, flows, place, Hook::FromPod),
    };
    conclude(finding, packet, flows, place, Hook::FromPod)
}

/// A local pod, as the table describes it.
#[derive(Clone, Copy)]
pub(crate) struct LocalPod {
    /// Offset of its words.
    pub at: u32,
    pub slot: u32,
    pub flags: u32,
}

impl LocalPod {
    /// The pod at an offset that is not 0.
    #[inline(always)]
    pub fn at<W: Words + ?Sized>(words: &W, at: u32) -> Self {
        Self {
            at,
            slot: at.wrapping_sub(words.at(header::PODS)) / pod::WORDS,
            flags: words.at(at + pod::FLAGS),
        }
    }
    #[inline(always)]
    pub fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
    /// The scope for an address family.
    #[inline(always)]
    pub fn scope<W: Words + ?Sized>(&self, words: &W, v6: bool) -> u32 {
        words.at(self.at + if v6 { pod::SCOPE_V6 } else { pod::SCOPE_V4 })
    }
}

/// The pod behind the hook's interface; else what the packet meets there. The pod is found by its
/// interface: an address may be anybody's choice.
#[inline(always)]
pub(crate) fn pod_behind<W: Words + ?Sized>(words: &W, place: &Place) -> Result<LocalPod, Finding> {
    if !readable(words) {
        let judgement = Judgement::drop(Reason::NoTable);
        // Nothing that the table says changes it.
        return Err(Finding {
            judgement,
            options: 0,
            enrolled: false,
            paused: false,
        });
    }
    let at = pod_by_interface(words, place.interface);
    if at == 0 {
        return Err(Finding {
            judgement: Judgement::pass(Reason::NotEnrolled),
            options: words.at(header::OPTIONS),
            enrolled: false,
            paused: false,
        });
    }
    Ok(LocalPod::at(words, at))
}

/// A verdict about a packet of `pod`.
#[inline(always)]
pub(crate) fn found<W: Words + ?Sized>(
    words: &W,
    pod: &LocalPod,
    mut judgement: Judgement,
) -> Finding {
    judgement.slot = pod.slot;
    let options = words.at(header::OPTIONS);
    // Most are not, and are asked no further.
    let paused = hinders(&judgement) && pause::holds(words, pod, options, judgement.reason);
    Finding {
        judgement,
        options,
        enrolled: pod.is(pod_flags::ENROLLED),
        paused,
    }
}

/// The active table is one that this code can read.
#[inline(always)]
pub(crate) fn readable<W: Words + ?Sized>(words: &W) -> bool {
    words.at(header::MAGIC) == MAGIC && words.at(header::ABI) == ABI
}

#[inline(always)]
pub(crate) fn address_of<W: Words + ?Sized>(words: &W, v6: bool, address: &[u32; 4]) -> Address {
    let found = if v6 {
        words.address_v6(address)
    } else {
        address_v4(words, address[3])
    };
    Address(words.opaque(found.0))
}

/// The flow of a packet that goes to the pod.
#[inline(always)]
pub(crate) fn inward(packet: &Packet) -> FlowKey {
    FlowKey {
        pod: packet.destination,
        remote: packet.source,
        pod_port: packet.destination_port,
        remote_port: packet.source_port,
    }
}

/// The flow of a packet that comes from the pod.
#[inline(always)]
pub(crate) fn outward(packet: &Packet) -> FlowKey {
    FlowKey {
        pod: packet.source,
        remote: packet.destination,
        pod_port: packet.source_port,
        remote_port: packet.destination_port,
    }
}

/// What a later fragment meets: the same as the first one did, or nothing good.
#[inline(always)]
pub(crate) fn inherit<F: Flows>(
    packet: &Packet,
    flows: &F,
    place: &Place,
    hook: Hook,
) -> Judgement {
    match flows.fragment(&fragment_key(packet, place, hook)) {
        Some(value) => Judgement::new(
            Action::from_number((value.verdict & 0xff) as u8),
            Reason::from_number(((value.verdict >> 8) & 0xff) as u8)
                .unwrap_or(Reason::UnknownFragment),
            Cell(value.cell),
        ),
        None => Judgement::drop(Reason::UnknownFragment),
    }
}

/// Leaves what a first fragment met for the later ones.
#[inline(always)]
fn bequeath<F: Flows>(
    packet: &Packet,
    flows: &F,
    place: &Place,
    hook: Hook,
    judgement: &Judgement,
) {
    if packet.part == Part::First {
        let value = FragmentValue {
            verdict: u32::from(judgement.action as u8) | u32::from(judgement.reason as u8) << 8,
            cell: judgement.cell.0,
        };
        flows.note_fragment(&fragment_key(packet, place, hook), &value);
    }
}

#[inline(always)]
fn fragment_key(packet: &Packet, place: &Place, hook: Hook) -> FragmentKey {
    FragmentKey {
        source: packet.source,
        destination: packet.destination,
        id: packet.fragment_id,
        place: (place.interface & 0x00ff_ffff) | u32::from(hook as u8) << 24,
    }
}

/// Does something else with a packet than to let it through.
#[inline(always)]
fn hinders(judgement: &Judgement) -> bool {
    matches!(
        judgement.action,
        Action::Drop | Action::Refuse | Action::Steer
    )
}

/// Carries a verdict over to the fragments that follow, and applies how the node enforces.
#[inline(always)]
pub fn conclude<F: Flows>(
    mut finding: Finding,
    packet: &Packet,
    flows: &F,
    place: &Place,
    hook: Hook,
) -> Judgement {
    if let Some(judgement) = nobody::to(&finding, packet, place, hook) {
        finding.judgement = judgement;
    }
    let judgement = enforce(&finding, place);
    if finding.enrolled {
        bequeath(packet, flows, place, hook, &judgement);
    }
    judgement
}

/// Applies how the node enforces to what was judged: roll-out modes, and what is there to refuse
/// and to steer with.
#[inline(always)]
fn enforce(finding: &Finding, place: &Place) -> Judgement {
    let mut judgement = finding.judgement;
    let options = finding.options;
    // A flow that began through the proxy stays there: the pod holds another connection.
    let sticky = judgement.reason as u8 == Reason::Proxied as u8;
    if hinders(&judgement) && !sticky {
        if options & options::AUDIT_MODE != 0 {
            judgement.action = Action::Pass;
            judgement.reason = match judgement.cell.verdict() {
                Verdict::Ask => Reason::AuditWouldAsk,
                _ => Reason::AuditWouldDeny,
            };
        } else if finding.paused {
            judgement.action = Action::Pass;
            judgement.reason = Reason::Paused;
        }
    }
    if place.l7 == 0 && matches!(judgement.action, Action::Steer | Action::ToProxy) {
        judgement.action = Action::Refuse;
        judgement.reason = Reason::RedirectUnavailable;
    }
    let silent = options & options::REFUSE_DROP != 0 || place.rejects == 0;
    if silent && matches!(judgement.action, Action::Refuse) {
        judgement.action = Action::Drop;
    }
    judgement
}
