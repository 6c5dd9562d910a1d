//! One line of recorded traffic. A line of `enforcer monitor --format json` is a request with what
//! became of it; a plain request with `expect` is one, too.

use serde_json::{Map, Value};

use crate::request::{Cause, Expected, Layer, Request};

/// What a monitor's line has beyond a request.
const RECORDED: [&str; 16] = [
    "time",
    "src_principal",
    "shadow",
    "src_port",
    "dst_ip",
    "verdict",
    "layer",
    "reason",
    "datapath",
    "policy",
    "rule",
    "audit",
    "dry_run",
    "hook",
    "epoch",
    "generation",
];

/// A line, read.
#[derive(Clone, PartialEq, Debug)]
pub enum Line {
    Flow(Box<Flow>),
    /// So many verdicts were not told: a monitor was too slow, or they fell too fast.
    Lost(u64),
    /// What an operator has done: no flow.
    Notice,
}

/// A request with what became of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Flow {
    pub request: Request,
    pub seen: Seen,
}

/// What is known of a flow's verdict.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Policies gave the verdict.
    Verdict { verdict: Expected, said: Said },
    /// Nothing is said of a verdict.
    Nothing,
    /// No verdict of policies: why.
    Other(Skipped),
}

/// How much of what was said on the connection is in the request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Said {
    /// All of it.
    Everything,
    /// Method, target, host and server name; no headers and no token, which are secrets.
    Part,
    /// Nothing: the kernel decided before it was said.
    Nothing,
}

/// Why a line is no verdict of policies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Skipped {
    /// Steered to the proxy, which reports the verdict in a line of its own.
    Steered,
    /// Another reason than policies decided: spoofing, an unknown identity, no proxy.
    NotPolicy,
    /// Not TCP: policies say nothing about it.
    NotTcp,
    /// The destination is an address that no pod was known to hold.
    NoPod,
}

impl Skipped {
    /// The reason in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Steered => "steered to the proxy, whose own line has the verdict",
            Self::NotPolicy => "decided by something else than policies",
            Self::NotTcp => "not TCP",
            Self::NoPod => "to an address that no pod was known to hold",
        }
    }
}

/// Reads a line.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse(bytes: &[u8]) -> Result<Line, serde_json::Error> {
    let strict: serde_json::Error = match serde_json::from_slice::<Request>(bytes) {
        Ok(request) => return Ok(plain(request)),
        Err(why) => why,
    };
    let Ok(Value::Object(mut fields)) = serde_json::from_slice::<Value>(bytes) else {
        return Err(strict);
    };
    // Where a line was told of, in a stream of many nodes' lines.
    if fields.get("node").is_some_and(Value::is_string) {
        fields.remove("node");
    }
    let lost = fields.get("lost").or(fields.get("dropped"));
    if let (Some(lost), 1) = (lost.and_then(Value::as_u64), fields.len()) {
        return Ok(Line::Lost(lost));
    }
    if ["notice", "about", "time"]
        .iter()
        .all(|name| fields.contains_key(*name))
    {
        return Ok(Line::Notice);
    }
    // Only a monitor's line has both: fields of others that we do not know are errors.
    if !["hook", "datapath"]
        .iter()
        .all(|name| fields.contains_key(*name))
    {
        return Err(strict);
    }
    let recorded: Map<String, Value> = RECORDED
        .iter()
        .filter_map(|name| fields.remove_entry(*name))
        .collect();
    let other = other(&recorded, &mut fields);
    let request: Request = serde_json::from_value(Value::Object(fields))?;
    let seen = match other {
        Some(why) => Seen::Other(why),
        None => verdict(&recorded)?,
    };
    Ok(Line::Flow(Box::new(Flow { request, seen })))
}

fn plain(request: Request) -> Line {
    let seen = match request.expect {
        Some(verdict) => Seen::Verdict {
            verdict,
            said: Said::Everything,
        },
        None => Seen::Nothing,
    };
    Line::Flow(Box::new(Flow { request, seen }))
}

/// Why a recorded line is no verdict of policies. What makes it no request is put right, so that the
/// rest can be read.
fn other(recorded: &Map<String, Value>, fields: &mut Map<String, Value>) -> Option<Skipped> {
    let text = |name: &str| text(recorded, name);
    let protocol = fields.get("protocol").and_then(Value::as_str).unwrap_or("");
    let mut why = None;
    if !matches!(protocol, "tcp" | "http" | "tls") {
        fields.insert("protocol".into(), "tcp".into());
        why = Some(Skipped::NotTcp);
    }
    let to_pod = fields
        .get("dst")
        .and_then(Value::as_str)
        .is_some_and(|d| d.contains('/'));
    let policies = serde_json::from_value::<Cause>(text("reason").into()).is_ok();
    why.or(match (text("verdict"), text("datapath")) {
        ("ask", _) | (_, "audit_would_ask") => Some(Skipped::Steered),
        _ if !matches!(text("hook"), "to_pod" | "proxy") || !policies => Some(Skipped::NotPolicy),
        _ if !to_pod => Some(Skipped::NoPod),
        _ => None,
    })
}

