//! One verdict as one line: JSON that has at least the fields of a request to `policyc eval`, or
//! text for a terminal.

use std::{fmt, net::IpAddr};

use enforcer_ebpf::{
    reason::Reason,
    words::{self, Cell},
};
use policyc::lower::cell::Decided;
use policyc::request::{Cause, DryRunHit, Hit, Layer};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A verdict with its cause.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VerdictLine {
    /// Unique among the lines of one agent.
    pub id: String,
    /// RFC 3339, UTC.
    pub time: String,
    pub src: Peer,
    /// What the source's certificate would say, `<trust domain>/ns/<namespace>/sa/<account>`; `None`
    /// for an address that no pod holds.
    #[serde(default)]
    pub src_principal: Option<String>,
    pub src_ip: IpAddr,
    pub src_port: u16,
    /// An address where no pod is known to hold it: a request names its destination by text.
    #[serde(with = "by_text")]
    pub dst: Peer,
    pub dst_ip: IpAddr,
    pub port: u16,
    /// `tcp`, `http`, `tls`, or the name or number of another IP protocol.
    pub protocol: String,
    pub verdict: Verdict,
    pub layer: Layer,
    /// The policies' cause where they decided, else the datapath's reason.
    pub reason: String,
    /// The datapath's reason.
    pub datapath: String,
    /// `namespace/name`
    pub policy: Option<String>,
    /// Counted from 0.
    pub rule: Option<u32>,
    pub audit: Vec<Hit>,
    pub dry_run: Vec<DryRunHit>,
    /// `to_pod`, `from_pod`, `from_l7` or `proxy`.
    pub hook: String,
    /// Activation that judged.
    pub epoch: u32,
    /// Generation of its bundle.
    pub generation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<policyc::request::Http>,
    /// Where the shadow generation disagrees: what it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ShadowVerdict>,
    /// TLS server name, where one was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
}

/// A peer as text: `namespace/name`, or an address.
mod by_text {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Peer;

    pub fn serialize<S: Serializer>(peer: &Peer, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(peer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Peer, D::Error> {
        let text = String::deserialize(from)?;
        Ok(match text.parse() {
            Ok(ip) => Peer::Ip { ip },
            Err(_) => Peer::Pod(text),
        })
    }
}

/// What the shadow generation says of what the active one has decided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShadowVerdict {
    pub verdict: Verdict,
    /// `None` where userspace would decide.
    pub reason: Option<String>,
    /// `namespace/name`
    pub policy: Option<String>,
    pub rule: Option<u32>,
    pub epoch: u32,
    pub generation: u64,
}

/// A pod as `namespace/name`, or an address that no pod holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Peer {
    Pod(String),
    Ip { ip: IpAddr },
}

/// What became of a packet or a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allow,
    Deny,
    /// Steered to the proxy, which will say.
    Ask,
}

impl Verdict {
    /// What a reason means for the packet.
    pub fn of(reason: Reason) -> Self {
        match reason {
            Reason::Steered => Self::Ask,
            Reason::Allowed
            | Reason::Outbound
            | Reason::OutboundOpened
            | Reason::Proxied
            | Reason::Upstream
            | Reason::BareReset
            | Reason::HostProbe
            | Reason::NonTcp
            | Reason::NotEnrolled
            | Reason::LinkControl
            | Reason::AuditWouldDeny
            | Reason::AuditWouldAsk
            | Reason::MasqueradedSource
            | Reason::Paused => Self::Allow,
            _ => Self::Deny,
        }
    }
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Ask => "ask",
        }
    }
}

/// What a cell says.
pub fn of_cell(cell: Cell) -> Verdict {
    match cell.verdict() {
        words::Verdict::Allow => Verdict::Allow,
        words::Verdict::Deny => Verdict::Deny,
        words::Verdict::Ask => Verdict::Ask,
    }
}

/// What a record says.
pub fn of_decided(decided: Decided) -> Verdict {
    match decided {
        Decided::Allow => Verdict::Allow,
        Decided::Deny => Verdict::Deny,
        Decided::Ask => Verdict::Ask,
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => f.write_str(name),
            Self::Ip { ip } => write!(f, "{ip}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// For a terminal: `12:34:56.789 deny  default/frontend -> default/backend:80 tcp  deny_rule default/deny-all[0]`
impl fmt::Display for VerdictLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.time.get(11..23).unwrap_or(&self.time);
        write!(
            f,
            "{time} {:5} {} -> {}:{} {}",
            self.verdict, self.src, self.dst, self.port, self.protocol
        )?;
        if let Some(http) = &self.http {
            write!(f, " {} {}", http.method, http.path)?;
        }
        write!(f, "  {}", self.reason)?;
        if self.reason != self.datapath {
            write!(f, " ({})", self.datapath)?;
        }
        if let Some(policy) = &self.policy {
            write!(f, " by {policy}")?;
            if let Some(rule) = self.rule {
                write!(f, "[{rule}]")?;
            }
        }
        if let Some(shadow) = &self.shadow {
            write!(f, " shadow:{}", shadow.verdict.word())?;
            if let Some(reason) = &shadow.reason {
                write!(f, " {reason}")?;
            }
            if let (Some(policy), Some(rule)) = (&shadow.policy, shadow.rule) {
                write!(f, " by {policy}[{rule}]")?;
            }
        }
        for hit in &self.audit {
            write!(f, " audit:{}[{}]", hit.policy, hit.rule)?;
        }
        for hit in &self.dry_run {
            write!(f, " dry-run {}:{}[{}]", hit.action, hit.policy, hit.rule)?;
        }
        Ok(())
    }
}

/// The word for a reason's number.
pub fn reason_name(number: u8) -> String {
    Reason::from_number(number).map_or_else(|| format!("reason_{number}"), |r| r.name().into())
}

/// The word for a cause, as `policyc eval` writes it.
pub fn cause_name(cause: &Cause) -> String {
    match serde_json::to_value(cause) {
        Ok(serde_json::Value::String(name)) => name,
        _ => format!("{cause:?}"),
    }
}

/// The word for a hook's number.
pub fn hook_name(number: u8) -> &'static str {
    match number {
        0 => "to_pod",
        1 => "from_pod",
        2 => "from_l7",
        _ => "proxy",
    }
}

