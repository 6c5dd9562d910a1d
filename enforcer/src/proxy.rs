//! The transparent proxy: accepts the connections that the kernel could not judge alone, judges each
//! request (or the connection, where no HTTP is spoken), and carries what is allowed to the pod from
//! the client's own address.
//!
//! Read in the order in which data flows: `listener` (accept, limits), `sniff` (what is spoken),
//! `http` with `head` and `answer`, or `tcp`; `upstream` is the leg to the pod, `rules` what judges.
//! It knows nothing of maps, bundles or Kubernetes: those are behind [`Judge`], [`Flows`] and
//! [`Reporter`].

mod conn;
mod head;
mod http;
mod listener;
mod prefixed;
pub mod rules;
mod sniff;
mod tcp;
mod upstream;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use policyc::{
    ir::RuleRef,
    l7::{CompiledResidual, Engine},
    request::{Cause, Expected},
};
use tokio::sync::watch;

pub use listener::{Proxy, Stats, start};

/// Limits and places. Every limit is there to be hit by somebody else's mistake, not by ordinary use.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    pub listen: SocketAddr,
    pub upstream: UpstreamTarget,
    /// Threads that serve connections.
    pub workers: usize,
    pub connections_max: usize,
    pub connections_per_source_max: usize,
    /// Bytes of a request's head, target included. At least 8 192.
    pub head_bytes_max: usize,
    pub headers_max: usize,
    /// Streams that one HTTP/2 connection may have open.
    pub streams_max: u32,
    /// How long a client may take to show what it speaks; then it is TCP, and the pod speaks first.
    pub sniff_timeout: Duration,
    /// How long a request's head may take, the wait between two requests included.
    pub head_timeout: Duration,
    pub connect_timeout: Duration,
    /// How long a tunnel may carry nothing.
    pub idle_timeout: Duration,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0u16; 8], 15006)),
            upstream: UpstreamTarget::Original,
            workers: 2,
            connections_max: 16_384,
            connections_per_source_max: 4_096,
            head_bytes_max: 64 << 10,
            headers_max: 100,
            streams_max: 256,
            sniff_timeout: Duration::from_secs(3),
            head_timeout: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(3_600),
        }
    }
}

/// Where allowed connections go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UpstreamTarget {
    /// To the address that the client meant, from the client's own address.
    Original,
    /// To a fixed address from any of ours: for tests and measurements without the datapath.
    Fixed(SocketAddr),
}

/// What judges. Asked anew for each request, so that a change of policy reaches the next one.
pub trait Judge: Send + Sync + 'static {
    /// What the active table says about a client and a pod's port. `None`: there is no table, and
    /// everything is refused.
    fn ruling(&self, flow: Flow, maker: Maker) -> Option<Ruling>;

    /// Changes whenever another table becomes active.
    fn changes(&self) -> watch::Receiver<u64>;

    /// `namespace/name` of a policy of the table with that epoch.
    fn policy_name(&self, epoch: u32, rule: RuleRef) -> Option<String>;
}

/// What a table says about one client and one port.
#[derive(Clone)]
pub struct Ruling {
    /// Activation of the table.
    pub epoch: u32,
    pub decision: Decision,
}

#[derive(Clone)]
pub enum Decision {
    /// Nothing more needs to be known.
    Settled {
        verdict: Expected,
        cause: Cause,
        rule: Option<RuleRef>,
    },
    /// It depends on what is spoken.
    Ask {
        engine: Arc<Engine>,
        residual: Arc<CompiledResidual>,
    },
}

/// A connection through the proxy, as the pod sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Flow {
    pub pod: SocketAddr,
    pub remote: SocketAddr,
}

/// Who began a client's connection, as the kernel has seen it. The client's address does not tell
/// where it is the node's: pods behind it are judged in their own name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Maker {
    /// The local pod in that slot.
    Pod(u32),
    /// The node itself.
    Node,
    /// Nobody of this node, under an address of the node's: a client that reached a NodePort, say.
    /// The kernel has judged it by that address.
    Nobody,
    /// The kernel says nothing: whoever holds the client's address.
    Unknown,
}

/// Keeps the kernel's memory of the proxy's connections.
pub trait Flows: Send + Sync + 'static {
    /// A client's connection is accepted. Says who began it.
    fn client_opened(&self, flow: Flow) -> Maker;
    /// Called before the proxy's leg to the pod sends its first segment; an error refuses it.
    fn upstream_opening(&self, flow: Flow) -> io::Result<()>;
    /// The leg to the pod is closed.
    fn upstream_closed(&self, flow: Flow);
    /// The client's leg is closed.
    fn client_closed(&self, flow: Flow);
}

/// Told of each verdict.
pub trait Reporter: Send + Sync + 'static {
    fn verdict(&self, event: &Event<'_>);
}

/// A verdict of the proxy.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub epoch: u32,
    pub verdict: Expected,
    pub cause: Cause,
    pub policy: Option<&'a str>,
    pub rule: Option<RuleRef>,
    pub audit: &'a [RuleRef],
    pub dry_run_allow: &'a [RuleRef],
    pub dry_run_deny: &'a [RuleRef],
    pub spoken: Spoken<'a>,
}

/// What was spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spoken<'a> {
    Http {
        method: &'a str,
        /// As the client sent it, query included.
        target: &'a str,
        host: Option<&'a str>,
    },
    Tls {
        sni: Option<&'a str>,
    },
    Tcp,
}

#[cfg(test)]
mod tests;
