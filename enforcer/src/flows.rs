//! The connections that pods opened (map OUT): seeded when a pod is first guarded, and cleaned of
//! those whose sockets are gone.
//!
//! While the programs are attached only the pod's own opening segment makes an entry. Connections
//! that were there before are found once, in the pod's own socket table, when its interface is
//! first attached; later nothing is ever guessed from a socket.

pub mod datagrams;
pub mod denied;
mod sockets;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use aya::maps::{HashMap, MapData, MapError};
use enforcer_ebpf::{
    flow::{FlowKey, OUT_PER_POD_MAX, OutValue},
    words::LOCAL_PODS_MAX,
};

pub use sockets::{Socket, SocketsError, connections, live_connections, tcp_sockets};

use crate::{
    netns::{Netns, NetnsError},
    plain::Plain,
    table::Counts,
};

/// Entries younger than this may belong to a socket that is not in the tables yet.
const YOUNG: u32 = 5;
/// Entries of pods whose sockets cannot be asked about go after a day.
const UNKNOWN_OWNER_SECONDS_MAX: u32 = 24 * 3600;

/// A pod, as far as its connections are concerned.
#[derive(Debug)]
pub struct Owner<'a> {
    pub slot: u32,
    pub addresses: &'a [IpAddr],
    /// Its network namespace; `None` when it could not be found.
    pub netns: Option<&'a Netns>,
}

/// The map OUT, and how many entries each slot holds.
#[derive(Debug)]
pub struct OutFlows {
    entries: HashMap<MapData, Plain<FlowKey>, Plain<OutValue>>,
    count: Counts,
}

/// What can go wrong with OUT.
#[derive(Debug, thiserror::Error)]
pub enum FlowsError {
    #[error("cannot open the map of outbound connections")]
    Open {
        #[source]
        source: Box<MapError>,
    },
    #[error("cannot map the counts of outbound connections into memory")]
    Count {
        #[source]
        source: std::io::Error,
    },
    #[error("cannot {operation} an outbound connection")]
    Entry {
        operation: &'static str,
        #[source]
        source: Box<MapError>,
    },
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Sockets(#[from] SocketsError),
    #[error("cannot read the time since boot")]
    Clock,
}

impl OutFlows {
    pub fn new(out: aya::maps::Map, count: &MapData) -> Result<Self, FlowsError> {
        Ok(Self {
            entries: out.try_into().map_err(|source| FlowsError::Open {
                source: Box::new(source),
            })?,
            count: Counts::of(count, LOCAL_PODS_MAX)
                .map_err(|source| FlowsError::Count { source })?,
        })
    }

    /// Whether a pod has opened the connection.
    pub fn has(&self, key: &FlowKey) -> bool {
        // What cannot be looked up may be there.
        !matches!(
            self.entries.get(&Plain(*key), 0),
            Err(MapError::KeyNotFound)
        )
    }

    /// Entries of a slot.
    pub fn count(&self, slot: u32) -> u64 {
        self.count.load(slot)
    }

    /// Remembers the connections that a pod has open and seems to have opened itself. To be called
    /// once, when its interface has just been attached for the first time and while nothing of the
    /// pod's is refused yet. Returns how many.
    pub fn seed(&mut self, pod: &Owner<'_>) -> Result<usize, FlowsError> {
        let Some(netns) = pod.netns else {
            return Ok(0);
        };
        let (sockets, ephemeral) = netns.enter(|| (tcp_sockets(), sockets::ephemeral_ports()))?;
        let now = seconds_since_boot()?;
        let mut seeded = 0;
        for key in connections(&sockets?, &ephemeral)
            .into_iter()
            .filter(|key| pod.addresses.contains(&address_of(&key.pod)))
            .take(OUT_PER_POD_MAX as usize)
        {
            let value = OutValue {
                slot: pod.slot,
                made_seconds: now,
            };
            // Counted first: whatever breaks off in between, there are never more entries than are
            // counted. The kernel would count below nothing as they go, which is a full quota.
            self.count.add(pod.slot, 1);
            // BPF_NOEXIST: what the kernel has made meanwhile is counted already.
            let inserted = self.entries.insert(Plain(key), Plain(value), 1);
            match inserted {
                Ok(()) => seeded += 1,
                Err(error) => {
                    self.count.add(pod.slot, -1);
                    if !already_exists(&error) {
                        return Err(FlowsError::Entry {
                            operation: "remember",
                            source: Box::new(error),
                        });
                    }
                }
            }
        }
        Ok(seeded)
    }

