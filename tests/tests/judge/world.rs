//! A node with two pods, and what is judged on it.

use std::net::{IpAddr, Ipv4Addr};

use enforcer_ebpf::{
    event::Hook,
    flow::FlowKey,
    judge::{Action, Judgement, Place, judge_from_l7, judge_from_pod, judge_to_pod},
    packet::{Packet, flag, parse},
    reason::Reason,
    words::{Address, Cell, Holder, Verdict, pod_flags},
};
use tests::{
    flow_model::FlowModel,
    frame::Frame,
    table_builder::{Pod, Scope, TableBuilder},
};

pub const SERVER: u8 = 1;
pub const CLIENT: u8 = 2;
pub const REMOTE: u8 = 5;
pub const STRANGER: u8 = 9;
pub const NODE: u8 = 8;
pub const OUTSIDE: u8 = 200;
/// Host interfaces of the two pods, their bridge, the uplink, the proxy's two.
pub const SERVER_IF: u32 = 11;
pub const CLIENT_IF: u32 = 12;
pub const BRIDGE: u32 = 50;
pub const UPLINK: u32 = 60;
pub const L7: u32 = 70;
pub const REJECTS: u32 = 71;
/// Ports by what the table says of them, for everybody but class 7.
pub const ALLOWED: u16 = 80;
pub const ASKED: u16 = 81;
pub const DENIED: u16 = 82;
pub const CLIENT_PORT: u16 = 40_000;

/// A node with two pods on a bridge, and what is remembered.
pub struct World {
    pub table: TableBuilder,
    pub flows: FlowModel,
    pub ingress: u32,
    pub features: u32,
}

impl World {
    pub fn new() -> Self {
        let mut table = TableBuilder::default();
        let cell = |verdict| Cell::new(verdict, false, false, 1);
        let (deny, allow, ask) = (
            cell(Verdict::Deny),
            cell(Verdict::Allow),
            cell(Verdict::Ask),
        );
        let ports = [(ALLOWED, 1), (ASKED, 2), (CLIENT_PORT, 3)];
        table.scopes = vec![
            Scope {
                ports: ports.into_iter().collect(),
                // Class 7 may do nothing.
                classes: [(7, 1)].into_iter().collect(),
                width: 4,
                cells: vec![deny, allow, ask, deny, deny, deny, deny, deny],
            },
            // The host scope: probes to the denied port.
            Scope {
                ports: [(DENIED, 1)].into_iter().collect(),
                width: 2,
                cells: vec![deny, allow],
                ..Scope::default()
            },
        ];
        for (last, holder, class) in [
            (SERVER, Holder::LocalPod(0), 1),
            (CLIENT, Holder::LocalPod(1), 2),
            (REMOTE, Holder::RemotePod, 3),
            (STRANGER, Holder::Unknown, 0),
            (NODE, Holder::Node, 7),
            (OUTSIDE, Holder::Outside, 4),
        ] {
            let address = Address::new(holder, class);
            table.v4.push((Ipv4Addr::new(10, 0, 0, last), 32, address));
        }
        for (interface, class) in [(SERVER_IF, 1), (CLIENT_IF, 2)] {
            table.pods.push(Pod {
                interface,
                flags: pod_flags::ENROLLED,
                bridge: BRIDGE,
                netns_id: 3,
                scope_v4: Some(0),
                class_v4: class,
                ..Pod::default()
            });
        }
        Self {
            table,
            flows: FlowModel::default(),
            ingress: UPLINK,
            features: 0,
        }
    }

    pub fn from(mut self, ingress: u32) -> Self {
        self.ingress = ingress;
        self
    }

    pub fn place(&self, interface: u32) -> Place {
        Place {
            interface,
            ingress: self.ingress,
            l7: L7,
            rejects: REJECTS,
            features: self.features,
        }
    }

    pub fn judge(&self, hook: Hook, frame: &Frame) -> Judgement {
        self.judge_packet(hook, &parse(&frame.build()[..]))
    }

    pub fn judge_packet(&self, hook: Hook, packet: &Packet) -> Judgement {
        let words = self.table.build();
        let place = self.place(SERVER_IF);
        match hook {
            Hook::ToPod => judge_to_pod(packet, &words[..], &self.flows, &place),
            Hook::FromPod => judge_from_pod(packet, &words[..], &self.flows, &place),
            _ => judge_from_l7(packet, &words[..], &self.flows),
        }
    }

    /// Towards the server pod.
    pub fn to(&self, source: u8, port: u16, flags: u8) -> (Action, Reason) {
        told(self.judge(Hook::ToPod, &request(source, port, flags)))
    }

    /// From the server pod.
    pub fn back(&self, destination: u8, port: u16, flags: u8) -> (Action, Reason) {
        told(self.judge(Hook::FromPod, &answer(destination, port, flags)))
    }

    /// A client's flow to the server pod began through the proxy.
    pub fn proxied(&self, remote: u8, port: u16) {
        let mut memory = self.flows.memory.borrow_mut();
        memory.proxied.insert(key(remote, port), 0);
    }

    /// The proxy has a leg of its own to the server pod.
    pub fn upstream(&self, remote: u8, port: u16) {
        let mut memory = self.flows.memory.borrow_mut();
        memory.upstream.insert(key(remote, port), 0);
    }

    pub fn flag(&mut self, flag: u32) {
        self.table.pods[0].flags |= flag;
    }
}

pub fn told(judgement: Judgement) -> (Action, Reason) {
    (judgement.action, judgement.reason)
}

pub fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

pub fn request(source: u8, port: u16, flags: u8) -> Frame {
    Frame::tcp((ip(source), CLIENT_PORT), (ip(SERVER), port), flags)
}

pub fn answer(destination: u8, port: u16, flags: u8) -> Frame {
    Frame::tcp((ip(SERVER), port), (ip(destination), CLIENT_PORT), flags)
}

/// The flow of [`request`] and [`answer`].
pub fn key(remote: u8, port: u16) -> FlowKey {
    let words = |last: u8| [0, 0, 0xffff, 0x0a00_0000 | u32::from(last)];
    FlowKey {
        pod: words(SERVER),
        remote: words(remote),
        pod_port: port,
        remote_port: CLIENT_PORT,
    }
}

pub const SYN: u8 = flag::SYN;
pub const ACK: u8 = flag::ACK;
pub const RST: u8 = flag::RST;
