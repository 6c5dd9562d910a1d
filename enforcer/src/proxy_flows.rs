//! What the proxy tells the kernel: its own legs towards pods (UPSTREAM), the flows that began
//! through it (PROXY), and the socket that accepts them (LISTENERS); and what it asks: who a client
//! is whose address does not tell (MASQUERADED).
//!
//! A connection ends later than its file descriptor: the kernel goes on sending and acknowledging
//! for it, and each of these segments needs the entry. So what the proxy lets go of stays in the maps
//! until its socket is gone, which a thread in the proxy's namespace finds out.

mod uses;

use std::{
    collections::{BTreeSet, HashSet},
    io,
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use aya::maps::{HashMap, Map, MapData, MapError, SockMap};
use enforcer_ebpf::flow::{FlowKey, MADE_BY_NOBODY, MADE_BY_NODE, ProxyValue};

pub use uses::Leg;
use uses::Uses;

use crate::{
    flows::{SocketsError, live_connections, seconds_since_boot, words_of},
    plain::Plain,
    proxy::Maker,
};

/// Least time between two looks at the sockets.
const PAUSE: Duration = Duration::from_millis(200);
/// Of the time that passes, looking takes a tenth at most.
const PAUSES_PER_LOOK: u32 = 10;

type Entries = HashMap<MapData, Plain<FlowKey>, Plain<ProxyValue>>;

/// The proxy's maps.
pub struct ProxyFlows {
    maps: Arc<Mutex<Maps>>,
    /// Told when something has ended.
    ended: SyncSender<()>,
    /// Until a thread waits for it.
    endings: Mutex<Option<Receiver<()>>>,
}

struct Maps {
    upstream: Entries,
    proxied: Entries,
    makers: HashMap<MapData, Plain<FlowKey>, u32>,
    listeners: SockMap<MapData>,
    uses: Uses,
}

/// What can go wrong with the proxy's maps.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}")]
pub struct ProxyFlowsError {
    operation: &'static str,
    #[source]
    source: Box<MapError>,
}

/// A connection to a pod, as the pod sees it.
pub fn key(pod: SocketAddr, remote: SocketAddr) -> FlowKey {
    FlowKey {
        pod: words_of(pod.ip().to_canonical()),
        remote: words_of(remote.ip().to_canonical()),
        pod_port: pod.port(),
        remote_port: remote.port(),
    }
}

/// Who began a flow, by what the kernel has noted about it.
pub fn maker(note: Option<u32>) -> Maker {
    match note {
        Some(MADE_BY_NODE) => Maker::Node,
        Some(MADE_BY_NOBODY) => Maker::Nobody,
        None => Maker::Unknown,
        Some(slot) => Maker::Pod(slot),
    }
}

impl ProxyFlows {
    pub fn new(
        upstream: Map,
        proxied: Map,
        makers: Map,
        listeners: Map,
    ) -> Result<Self, ProxyFlowsError> {
        let (ended, endings) = sync_channel(1);
        Ok(Self {
            maps: Arc::new(Mutex::new(Maps {
                upstream: upstream.try_into().map_err(failed("open UPSTREAM"))?,
                proxied: proxied.try_into().map_err(failed("open PROXY"))?,
                makers: makers.try_into().map_err(failed("open MASQUERADED"))?,
                listeners: listeners.try_into().map_err(failed("open LISTENERS"))?,
                uses: Uses::default(),
            })),
            ended,
            endings: Mutex::new(Some(endings)),
        })
    }

    /// Makes a listening, transparent socket of the proxy's namespace the one that accepts.
    pub fn listen(&self, socket: &impl AsRawFd) -> Result<(), ProxyFlowsError> {
        lock(&self.maps)
            .listeners
            .set(0, socket, 0)
            .map_err(failed("hand over the listener"))
    }

    /// A connection begins. To be called before a leg to a pod sends its first segment; its key then
    /// has the address that the leg is bound to.
    pub fn begins(&self, leg: Leg, key: FlowKey, slot: u32) -> Result<(), ProxyFlowsError> {
        let value = ProxyValue {
            slot,
            made_seconds: seconds_since_boot().unwrap_or_default(),
        };
        let maps = &mut *lock(&self.maps);
        maps.uses.begin(leg, key, slot);
        let mut made = maps.entries(leg).insert(Plain(key), Plain(value), 0);
        // The proxy's limit is far below the map's: what fills it are connections that the other side
        // does not end. They must not keep others out.
        if made.is_err()
            && let Some(other) = maps.uses.sacrifice(leg)
        {
            forget(maps.entries(leg), other)?;
            made = maps.entries(leg).insert(Plain(key), Plain(value), 0);
        }
        made.map_err(failed("announce a connection of the proxy"))
    }

    /// The proxy has let go of a connection. To be called once for each [`ProxyFlows::begins`].
    pub fn ends(&self, leg: Leg, key: FlowKey) {
        lock(&self.maps).uses.end(leg, key);
        self.tell();
    }

    /// Who began a client's flow under an address that does not tell. Can be asked once: the kernel
    /// has room for few, and the answer belongs to the connection that was accepted.
    pub fn take_maker(&self, key: FlowKey) -> Result<Maker, ProxyFlowsError> {
        let makers = &mut lock(&self.maps).makers;
        let note = match makers.get(&Plain(key), 0) {
            Ok(note) => note,
            Err(MapError::KeyNotFound) => return Ok(maker(None)),
            Err(error) => return Err(failed("ask who a client is")(error)),
        };
        removed(makers.remove(&Plain(key)))?;
        Ok(maker(Some(note)))
    }

    /// Slots of the pods that have connections through the proxy.
    pub fn slots(&self) -> BTreeSet<u32> {
        lock(&self.maps).uses.slots()
    }

    /// Takes over the entries that a proxy which is no more has left: its sockets are being ended by
    /// the kernel. To be called before anything begins. Returns how many there are.
    pub fn adopt(&self) -> Result<usize, ProxyFlowsError> {
        let maps = &mut *lock(&self.maps);
        let mut adopted = 0;
        for leg in [Leg::Client, Leg::Pod] {
            // What was not taken over would stay in the map for ever.
            let entries: Result<Vec<_>, _> = maps.entries(leg).iter().collect();
            let entries = entries.map_err(failed("read the flows of an earlier proxy"))?;
            adopted += entries.len();
            for (Plain(key), Plain(value)) in entries {
                maps.uses.adopt(leg, key, value.slot);
            }
        }
        self.tell();
        Ok(adopted)
    }

    /// Something has ended.
    fn tell(&self) {
        // Full: it is told already.
        let _told = self.ended.try_send(());
    }

    /// Starts the thread that forgets what has ended. `enter` takes it into the proxy's namespace. It
    /// ends with this value.
    pub fn forget_the_ended(
        &self,
        enter: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let endings = &self.endings;
        let endings = endings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let endings = endings.ok_or_else(|| io::Error::other("it runs already"))?;
        let maps = Arc::downgrade(&self.maps);
        let (entered, inside) = sync_channel(1);
        thread::Builder::new()
            .name("proxy-flows".into())
            .spawn(move || {
                let result = enter();
                let failed = result.is_err();
                if entered.send(result).is_err() || failed {
                    return;
                }
                while endings.recv().is_ok() {
                    forget_until_nothing_waits(&maps);
                }
            })?;
        inside.recv().map_err(io::Error::other)?
    }
}

impl Maps {
    fn entries(&mut self, leg: Leg) -> &mut Entries {
        match leg {
            Leg::Client => &mut self.proxied,
            Leg::Pod => &mut self.upstream,
        }
    }
}

fn forget_until_nothing_waits(maps: &Weak<Mutex<Maps>>) {
    let mut pause = PAUSE;
    loop {
        thread::sleep(pause);
        let start = Instant::now();
        let Some(maps) = maps.upgrade() else {
            return;
        };
        match look(&maps) {
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => tracing::warn!(
                error = crate::chain(&error),
                "flows of the proxy that have ended are not forgotten"
            ),
        }
        pause = PAUSE.max(start.elapsed() * PAUSES_PER_LOOK);
    }
}

/// Why the ended flows could not be forgotten.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Sockets(#[from] SocketsError),
    #[error(transparent)]
    Maps(#[from] ProxyFlowsError),
}

/// Forgets what has ended. Whether something is left to wait for.
fn look(maps: &Mutex<Maps>) -> Result<bool, LookError> {
    let live: HashSet<FlowKey> = live_connections()?.into_iter().collect();
    // INVARIANT: between the decision that an entry may go and its removal, nobody begins a
    // connection on its tuple: both need the lock.
    let maps = &mut *lock(maps);
    for (leg, key) in maps.uses.look(&live) {
        forget(maps.entries(leg), key)?;
    }
    Ok(maps.uses.is_waiting())
}

fn lock(maps: &Mutex<Maps>) -> MutexGuard<'_, Maps> {
    maps.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forget(entries: &mut Entries, key: FlowKey) -> Result<(), ProxyFlowsError> {
    removed(entries.remove(&Plain(key)))
}

/// What was not there is removed, too: the kernel forgets entries by itself.
fn removed(result: Result<(), MapError>) -> Result<(), ProxyFlowsError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        Err(error) => Err(failed("forget a flow")(error)),
    }
}

fn failed(operation: &'static str) -> impl FnOnce(MapError) -> ProxyFlowsError {
    move |source| ProxyFlowsError {
        operation,
        source: Box::new(source),
    }
}