/// The word for an IP protocol.
pub fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        58 => "icmpv6".into(),
        132 => "sctp".into(),
        other => other.to_string(),
    }
}

/// When the node was booted: nanoseconds since 1970.
pub fn boot_time_ns() -> i128 {
    let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let since_boot = i128::from(since_boot.tv_sec) * 1_000_000_000 + i128::from(since_boot.tv_nsec);
    OffsetDateTime::now_utc().unix_timestamp_nanos() - since_boot
}

/// Now, as [`rfc3339`] writes it.
pub fn now() -> String {
    rfc3339(OffsetDateTime::now_utc().unix_timestamp_nanos())
}

/// A point in time, given in nanoseconds since 1970.
pub fn rfc3339(nanoseconds: i128) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// What [`rfc3339`] has written, in nanoseconds since 1970.
pub fn nanoseconds(rfc3339: &str) -> Option<i128> {
    let time = OffsetDateTime::parse(rfc3339, &Rfc3339).ok()?;
    Some(time.unix_timestamp_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_verdict_and_only_steering_asks() {
        let asks: Vec<_> = Reason::ALL
            .iter()
            .filter(|reason| Verdict::of(**reason) == Verdict::Ask)
            .collect();
        assert_eq!(asks, [&Reason::Steered]);
        for refused in [
            Reason::Denied,
            Reason::UnknownIdentity,
            Reason::RedirectUnavailable,
            Reason::NoTable,
            Reason::ReplyRefused,
            Reason::OutboundQuota,
        ] {
            assert_eq!(Verdict::of(refused), Verdict::Deny, "{}", refused.name());
        }
        assert_eq!(Verdict::of(Reason::Allowed), Verdict::Allow);
    }

    fn line() -> VerdictLine {
        VerdictLine {
            id: "1-1".into(),
            time: "2026-01-01T00:00:00Z".into(),
            src: Peer::Pod("web/frontend-1".into()),
            src_principal: Some("cluster.local/ns/web/sa/frontend".into()),
            src_ip: [10, 0, 0, 1].into(),
            src_port: 40_000,
            dst: Peer::Pod("web/backend-1".into()),
            dst_ip: [10, 0, 0, 2].into(),
            port: 80,
            protocol: "tcp".into(),
            verdict: Verdict::Deny,
            layer: Layer::L4,
            reason: "deny_rule".into(),
            datapath: "denied".into(),
            policy: Some("web/deny-all".into()),
            rule: Some(0),
            audit: Vec::new(),
            dry_run: Vec::new(),
            hook: "to_pod".into(),
            epoch: 1,
            generation: 0,
            http: None,
            sni: None,
            shadow: None,
        }
    }

    /// Every line is a request to `policyc eval` and more, and is read back as it was.
    #[test]
    fn a_line_is_a_request_and_more() {
        use policyc::replay::flow::{self, Line, Skipped};
        let read = |line: &VerdictLine| {
            let json = serde_json::to_vec(line).expect("a line is JSON");
            let back: VerdictLine = serde_json::from_slice(&json).expect("as it was written");
            assert_eq!((&back.src, &back.dst), (&line.src, &line.dst));
            match flow::parse(&json) {
                Ok(Line::Flow(flow)) => *flow,
                other => panic!("a flow: {other:?}"),
            }
        };
        let http = policyc::request::Http {
            method: "GET".into(),
            path: "/a?b".into(),
            host: Some("x".into()),
            ..Default::default()
        };
        let request = VerdictLine {
            protocol: "http".into(),
            http: Some(http.clone()),
            layer: Layer::L7,
            ..line()
        };
        assert_eq!(read(&request).request.http, Some(http));
        let tls = VerdictLine {
            protocol: "tls".into(),
            sni: Some("x.example".into()),
            ..line()
        };
        assert_eq!(read(&tls).request.sni.as_deref(), Some("x.example"));
        let ip: IpAddr = [192, 0, 2, 1].into();
        let outside = read(&VerdictLine {
            src: Peer::Ip { ip },
            src_ip: ip,
            ..line()
        });
        assert!(matches!(
            outside.request.src,
            policyc::request::SourceRef::Ip(_)
        ));
        // To an address that nobody holds, or not over TCP: a line all the same.
        let nobody = read(&VerdictLine {
            dst: Peer::Ip { ip },
            ..line()
        });
        assert_eq!(nobody.seen, flow::Seen::Other(Skipped::NoPod));
        for number in 0..=255 {
            let seen = read(&VerdictLine {
                protocol: protocol(number),
                ..line()
            })
            .seen;
            let not_tcp = seen == flow::Seen::Other(Skipped::NotTcp);
            assert_eq!(not_tcp, number != 6, "protocol {number}");
        }
    }

    #[test]
    fn causes_are_named_as_eval_names_them() {
        assert_eq!(cause_name(&Cause::NoAllowMatched), "no_allow_matched");
    }
}
