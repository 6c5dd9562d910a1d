//! The flow maps as plain collections: what the kernel's maps are compared with.

use std::{cell::RefCell, collections::HashMap};

use enforcer_ebpf::{
    flow::{FlowKey, FragmentKey, FragmentValue, OUT_PER_POD_MAX},
    judge::{Flows, Namespace, Socket},
    packet::Packet,
};

/// What is remembered, and what the sockets would answer.
#[derive(Debug, Default)]
pub struct FlowModel {
    pub memory: RefCell<Memory>,
    /// The answer for a pod's namespace whose id is known.
    pub pod_socket: Option<Socket>,
    /// The answer for the proxy's namespace; live while its id is unknown.
    pub proxy_socket: Option<Socket>,
    /// The same for the proxy's own legs: for tuples as the pod sends them.
    pub upstream_socket: Option<Socket>,
}

/// The entries.
#[derive(Debug, Default, Clone)]
pub struct Memory {
    pub out: HashMap<FlowKey, u32>,
    pub out_count: HashMap<u32, u32>,
    pub proxied: HashMap<FlowKey, u32>,
    pub upstream: HashMap<FlowKey, u32>,
    pub switched: HashMap<FlowKey, u32>,
    pub masqueraded: HashMap<FlowKey, u32>,
    pub fragments: HashMap<FragmentKey, FragmentValue>,
}

impl Flows for FlowModel {
    fn is_out(&self, key: &FlowKey) -> bool {
        self.memory.borrow().out.contains_key(key)
    }
    fn is_proxied(&self, key: &FlowKey) -> bool {
        self.memory.borrow().proxied.contains_key(key)
    }
    fn is_upstream(&self, key: &FlowKey) -> bool {
        self.memory.borrow().upstream.contains_key(key)
    }
    fn is_switched(&self, key: &FlowKey) -> bool {
        self.memory.borrow().switched.contains_key(key)
    }
    fn masqueraded_by(&self, key: &FlowKey) -> Option<u32> {
        self.memory.borrow().masqueraded.get(key).copied()
    }
    fn open_out(&self, key: &FlowKey, slot: u32) -> bool {
        let mut memory = self.memory.borrow_mut();
        if memory.out.contains_key(key) {
            return true;
        }
        let count = memory.out_count.entry(slot).or_default();
        if *count >= OUT_PER_POD_MAX {
            return false;
        }
        *count += 1;
        memory.out.insert(*key, slot);
        true
    }
    fn note_switched(&self, key: &FlowKey) {
        self.memory.borrow_mut().switched.insert(*key, 1);
    }
    fn note_masqueraded(&self, key: &FlowKey, slot: u32) {
        self.memory.borrow_mut().masqueraded.insert(*key, slot);
    }
    fn forget_out(&self, key: &FlowKey) {
        let mut memory = self.memory.borrow_mut();
        if let Some(slot) = memory.out.remove(key) {
            *memory.out_count.entry(slot).or_default() -= 1;
        }
    }
    fn forget_proxied(&self, key: &FlowKey) {
        let mut memory = self.memory.borrow_mut();
        memory.proxied.remove(key);
        memory.upstream.remove(key);
    }
    fn socket(&self, namespace: Namespace, packet: &Packet) -> Socket {
        let by_pod = FlowKey {
            pod: packet.source,
            remote: packet.destination,
            pod_port: packet.source_port,
            remote_port: packet.destination_port,
        };
        match namespace {
            Namespace::Proxy if self.is_upstream(&by_pod) => {
                self.upstream_socket.unwrap_or(Socket::Live)
            }
            Namespace::Proxy => self.proxy_socket.unwrap_or(Socket::Live),
            Namespace::Pod(0) => Socket::Live,
            Namespace::Pod(_) => self.pod_socket.unwrap_or(Socket::Dead),
        }
    }
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        self.memory.borrow().fragments.get(key).copied()
    }
    fn note_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        self.memory.borrow_mut().fragments.insert(*key, *value);
    }
}
