//! Which entries of the proxy's maps are in use, and which wait for the end of their sockets. Knows
//! no maps and no sockets.
//!
//! A tuple may be used again before its old user has let go of it, so users are counted: an entry
//! may go when nobody uses it and the kernel has no socket of its tuple any more.

use std::collections::{BTreeSet, HashMap, HashSet};

use enforcer_ebpf::flow::FlowKey;

/// One of the two connections of a client through the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Leg {
    /// The client's, answered in the pod's name: map PROXY.
    Client,
    /// The proxy's own, to the pod: map UPSTREAM.
    Pod,
}

/// Looks at the sockets that must not find one before its entry goes. A look is not one moment, and
/// a socket may be missed that moves within the kernel's table; and the last acknowledgement may
/// still be on its way when the socket is gone.
const LOOKS: u8 = 2;

/// The entries, and who uses them.
#[derive(Debug, Default)]
pub struct Uses {
    entries: HashMap<(Leg, FlowKey), Use>,
}

#[derive(Clone, Copy, Debug)]
struct Use {
    /// Slot of the pod.
    slot: u32,
    users: u32,
    /// Looks since the last user left that found no socket.
    unseen: u8,
}

impl Uses {
    /// A connection begins.
    pub fn begin(&mut self, leg: Leg, key: FlowKey, slot: u32) {
        let entry = self.entries.entry((leg, key)).or_insert(Use {
            slot,
            users: 0,
            unseen: 0,
        });
        entry.slot = slot;
        entry.users += 1;
        entry.unseen = 0;
    }

    /// An entry that nobody here uses is there already.
    pub fn adopt(&mut self, leg: Leg, key: FlowKey, slot: u32) {
        self.begin(leg, key, slot);
        self.end(leg, key);
    }

    /// A user lets go of its connection; the kernel may go on ending it.
    pub fn end(&mut self, leg: Leg, key: FlowKey) {
        if let Some(entry) = self.entries.get_mut(&(leg, key)) {
            entry.users = entry.users.saturating_sub(1);
        }
    }

    /// Some entries wait for the end of their sockets.
    pub fn is_waiting(&self) -> bool {
        self.entries.values().any(|entry| entry.users == 0)
    }

    /// Forgets the entries whose sockets are gone, and returns them. `live` are the connections of
    /// the proxy's namespace, seen from there.
    pub fn look(&mut self, live: &HashSet<FlowKey>) -> Vec<(Leg, FlowKey)> {
        let mut gone = Vec::new();
        self.entries.retain(|(leg, key), entry| {
            if entry.users > 0 || live.contains(&from_the_proxy(*leg, key)) {
                entry.unseen = 0;
                return true;
            }
            entry.unseen += 1;
            let keep = entry.unseen < LOOKS;
            if !keep {
                gone.push((*leg, *key));
            }
            keep
        });
        gone
    }

    /// Forgets one entry that nobody uses, to make room, and returns it.
    pub fn sacrifice(&mut self, leg: Leg) -> Option<FlowKey> {
        let unused = self
            .entries
            .iter()
            .filter(|(at, u)| at.0 == leg && u.users == 0);
        let ((_, key), _) = unused.max_by_key(|(_, entry)| entry.unseen)?;
        let key = *key;
        self.entries.remove(&(leg, key));
        Some(key)
    }

    /// Slots of the pods that have connections through the proxy.
    pub fn slots(&self) -> BTreeSet<u32> {
        self.entries.values().map(|entry| entry.slot).collect()
    }
}

/// The connection as the proxy's own socket shows it: local end first.
fn from_the_proxy(leg: Leg, key: &FlowKey) -> FlowKey {
    match leg {
        // The proxy's end of the client's connection is the pod's address.
        Leg::Client => *key,
        Leg::Pod => FlowKey {
            pod: key.remote,
            remote: key.pod,
            pod_port: key.remote_port,
            remote_port: key.pod_port,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(remote_port: u16) -> FlowKey {
        FlowKey {
            pod: [0, 0, 0xffff, 0x0a00_0002],
            remote: [0, 0, 0xffff, 0x0a00_0003],
            pod_port: 80,
            remote_port,
        }
    }

    #[test]
    fn an_entry_stays_until_its_socket_is_gone() {
        let mut uses = Uses::default();
        let none = HashSet::new();
        uses.begin(Leg::Pod, key(1), 7);
        assert!(uses.look(&none).is_empty(), "it is in use");
        assert!(!uses.is_waiting(), "and waits for nothing");
        uses.end(Leg::Pod, key(1));
        let socket = from_the_proxy(Leg::Pod, &key(1));
        let live = HashSet::from([socket]);
        for _ in 0..5 {
            assert!(uses.look(&live).is_empty(), "the kernel is still ending it");
        }
        assert!(uses.is_waiting());
        assert!(uses.look(&none).is_empty(), "one look may miss a socket");
        assert!(uses.look(&live).is_empty(), "as this one did");
        assert!(uses.look(&none).is_empty());
        assert_eq!(uses.slots(), BTreeSet::from([7]));
        assert_eq!(uses.look(&none), [(Leg::Pod, key(1))]);
        assert!(uses.slots().is_empty() && !uses.is_waiting());
    }

    #[test]
    fn the_two_legs_have_opposite_sockets() {
        let mut uses = Uses::default();
        for leg in [Leg::Client, Leg::Pod] {
            uses.adopt(leg, key(1), 0);
        }
        let client = HashSet::from([key(1)]);
        assert!(uses.look(&client).is_empty());
        assert_eq!(
            uses.look(&client),
            [(Leg::Pod, key(1))],
            "the client's socket keeps the client's entry alone"
        );
    }

    #[test]
    fn a_late_end_of_an_old_connection_does_not_touch_the_new_one() {
        let mut uses = Uses::default();
        let none = HashSet::new();
        uses.begin(Leg::Client, key(1), 0);
        uses.begin(Leg::Client, key(1), 0);
        uses.end(Leg::Client, key(1));
        for _ in 0..5 {
            assert!(uses.look(&none).is_empty(), "one user is left");
        }
        uses.end(Leg::Client, key(2));
        uses.end(Leg::Client, key(1));
        assert!(uses.look(&none).is_empty());
        assert_eq!(uses.look(&none).len(), 1);
    }

    #[test]
    fn room_is_made_by_what_nobody_uses() {
        let mut uses = Uses::default();
        uses.begin(Leg::Client, key(1), 0);
        uses.begin(Leg::Pod, key(2), 0);
        uses.end(Leg::Pod, key(2));
        assert_eq!(uses.sacrifice(Leg::Client), None, "it is in use");
        assert_eq!(uses.sacrifice(Leg::Pod), Some(key(2)));
        assert_eq!(uses.sacrifice(Leg::Pod), None, "there is no other");
    }
}
