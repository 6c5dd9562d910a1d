//! Single values of rules: addresses, ports, service accounts, trust domains, paths, keys.

use std::net::IpAddr;

use crate::{
    diagnostic::Code,
    read::node::{Node, Reader, nearest},
};

/// Says what is wrong with a value: the code, the message, the fix.
pub type Check = fn(&str) -> Option<Problem>;
type Problem = (Code, String, String);

const SERVICE_ACCOUNTS_MAX: usize = 16;
const SERVICE_ACCOUNT_BYTES_MAX: usize = 320;

/// Reports what is wrong with one value. No value may be empty, whatever the field.
pub fn check(reader: &mut Reader<'_>, node: &Node<'_>, text: &str, check: Check) {
    if text.is_empty() {
        return reader.error(
            Code::EmptyValue,
            node,
            format!("a value of `{}` is empty", node.name()),
            "write a value; `\"*\"` matches any that is present",
        );
    }
    if let Some((code, message, help)) = check(text) {
        reader.error(code, node, message, help);
    }
}

/// Any text will do.
pub fn any(_: &str) -> Option<Problem> {
    None
}

pub fn ip_block(text: &str) -> Option<Problem> {
    (!is_ip_block(text)).then(|| {
        (
            Code::BadIpBlock,
            format!("`{text}` is neither an IP address nor a CIDR block"),
            "write an address such as 10.1.2.3, or a block such as 10.1.0.0/16".into(),
        )
    })
}

/// An address, or an address, a slash and a prefix length without sign or leading zero. Istio lets
/// an IPv6 zone pass (`fe80::1%eth0`), and its proxy then refuses the whole configuration.
pub fn is_ip_block(text: &str) -> bool {
    match text.split_once('/') {
        None => text.parse::<IpAddr>().is_ok(),
        Some((address, length)) => {
            let bits = match address.parse::<IpAddr>() {
                Ok(IpAddr::V4(_)) => 32,
                Ok(IpAddr::V6(_)) => 128,
                Err(_) => return false,
            };
            let digits = length.bytes().all(|b| b.is_ascii_digit());
            let canonical = length == "0" || !length.starts_with('0');
            digits && canonical && length.parse::<u8>().is_ok_and(|length| length <= bits)
        }
    }
}

pub fn port(text: &str) -> Option<Problem> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse::<u32>().ok().filter(|n| digits && *n <= 65_535);
    number.is_none().then(|| {
        (
            Code::BadPort,
            format!("`{text}` is not a port"),
            "write one number from 0 to 65535; ranges and names are not possible".into(),
        )
    })
}

pub fn service_account(text: &str) -> Option<Problem> {
    let problem = |message: String| {
        let help = "write `namespace/name`, or `name` for the policy's own namespace";
        Some((Code::BadServiceAccount, message, help.into()))
    };
    let parts: Vec<&str> = text.split('/').collect();
    if text.len() > SERVICE_ACCOUNT_BYTES_MAX {
        return problem(format!(
            "a service account has more than {SERVICE_ACCOUNT_BYTES_MAX} bytes"
        ));
    }
    if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
        return problem(format!("`{text}` is not a service account"));
    }
    if text.contains('*') {
        return problem(format!("`{text}`: a service account has no wildcards"));
    }
    None
}

/// How many service accounts one list may have.
pub fn service_account_count(reader: &mut Reader<'_>, list: &Node<'_>) {
    if list.items().len() > SERVICE_ACCOUNTS_MAX {
        reader.error(
            Code::TooMany,
            list,
            format!(
                "`{}` has more than {SERVICE_ACCOUNTS_MAX} items",
                list.name()
            ),
            match list.name() {
                "values" | "notValues" => "write a second rule: rules are alternatives",
                _ => "write a second source: sources are alternatives",
            },
        );
    }
}

pub fn trust_domain(text: &str) -> Option<Problem> {
    let stars = text.matches('*').count();
    let inside = stars == 1 && !text.starts_with('*') && !text.ends_with('*');
    if text.contains('/') || stars > 1 || inside {
        return Some((
            Code::BadTrustDomain,
            format!("`{text}` is not a trust domain"),
            "write the domain alone, such as `cluster.local`, with at most one `*` at one end"
                .into(),
        ));
    }
    None
}

pub fn path(text: &str) -> Option<Problem> {
    path_problem(text).map(|reason| {
        (
            Code::BadPathTemplate,
            format!("`{text}` is not a path template: {reason}"),
            "a segment is `{*}`, or `{**}` as the last of these, or plain text".into(),
        )
    })
}

/// Braces only ever make a variable of a whole segment, in a path without variables as well. Plain
/// segments are restricted in templates alone.
fn path_problem(text: &str) -> Option<&'static str> {
    let template = text.contains("{*}") || text.contains("{**}");
    // Istio's validation lets this pass, and the proxy then refuses the whole configuration.
    if template && !text.starts_with('/') {
        return Some("it must begin with a slash");
    }
    let mut any_seen = false;
    for segment in text.trim_matches('/').split('/') {
        match segment {
            // ISTIO: "{**} is not the last operator"
            "{*}" | "{**}" if any_seen => return Some("nothing variable may follow `{**}`"),
            "{**}" => any_seen = true,
            "{*}" => {}
            // ISTIO: "Contains '{' or '}' beyond a supported path template"
            literal if literal.contains(['{', '}']) => {
                return Some("a variable is a whole segment, `{*}` or `{**}`, without a name");
            }
            "" if template => return Some("a segment is empty"),
            literal if template && !literal.bytes().all(is_path_byte) => {
                return Some("a segment has a character that a path cannot have");
            }
            _ => {}
        }
    }
    None
}

