//! What the proxy tells the kernel: its own legs towards pods (UPSTREAM), the end of flows that
//! began through it (PROXY), and the socket that accepts them (LISTENERS).

use std::{
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::maps::{HashMap, Map, MapData, MapError, SockMap};
use enforcer_ebpf::flow::{FlowKey, ProxyValue};

use crate::{
    flows::{seconds_since_boot, words_of},
    plain::Plain,
};

/// The proxy's maps.
pub struct ProxyFlows {
    maps: Mutex<Maps>,
}

struct Maps {
    upstream: HashMap<MapData, Plain<FlowKey>, Plain<ProxyValue>>,
    proxied: HashMap<MapData, Plain<FlowKey>, Plain<ProxyValue>>,
    listeners: SockMap<MapData>,
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

impl ProxyFlows {
    pub fn new(upstream: Map, proxied: Map, listeners: Map) -> Result<Self, ProxyFlowsError> {
        Ok(Self {
            maps: Mutex::new(Maps {
                upstream: upstream.try_into().map_err(failed("open UPSTREAM"))?,
                proxied: proxied.try_into().map_err(failed("open PROXY"))?,
                listeners: listeners.try_into().map_err(failed("open LISTENERS"))?,
            }),
        })
    }

    /// Makes a listening, transparent socket of the proxy's namespace the one that accepts.
    pub fn listen(&self, socket: &impl AsRawFd) -> Result<(), ProxyFlowsError> {
        self.maps()
            .listeners
            .set(0, socket, 0)
            .map_err(failed("hand over the listener"))
    }

    /// A leg to a pod is about to be opened: `remote` is the address it is bound to.
    pub fn upstream_opens(&self, key: FlowKey, slot: u32) -> Result<(), ProxyFlowsError> {
        let value = ProxyValue {
            slot,
            made_seconds: seconds_since_boot().unwrap_or_default(),
        };
        self.maps()
            .upstream
            .insert(Plain(key), Plain(value), 0)
            .map_err(failed("announce a leg to a pod"))
    }

    /// A leg to a pod is over.
    pub fn upstream_closed(&self, key: FlowKey) -> Result<(), ProxyFlowsError> {
        forget(&mut self.maps().upstream, key)
    }

    /// A client's flow that began through the proxy is over.
    pub fn proxied_closed(&self, key: FlowKey) -> Result<(), ProxyFlowsError> {
        forget(&mut self.maps().proxied, key)
    }

    /// Flows that a proxy which is no more has left: its sockets died with it.
    pub fn forget_all(&self) -> Result<usize, ProxyFlowsError> {
        let mut maps = self.maps();
        let maps = &mut *maps;
        let mut forgotten = 0;
        for map in [&mut maps.upstream, &mut maps.proxied] {
            let keys: Vec<FlowKey> = map.keys().flatten().map(|Plain(key)| key).collect();
            for key in keys {
                forget(map, key)?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forget(
    map: &mut HashMap<MapData, Plain<FlowKey>, Plain<ProxyValue>>,
    key: FlowKey,
) -> Result<(), ProxyFlowsError> {
    match map.remove(&Plain(key)) {
        Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
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