    /// Forgets the connections whose sockets are gone, and those of slots that no pod has any more;
    /// sets counts right that an agent which broke off has left wrong. A pod that cannot be asked
    /// about keeps its entries. Returns how many were forgotten.
    pub fn clean(&mut self, pods: &[Owner<'_>]) -> Result<usize, FlowsError> {
        let now = seconds_since_boot()?;
        let counts = |count: &Counts| (0..LOCAL_PODS_MAX).map(|s| count.load(s)).collect();
        let before: Vec<u64> = counts(&self.count);
        let (by_slot, whole) = self.by_slot(now);
        if whole {
            let after: Vec<u64> = counts(&self.count);
            self.recount(&by_slot, &before, &after);
        }
        let mut forgotten = 0;
        for (slot, entries) in by_slot {
            let pod = pods.iter().find(|pod| pod.slot == slot);
            match self.clean_slot(slot, pod, &entries) {
                Ok(count) => forgotten += count,
                Err(error) => tracing::warn!(
                    error = crate::chain(&error),
                    slot,
                    "cannot clean the outbound connections of a pod"
                ),
            }
        }
        Ok(forgotten)
    }

    /// From which age on entries go of a pod that cannot be asked: after a day, and sooner where the
    /// oldest would take the places of new ones.
    fn surplus(&self, unknown: bool, entries: &[(FlowKey, u32)]) -> u32 {
        let most = OUT_PER_POD_MAX as usize / 4 * 3;
        if !unknown || entries.len() <= most {
            return UNKNOWN_OWNER_SECONDS_MAX;
        }
        let mut ages: Vec<u32> = entries.iter().map(|(_, age)| *age).collect();
        ages.sort_unstable();
        ages[most].clamp(YOUNG, UNKNOWN_OWNER_SECONDS_MAX)
    }

    /// The entries of each slot with their age, and whether that is all of them.
    fn by_slot(&self, now: u32) -> (BTreeMap<u32, Vec<(FlowKey, u32)>>, bool) {
        let mut by_slot: BTreeMap<u32, Vec<(FlowKey, u32)>> = BTreeMap::new();
        for entry in self.entries.iter() {
            // An entry that the kernel removes while we walk shows as an error; the next walk is soon.
            let Ok((Plain(key), Plain(value))) = entry else {
                return (by_slot, false);
            };
            let age = now.saturating_sub(value.made_seconds);
            by_slot.entry(value.slot).or_default().push((key, age));
        }
        (by_slot, true)
    }

    /// Where nothing was counted while the entries were walked, the count must be theirs.
    fn recount(&self, by_slot: &BTreeMap<u32, Vec<(FlowKey, u32)>>, before: &[u64], after: &[u64]) {
        for (slot, (before, after)) in (0u32..).zip(before.iter().zip(after)) {
            let there = by_slot.get(&slot).map_or(0, Vec::len) as u64;
            if before == after && *after != there {
                let wrong = there.wrapping_sub(*after).cast_signed();
                tracing::debug!(slot, wrong, "outbound connections were counted wrongly");
                self.count.add(slot, wrong);
            }
        }
    }

    fn clean_slot(
        &mut self,
        slot: u32,
        pod: Option<&Owner<'_>>,
        entries: &[(FlowKey, u32)],
    ) -> Result<usize, FlowsError> {
        let live: Option<BTreeSet<[u8; 36]>> = match pod.and_then(|pod| pod.netns) {
            Some(netns) => {
                let (forwards, sockets) = netns.enter(|| (forwards(), tcp_sockets()))?;
                let sockets = sockets?;
                let live = sockets.iter().filter(|s| s.is_live());
                let live = live.map(|s| order(&s.key)).collect();
                // What lives in a namespace behind the pod's has its sockets there.
                (!forwards).then_some(live)
            }
            None => None,
        };
        let oldest = self.surplus(live.is_none(), entries);
        let mut forgotten = 0;
        for (key, age) in entries {
            let keep = match (&live, pod) {
                (_, None) => false,
                (Some(live), _) => *age < YOUNG || live.contains(&order(key)),
                (None, Some(_)) => *age < oldest,
            };
            if keep {
                continue;
            }
            match self.entries.remove(&Plain(*key)) {
                Ok(()) => {
                    self.count.add(slot, -1);
                    forgotten += 1;
                }
                Err(MapError::KeyNotFound | MapError::ElementNotFound) => {}
                // The kernel was faster.
                Err(MapError::SyscallError(error))
                    if error.io_error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(FlowsError::Entry {
                        operation: "forget",
                        source: Box::new(source),
                    });
                }
            }
        }
        Ok(forgotten)
    }
}

/// Whether there may be namespaces behind the calling thread's, a pod's own containers for one: their
/// connections leave under its addresses, and their sockets are not in its tables. A namespace that
/// forwards, which every pod's may by the node's default, and has more than one way in.
pub fn forwards() -> bool {
    let on = |family| {
        std::fs::read_to_string(format!("/proc/sys/net/{family}/conf/all/forwarding"))
            .is_ok_and(|value| value.trim() != "0")
    };
    let devices = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    (on("ipv4") || on("ipv6")) && used(&devices) > 1
}

/// Devices of `/proc/net/dev`, loopback aside, that have carried packets: the kernel gives each
/// namespace some tunnels that nobody uses.
fn used(devices: &str) -> usize {
    let carried = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<&str> = counters.split_whitespace().collect();
        let packets = [counters.get(1)?, counters.get(9)?];
        (name.trim() != "lo" && packets.iter().any(|packets| **packets != "0")).then_some(())
    };
    devices.lines().filter_map(carried).count()
}