/// Characters of a segment of plain text, as in RFC 3986, without `*`.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;=:@".contains(&byte)
}

/// Attributes that a condition may compare, beside those in brackets, and how their values are
/// checked.
pub const CONDITION_KEYS: &[(&str, Check)] = &[
    ("source.ip", ip_block),
    ("remote.ip", ip_block),
    ("source.namespace", any),
    ("source.principal", any),
    ("source.serviceAccount", service_account),
    ("source.trustDomain", trust_domain),
    ("request.auth.principal", any),
    ("request.auth.audiences", any),
    ("request.auth.presenter", any),
    ("destination.ip", ip_block),
    ("destination.port", port),
    ("connection.sni", any),
];

/// Checks the key of a condition and gives the check for its values.
pub fn condition_key(reader: &mut Reader<'_>, node: &Node<'_>, key: &str) -> Check {
    const BRACKETED: [&str; 3] = [
        "request.headers",
        "request.auth.claims",
        "experimental.envoy.filters.",
    ];
    if let Some((_, check)) = CONDITION_KEYS.iter().find(|(plain, _)| *plain == key) {
        return *check;
    }
    if let Some(prefix) = BRACKETED.iter().find(|prefix| key.starts_with(**prefix)) {
        bracketed_key(reader, node, key, prefix);
        return any;
    }
    let help = match key {
        "destination.namespace" => {
            "a policy's own `metadata.namespace` says where it applies".into()
        }
        "destination.name" | "destination.user" => "use the policy's `selector`".into(),
        _ if key.starts_with("destination.labels") => "use the policy's `selector`".into(),
        _ => {
            let known = CONDITION_KEYS
                .iter()
                .map(|(plain, _)| *plain)
                .chain(BRACKETED);
            match nearest(key, known) {
                Some(near) if BRACKETED.contains(&near) => {
                    let dot = near.trim_end_matches('.');
                    format!("did you mean `{dot}[name]`?")
                }
                Some(near) => format!("did you mean `{near}`?"),
                None => "see the list of keys in `policyc explain P117`".into(),
            }
        }
    };
    reader.error(
        Code::ConditionKey,
        node,
        format!("there is no attribute `{key}`"),
        help,
    );
    any
}

/// ISTIO: "bad key: should have format a[b]". Istio compares only the beginning of a key, so it lets
/// `request.headersX[a]` pass, which no request has.
fn bracketed_key(reader: &mut Reader<'_>, node: &Node<'_>, key: &str, prefix: &str) {
    let filter = prefix.ends_with('.');
    let rest = key.strip_prefix(prefix).unwrap_or("");
    let (name, brackets) = rest.split_at(rest.find('[').unwrap_or(rest.len()));
    let good = (filter || name.is_empty()) && brackets.len() > 2 && brackets.ends_with(']');
    if !good {
        let form = match filter {
            true => format!("{prefix}NAME[key]"),
            false => format!("{prefix}[name]"),
        };
        reader.error(
            Code::ConditionKey,
            node,
            format!("`{key}` must have the form `{form}`"),
            format!("write it as `{form}`"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{is_ip_block, path_problem, port, service_account, trust_domain};

    #[test]
    fn path_templates() {
        for good in [
            "/{*}",
            "/a/{**}",
            "/{**}/a",
            "/a/{*}/b/{**}/c",
            "/a//b",
            "a*b",
            "*",
            "/",
        ] {
            assert_eq!(path_problem(good), None, "{good}");
        }
        for bad in [
            "/{}",
            "/{a}",
            "/a{b",
            "/a}",
            "/{**}/{**}",
            "/a//{*}",
            "{*}",
            "/{*}.txt",
            "/?/{*}",
        ] {
            assert!(path_problem(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn addresses_and_blocks() {
        for good in ["1.2.3.4", "10.0.0.7/24", "::1", "::/0", "0.0.0.0/0"] {
            assert!(is_ip_block(good), "{good}");
        }
        for bad in [
            "",
            "1.2.3",
            "1.2.3.4/33",
            "1.2.3.4/",
            "1.2.3.4/+8",
            "1.2.3.4/08",
            "01.2.3.4",
            "fe80::1%eth0",
            "fe80::1%eth0/64",
            "1.2.3.4%a",
            "::/129",
        ] {
            assert!(!is_ip_block(bad), "{bad}");
        }
    }

    #[test]
    fn ports_accounts_and_trust_domains() {
        for good in ["0", "080", "65535"] {
            assert_eq!(port(good), None, "{good}");
        }
        for bad in ["65536", "-1", "+80", "8 0", "http", "99999999999999999999"] {
            assert!(port(bad).is_some(), "{bad}");
        }
        assert_eq!(
            service_account(&"a".repeat(320)),
            None,
            "320 bytes are the most"
        );
        assert!(
            service_account(&"a".repeat(321)).is_some(),
            "and 321 are too many"
        );
        for bad in ["a/b/c", "/a", "a/", "a*"] {
            assert!(service_account(bad).is_some(), "{bad}");
        }
        for good in ["a", "*", "a*", "*a"] {
            assert_eq!(trust_domain(good), None, "{good}");
        }
        for bad in ["a/b", "**", "*a*", "a*b", "é*b"] {
            assert!(trust_domain(bad).is_some(), "{bad}");
        }
    }
}
