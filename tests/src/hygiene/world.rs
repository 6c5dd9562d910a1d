//! The node on which the rows are judged: one policed pod and its neighbour, in both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_ebpf::{
    event::Hook,
    words::{Address, Cell, Holder, Verdict, pod_flags},
};

use crate::{
    bpf::L7_IFINDEX,
    frame::{Fragment, Frame, tcp_segment},
    table_builder::{Pod, Scope, TableBuilder},
    world::INTERFACE,
};

/// Every hook that sees packets.
pub const HOOKS: [Hook; 3] = [Hook::ToPod, Hook::FromPod, Hook::FromL7];
/// Last bytes of the addresses: the pod, another pod of the node, one of another node, one that
/// nobody holds within the pods' ranges, the node itself, and one without identity.
pub const SERVER: u8 = 1;
pub const NEIGHBOUR: u8 = 2;
pub const REMOTE: u8 = 5;
pub const STRANGER: u8 = 9;
pub const NODE: u8 = 8;
pub const OUTSIDE: u8 = 200;

const NEIGHBOURS_INTERFACE: u32 = 100;
const UPLINK: u32 = 60;
const CLIENT_PORT: u16 = 40_000;

/// What the policy says of a port of the pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    Allowed,
    /// Only a request can tell.
    Asked,
    Denied,
}

/// What a row's packets are built for.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub hook: Hook,
    pub v6: bool,
    pub port: Port,
    /// Identification of fragments, which no other case of the same run has.
    pub id: u32,
}

impl Port {
    /// Every answer of the policy.
    pub const ALL: [Self; 3] = [Self::Allowed, Self::Asked, Self::Denied];

    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Allowed => 80,
            Self::Asked => 81,
            Self::Denied => 82,
        }
    }
}

impl Case {
    /// An address of the case's family.
    #[must_use]
    pub fn ip(&self, last: u8) -> IpAddr {
        if self.v6 {
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into()).into()
        } else {
            Ipv4Addr::new(10, 0, 0, last).into()
        }
    }

    /// A segment between a peer of another node and the pod, in the direction of the hook, without
    /// data: what the proxy says goes the way of what the pod says.
    #[must_use]
    pub fn segment(&self, flags: u8) -> Frame {
        self.segment_with(flags, 0)
    }

    /// The same with data.
    #[must_use]
    pub fn segment_with(&self, flags: u8, payload: usize) -> Frame {
        let ends = [(REMOTE, CLIENT_PORT), (SERVER, self.port.number())];
        let [from, to] = match self.hook {
            Hook::ToPod => ends,
            _ => [ends[1], ends[0]],
        };
        let mut frame = Frame::tcp((self.ip(from.0), from.1), (self.ip(to.0), to.1), flags);
        frame.body = tcp_segment(from.1, to.1, flags, payload);
        frame
    }

    /// A datagram of a protocol, in the same direction.
    #[must_use]
    pub fn datagram(&self, protocol: u8, body: &[u8]) -> Frame {
        let mut frame = self.segment(0);
        frame.protocol = protocol;
        frame.body = body.to_vec();
        frame
    }

    /// The fragment of `frame` from byte `from` of its body to byte `to`.
    #[must_use]
    pub fn part(&self, frame: &Frame, from: u16, to: u16) -> Frame {
        let mut part = frame.clone();
        let whole = part.body.len();
        part.body = frame.body[usize::from(from)..usize::from(to)].to_vec();
        part.fragment = Some(Fragment {
            id: self.id,
            offset: from / 8,
            more: usize::from(to) < whole,
        });
        part
    }
}

/// Interface on which a hook sees packets come in.
#[must_use]
pub fn ingress(hook: Hook) -> u32 {
    match hook {
        Hook::ToPod => UPLINK,
        Hook::FromPod => INTERFACE,
        _ => L7_IFINDEX,
    }
}

/// The node's table.
#[must_use]
pub fn words() -> Vec<u32> {
    let cell = |verdict| Cell::new(verdict, false, false, 1);
    let mut table = TableBuilder::default();
    table.scopes.push(Scope {
        ports: [
            (Port::Allowed.number(), 1),
            (Port::Asked.number(), 2),
            (Port::Denied.number(), 0),
        ]
        .into(),
        width: 3,
        cells: [Verdict::Deny, Verdict::Allow, Verdict::Ask]
            .map(cell)
            .to_vec(),
        ..Scope::default()
    });
    let case = |v6| Case {
        hook: Hook::ToPod,
        v6,
        port: Port::Allowed,
        id: 0,
    };
    for (last, holder) in [
        (SERVER, Holder::LocalPod(0)),
        (NEIGHBOUR, Holder::LocalPod(1)),
        (REMOTE, Holder::RemotePod),
        (STRANGER, Holder::Unknown),
        (NODE, Holder::Node),
        (OUTSIDE, Holder::Outside),
    ] {
        let address = Address::new(holder, 1);
        for ip in [case(false).ip(last), case(true).ip(last)] {
            match ip {
                IpAddr::V4(v4) => table.v4.push((v4, 32, address)),
                IpAddr::V6(v6) => table.v6_hosts.push((v6, address)),
            }
        }
    }
    for interface in [INTERFACE, NEIGHBOURS_INTERFACE] {
        table.pods.push(Pod {
            interface,
            flags: pod_flags::ENROLLED,
            scope_v4: Some(0),
            scope_v6: Some(0),
            class_v4: 1,
            class_v6: 1,
            ..Pod::default()
        });
    }
    table.build()
}
