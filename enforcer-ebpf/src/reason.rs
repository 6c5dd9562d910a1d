//! Why the kernel let a packet through, refused or steered it: one closed enum, one counter each.

macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal; )+) => {
        /// Why a packet met its verdict. The number is the index of the per-CPU counter, the name is
        /// the word used in events, metrics and the CLI.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason { $( $(#[doc = $doc])+ $variant = $number, )+ }

        impl Reason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )+ ];
            /// The word for the reason.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name, )+ }
            }
            /// What the reason means, for people.
            pub const fn meaning(self) -> &'static str {
                match self { $( Self::$variant => concat!($($doc),+), )+ }
            }
            /// The reason with that number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $( $number => Some(Self::$variant), )+ _ => None }
            }
        }
    };
}

reasons! {
    /// The table's cell allowed it; the event's record names the rule.
    Allowed = 0, "allowed";
    /// The table's cell denied it; the event's record names the rule or says that no ALLOW matched.
    Denied = 1, "denied";
    /// The table's cell asks userspace: steered to the proxy.
    Steered = 2, "steered";
    /// Belongs to a connection that the pod opened.
    Outbound = 3, "outbound";
    /// The pod opens a connection.
    OutboundOpened = 4, "outbound_opened";
    /// Belongs to a flow that began through the proxy.
    Proxied = 5, "proxied";
    /// The proxy's own leg towards the pod.
    Upstream = 6, "upstream";
    /// A bare reset: it ends a connection and carries nothing.
    BareReset = 7, "bare_reset";
    /// From the node itself to a port that a probe declares.
    HostProbe = 8, "host_probe";
    /// Neither TCP nor an error about it, and `--non-tcp=pass`.
    NonTcp = 9, "non_tcp";
    /// The interface is not a policed pod's.
    NotEnrolled = 10, "not_enrolled";
    /// Neighbour discovery, multicast or another packet that keeps the link working.
    LinkControl = 11, "link_control";
    /// Within the pods' ranges, but no pod is known to hold the address.
    UnknownIdentity = 12, "unknown_identity";
    /// A local pod's address from an interface that is not the pod's.
    SpoofedLocalSource = 13, "spoofed_local_source";
    /// The pod sent from an address that is not its own.
    SpoofedPodSource = 14, "spoofed_pod_source";
    /// To an address that is not the pod's.
    ForeignDestination = 15, "foreign_destination";
    /// From the proxy's interface, but no flow of the proxy is known for it.
    ForeignProxyPacket = 16, "foreign_proxy_packet";
    /// An opening segment for a connection that is alive.
    SynOnLiveFlow = 17, "syn_on_live_flow";
    /// The pod has opened as many connections as its quota allows.
    OutboundQuota = 18, "outbound_quota";
    /// The flow must be judged in userspace, but no proxy answers.
    RedirectUnavailable = 19, "redirect_unavailable";
    /// Headers that end early, lengths that do not fit, or an IPv4-mapped IPv6 address.
    Malformed = 20, "malformed";
    /// SYN together with FIN or RST, or no flag at all.
    BadFlags = 21, "bad_flags";
    /// More IPv6 extension headers than are walked, or one that may not stand there.
    BadExtension = 22, "bad_extension";
    /// A first fragment too short to hold the TCP header, or a later one that overlaps it.
    BadFragment = 23, "bad_fragment";
    /// A later fragment whose first one was not seen.
    UnknownFragment = 24, "unknown_fragment";
    /// Refused by verdict, let through by `--mode=audit`.
    AuditWouldDeny = 25, "audit_would_deny";
    /// Needs userspace, let through by `--mode=audit`.
    AuditWouldAsk = 26, "audit_would_ask";
    /// Refused by verdict, let through while the pod is paused.
    Paused = 27, "paused";
    /// No table is active yet.
    NoTable = 28, "no_table";
    /// Events that were not sent because the ring was full or the budget used up.
    EventDropped = 29, "event_dropped";
    /// An answer of the pod to a connection that policy no longer allows.
    ReplyRefused = 30, "reply_refused";
    /// From this node's address through a bridge: who sent it was lost to masquerading, so it was
    /// judged without identity. Counted beside the verdict's own reason.
    MasqueradedSource = 31, "masqueraded_source";
    /// The shadow table would have given another verdict to an opening segment. Counted beside the
    /// verdict's own reason.
    ShadowDisagrees = 32, "shadow_disagrees";
    /// The address of another node's pod, through an interface that `--trusted-uplink` does not name.
    UntrustedPath = 33, "untrusted_path";
    /// The node's question whether the hook is on the pod's path; it goes no further.
    SelfTest = 34, "self_test";
    /// An ICMP error about a flow that is neither known nor allowed, or about none at all.
    ForeignError = 35, "foreign_error";
    /// A datagram whose verdict needs userspace, which judges TCP only: refused.
    DatagramNeedsProxy = 36, "datagram_needs_proxy";
    /// A reset that was not sent because too many were: the packet was dropped. Counted beside the
    /// verdict's own reason.
    ResetLimited = 37, "reset_limited";
    /// To an interface that looks like a pod's, of which no pod is known yet: `--unknown-pod=deny`.
    UnknownPod = 38, "unknown_pod";
}

/// Size of the per-CPU counter array.
pub const REASONS_MAX: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;

    #[test]
    fn numbers_are_dense_and_names_unique() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i, "{} is out of order", reason.name());
            assert_eq!(Reason::from_number(*reason as u8), Some(*reason));
        }
        let names: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len(), "two reasons share a name");
        assert!(Reason::ALL.len() <= REASONS_MAX as usize);
    }
}
