//! The flow maps as plain collections: what the kernel's maps are compared with.

use std::{cell::RefCell, collections::HashMap};

use enforcer_ebpf::{
    flow::{
        DATAGRAM_IDLE_SECONDS, DATAGRAMS_PER_POD_MAX, DatagramKey, DatagramValue, FlowKey,
        FragmentKey, FragmentValue, OUT_PER_POD_MAX,
    },
    judge::{Flows, Namespace, Socket, Way},
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
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Memory {
    pub out: HashMap<FlowKey, u32>,
    pub out_count: HashMap<u32, u32>,
    pub proxied: HashMap<FlowKey, u32>,
    pub upstream: HashMap<FlowKey, u32>,
    pub switched: HashMap<FlowKey, u32>,
    pub masqueraded: HashMap<FlowKey, u32>,
    pub fragments: HashMap<FragmentKey, FragmentValue>,
    /// Seconds since boot, for what ends by itself.
    pub now: u32,
    pub datagrams_out: HashMap<DatagramKey, DatagramValue>,
    pub datagrams_count: HashMap<u32, u32>,
    pub datagrams_in: HashMap<DatagramKey, DatagramValue>,
}

impl Memory {
    fn is_fresh(&self, value: DatagramValue) -> bool {
        self.now - value.seen_seconds < DATAGRAM_IDLE_SECONDS
    }
}

impl Flows for FlowModel {
    fn is_out(&self, key: &FlowKey) -> bool {
        self.memory.borrow().out.contains_key(key)
    }
    fn may_be_out(&self, key: &FlowKey, _slot: u32) -> bool {
        self.is_out(key)
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
    fn is_datagram_out(&self, key: &DatagramKey) -> bool {
        let memory = &mut *self.memory.borrow_mut();
        let now = memory.now;
        match memory.datagrams_out.get(key).copied() {
            Some(value) if memory.is_fresh(value) => {
                let renewed = DatagramValue {
                    seen_seconds: now,
                    ..value
                };
                memory.datagrams_out.insert(*key, renewed);
                true
            }
            _ => false,
        }
    }
    fn open_datagram(&self, key: &DatagramKey, slot: u32) -> bool {
        let memory = &mut *self.memory.borrow_mut();
        let value = DatagramValue {
            maker: slot,
            seen_seconds: memory.now,
        };
        if !memory.datagrams_out.contains_key(key) {
            let count = memory.datagrams_count.entry(slot).or_default();
            if *count >= DATAGRAMS_PER_POD_MAX {
                return false;
            }
            *count += 1;
        }
        memory.datagrams_out.insert(*key, value);
        true
    }
    fn datagram_in(&self, key: &DatagramKey) -> Option<u32> {
        let memory = self.memory.borrow();
        let value = memory.datagrams_in.get(key).copied();
        value
            .filter(|value| memory.is_fresh(*value))
            .map(|value| value.maker)
    }
    fn note_datagram_in(&self, key: &DatagramKey, maker: u32) {
        let memory = &mut *self.memory.borrow_mut();
        let value = DatagramValue {
            maker,
            seen_seconds: memory.now,
        };
        memory.datagrams_in.insert(*key, value);
    }
    fn socket(&self, namespace: Namespace, _key: &FlowKey, _v6: bool, way: Way) -> Socket {
        match namespace {
            Namespace::Proxy if way == Way::FromPod => self.upstream_socket.unwrap_or(Socket::Live),
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