/// How often OUT is cleaned.
pub const CLEAN_EVERY: Duration = Duration::from_secs(10);

/// An address as the contract writes it: most significant word first, IPv4 as `::ffff:a.b.c.d`.
pub fn words_of(address: IpAddr) -> [u32; 4] {
    let v6 = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let o = v6.octets();
    [0, 4, 8, 12].map(|i| u32::from_be_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]))
}

/// The address behind the contract's words.
pub fn address_of(words: &[u32; 4]) -> IpAddr {
    let bits = words
        .iter()
        .fold(0u128, |bits, word| bits << 32 | u128::from(*word));
    Ipv6Addr::from_bits(bits).to_canonical()
}

fn order(key: &FlowKey) -> [u8; 36] {
    let mut bytes = [0; 36];
    for (i, word) in key.pod.iter().chain(&key.remote).enumerate() {
        bytes[i * 4..i * 4 + 4].copy_from_slice(&word.to_ne_bytes());
    }
    bytes[32..34].copy_from_slice(&key.pod_port.to_ne_bytes());
    bytes[34..].copy_from_slice(&key.remote_port.to_ne_bytes());
    bytes
}

/// The kernel's clock, as the flow maps write it.
pub fn seconds_since_boot() -> Result<u32, FlowsError> {
    // The kernel's bpf_ktime_get_boot_ns counts on the same clock.
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u32::try_from(now.tv_sec).map_err(|_| FlowsError::Clock)
}

fn already_exists(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error)
        if error.io_error.kind() == std::io::ErrorKind::AlreadyExists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_devices_that_have_carried_packets_count() {
        let devices = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0
 tunl0:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
  eth0:    1000      10    0    0    0     0          0         0        0       0    0    0    0     0       0          0
docker0:      0       0    0    0    0     0          0         0      500       5    0    0    0     0       0          0
";
        assert_eq!(used(devices), 2, "eth0 and docker0");
        assert_eq!(used(""), 0);
    }

    #[test]
    fn addresses_round_trip_in_both_families() {
        for text in ["10.1.2.3", "fd88::2", "::", "255.255.255.255"] {
            let address: IpAddr = text.parse().expect("the test's own address");
            assert_eq!(address_of(&words_of(address)), address, "{text}");
        }
        let v4 = words_of(IpAddr::from([10, 1, 2, 3]));
        assert_eq!(
            v4,
            [0, 0, 0xffff, 0x0a01_0203],
            "IPv4 is mapped, in host order"
        );
    }
}
