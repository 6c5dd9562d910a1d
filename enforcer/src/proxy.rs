//! The transparent proxy: accepts the connections that the kernel could not judge alone, judges each
//! request (or the connection, where no HTTP is spoken), and carries what is allowed to the pod from
//! the client's own address.
//!
//! Read in the order in which data flows: `listener` (accept, limits), `sniff` (what is spoken), then
//! `tcp`, or `guarded` with `framing` (what the library may read), `head` (what may be judged), `http`
//! with `session` (requests being carried) and `body`; `way` and `upstream` are the leg to the pod,
//! `rules` what judges, `authorizer` what others are asked, `refusal` and `stats` what is counted.
//! It knows nothing of maps, bundles or Kubernetes: those are behind [`Judge`], [`Flows`],
//! [`Authorizers`] and [`Reporter`].
//!
//! What a pod is sent is what its client has sent, from the client's own address, with these
//! exceptions. The target is normalised as the mesh says. What RequestAuthentication or an authorizer
//! order is added and taken away. What concerns one hop only (RFC 9110, 7.6.1) goes, and the message is
//! framed anew; trailers that would frame, route or authenticate go. `x-request-id` and
//! `x-forwarded-proto` are added where they are absent, as Istio's sidecar adds them before rules are
//! asked. CONNECT is answered 405: nobody could judge what is said in its tunnel; of upgrades only
//! WebSocket is carried.

mod authorizer;
mod body;
mod conn;
mod framing;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod guarded;
mod head;
mod http;
mod listener;
mod prefixed;
mod refusal;
mod refuser;
pub mod rules;
mod session;
mod sniff;
pub mod stats;
mod taking;
mod tcp;
mod upstream;
mod way;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use policyc::{
    ir::RuleRef,
    l7::{CompiledResidual, Engine},
    request::{Cause, Expected},
};
use tokio::sync::watch;

pub use authorizer::{Ask, AskHttp, Authorizers, Changes, Checked, Denial, Pending, may_change};
pub use listener::{Proxy, start};
pub use refusal::{Refusal, Why};
pub use stats::Stats;

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
    /// How long a request's head may take, from its first byte.
    pub head_timeout: Duration,
    /// How long the client may neither send a byte of a body that it owes nor take one of an answer; of
    /// an HTTP/2 stream, take the next 16 KiB of an answer.
    pub body_timeout: Duration,
    pub connect_timeout: Duration,
    /// How long a tunnel may carry nothing, a connection may wait for the next request, and a pod may
    /// take to begin its answer or take nothing of a request.
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
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(300),
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

    /// Who asks authorizers; without one, none is reached, which is its failure.
    fn authorizers(&self) -> Option<Arc<dyn Authorizers>> {
        None
    }

    /// `spiffe://...` of whoever holds an address, where that is known.
    fn principal(&self, _address: std::net::IpAddr) -> Option<String> {
        None
    }
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

/// Told of each verdict, and of each request and connection once it is over.
pub trait Reporter: Send + Sync + 'static {
    fn verdict(&self, event: &Event<'_>);

    /// Whether anybody wants to hear of verdicts now.
    fn wants_verdicts(&self) -> bool {
        true
    }

    fn access(&self, _access: &Access<'_>) {}

    /// Whether anybody wants to hear of accesses now.
    fn wants_accesses(&self) -> bool {
        false
    }
}

/// A verdict of the proxy.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub epoch: u32,
    pub verdict: Expected,
    pub why: Why,
    pub policy: Option<&'a str>,
    pub rule: Option<RuleRef>,
    pub audit: &'a [RuleRef],
    pub dry_run_allow: &'a [RuleRef],
    pub dry_run_deny: &'a [RuleRef],
    pub spoken: Spoken<'a>,
}

/// A request, or a connection without requests, from its beginning to its end.
#[derive(Clone, Debug)]
pub struct Access<'a> {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// `None`: refused before any table was asked.
    pub epoch: Option<u32>,
    /// Allow where it was carried to its end.
    pub verdict: Expected,
    pub why: Option<Why>,
    pub policy: Option<&'a str>,
    pub rule: Option<RuleRef>,
    /// A change of policy has ended it.
    pub broken_off: bool,
    pub spoken: Spoken<'a>,
    pub request_id: Option<&'a str>,
    pub status: Option<u16>,
    /// Bytes of the body, or of the connection, from the client.
    pub received: u64,
    /// The same to the client.
    pub sent: u64,
    pub time: Duration,
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