/// The verdict by its cause: where verdicts are only reported, or the pod is paused, policies said no
/// though the packet passed.
fn verdict(recorded: &Map<String, Value>) -> Result<Seen, serde_json::Error> {
    let cause: Cause = serde_json::from_value(text(recorded, "reason").into())?;
    let layer: Layer = serde_json::from_value(text(recorded, "layer").into())?;
    Ok(Seen::Verdict {
        verdict: match cause {
            Cause::AllowRule | Cause::NoAllowPolicy => Expected::Allow,
            _ => Expected::Deny,
        },
        said: match layer {
            Layer::L4 => Said::Nothing,
            Layer::L7 => Said::Part,
        },
    })
}

fn text<'a>(recorded: &'a Map<String, Value>, name: &str) -> &'a str {
    recorded.get(name).and_then(Value::as_str).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(change: &dyn Fn(&mut Map<String, Value>)) -> Result<Line, String> {
        let mut value = serde_json::json!({
            "id": "1-1", "time": "2026-01-01T00:00:00Z", "src": "a/x", "src_ip": "10.0.0.1",
            "src_port": 40000, "dst": "a/y", "dst_ip": "10.0.0.2", "port": 80, "protocol": "tcp",
            "verdict": "deny", "layer": "l4", "reason": "no_allow_matched", "datapath": "denied",
            "policy": null, "rule": null, "audit": [], "dry_run": [], "hook": "to_pod", "epoch": 1,
            "generation": 0,
        });
        change(value.as_object_mut().expect("an object"));
        parse(value.to_string().as_bytes()).map_err(|e| e.to_string())
    }

    fn seen(change: &dyn Fn(&mut Map<String, Value>)) -> Seen {
        match line(change) {
            Ok(Line::Flow(flow)) => flow.seen,
            other => panic!("a flow: {other:?}"),
        }
    }

    #[test]
    fn a_line_says_whether_policies_decided_and_what() {
        let set = |name: &'static str, value: &'static str| {
            move |fields: &mut Map<String, Value>| {
                fields.insert(name.into(), value.into());
            }
        };
        let is = |verdict, said| Seen::Verdict { verdict, said };
        assert_eq!(seen(&|_| {}), is(Expected::Deny, Said::Nothing));
        assert_eq!(seen(&set("layer", "l7")), is(Expected::Deny, Said::Part));
        let audited = |fields: &mut Map<String, Value>| {
            set("datapath", "audit_would_deny")(fields);
            set("verdict", "allow")(fields);
        };
        assert_eq!(
            seen(&audited),
            is(Expected::Deny, Said::Nothing),
            "policies said no"
        );
        let allowed = |fields: &mut Map<String, Value>| {
            set("reason", "allow_rule")(fields);
            set("verdict", "allow")(fields);
        };
        assert_eq!(seen(&allowed), is(Expected::Allow, Said::Nothing));
        for (name, value, why) in [
            ("verdict", "ask", Skipped::Steered),
            ("reason", "spoofed_pod_source", Skipped::NotPolicy),
            ("hook", "from_pod", Skipped::NotPolicy),
            ("protocol", "udp", Skipped::NotTcp),
            ("dst", "10.0.0.2", Skipped::NoPod),
        ] {
            assert_eq!(seen(&set(name, value)), Seen::Other(why), "{name} {value}");
        }
    }

    #[test]
    fn other_lines_are_read_strictly() {
        let unknown = line(&|fields| {
            fields.insert("colour".into(), "red".into());
        });
        assert!(unknown.is_err_and(|why| why.contains("colour")));
        let not_recorded = line(&|fields| {
            fields.remove("hook");
        });
        assert!(not_recorded.is_err_and(|why| why.contains("unknown field")));
        assert_eq!(parse(br#"{"lost":7}"#).ok(), Some(Line::Lost(7)));
        assert_eq!(parse(br#"{"dropped":7}"#).ok(), Some(Line::Lost(7)));
        assert_eq!(
            parse(br#"{"node":"one","lost":7}"#).ok(),
            Some(Line::Lost(7))
        );
        let notice = br#"{"time":"2026-01-01T00:00:00Z","notice":"paused","about":"a/x"}"#;
        assert_eq!(parse(notice).ok(), Some(Line::Notice));
        let plain =
            br#"{"id":"a","src":"a/x","dst":"a/y","port":1,"protocol":"tcp","expect":"deny"}"#;
        assert!(matches!(
            parse(plain),
            Ok(Line::Flow(flow)) if matches!(flow.seen, Seen::Verdict { verdict: Expected::Deny, .. })
        ));
    }
}
