//! Why the proxy itself refuses or breaks off what policies would allow.

use policyc::request::Cause;

/// Why the proxy refuses, apart from policies. The names are those of counters and of `monitor`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(usize)]
pub enum Refusal {
    /// As many connections are open as the proxy serves.
    OverLimit,
    /// As many connections of this source are open as one source may have.
    SourceOverLimit,
    /// The process may open no further file.
    OutOfDescriptors,
    /// No table is active.
    NoTable,
    /// Two servers might read the request in two ways, or it asks for what is not carried.
    AmbiguousRequest,
    /// The head of a request did not come in time.
    HeadTimeout,
    /// The client neither sent nor took a byte of a body in time.
    BodyTimeout,
    /// The body is larger than what an authorizer may be shown.
    BodyTooLarge,
    /// The pod does not accept the connection.
    UpstreamRefused,
    /// The pod neither accepts nor refuses, or does not answer in time.
    UpstreamTimeout,
    /// The pod broke off.
    UpstreamFailed,
    /// The kernel's memory of the proxy's flows, or the client's own ports, are used up.
    UpstreamUnavailable,
}

impl Refusal {
    pub const ALL: [Self; 12] = [
        Self::OverLimit,
        Self::SourceOverLimit,
        Self::OutOfDescriptors,
        Self::NoTable,
        Self::AmbiguousRequest,
        Self::HeadTimeout,
        Self::BodyTimeout,
        Self::BodyTooLarge,
        Self::UpstreamRefused,
        Self::UpstreamTimeout,
        Self::UpstreamFailed,
        Self::UpstreamUnavailable,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::OverLimit => "proxy_over_limit",
            Self::SourceOverLimit => "proxy_source_over_limit",
            Self::OutOfDescriptors => "proxy_out_of_descriptors",
            Self::NoTable => "proxy_no_table",
            Self::AmbiguousRequest => "ambiguous_request",
            Self::HeadTimeout => "head_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::UpstreamRefused => "upstream_refused",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamFailed => "upstream_failed",
            Self::UpstreamUnavailable => "upstream_unavailable",
        }
    }
}

/// Why something was allowed, refused or broken off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Policies said so.
    Policy(Cause),
    /// The proxy could not do it.
    Proxy(Refusal),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_place_and_its_name() {
        for (place, refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*refusal as usize, place, "{}", refusal.name());
        }
        let mut names: Vec<_> = Refusal::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Refusal::ALL.len());
    }
}
