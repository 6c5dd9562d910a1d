//! When one value of a field covers another: everything that matches the second matches the first.

use std::net::IpAddr;

use ipnet::IpNet;

/// Whether `wide` matches all that `narrow` does. It may say no where it cannot tell.
pub fn covers(field: &str, wide: &str, narrow: &str) -> bool {
    match base(field) {
        "ipblocks" | "remoteipblocks" | "source.ip" | "remote.ip" | "destination.ip" => block(wide)
            .zip(block(narrow))
            .is_some_and(|(wide, narrow)| wide.contains(&narrow)),
        "ports" | "destination.port" => {
            let number = |text: &str| text.parse::<u16>().ok();
            number(wide).is_some() && number(wide) == number(narrow)
        }
        // Service accounts and path templates: only what is written alike is known to be alike.
        "serviceaccounts" | "source.serviceaccount" => wide == narrow,
        "hosts" => text_covers(&wide.to_ascii_lowercase(), &narrow.to_ascii_lowercase()),
        _ if wide.contains("{*") || narrow.contains("{*") => {
            wide == narrow || wide == "*" || literal_prefix_covers(wide, narrow)
        }
        _ => text_covers(wide, narrow),
    }
}

/// The field's name without its `not`, in lower case.
fn base(field: &str) -> &'static str {
    const BASES: [&str; 12] = [
        "ipblocks",
        "remoteipblocks",
        "source.ip",
        "remote.ip",
        "destination.ip",
        "ports",
        "destination.port",
        "serviceaccounts",
        "source.serviceaccount",
        "hosts",
        "paths",
        "namespaces",
    ];
    let lower = field.to_ascii_lowercase();
    let name = lower.strip_prefix("not").unwrap_or(&lower);
    BASES.into_iter().find(|b| *b == name).unwrap_or("")
}

/// An address is a block of one.
pub fn block(text: &str) -> Option<IpNet> {
    let one = text.parse::<IpAddr>().ok().map(IpNet::from);
    one.or_else(|| text.parse::<IpNet>().ok().map(|net| net.trunc()))
}

/// Exact, `x*`, `*x` and `*`. A leading star is looked at first, as Istio does.
fn text_covers(wide: &str, narrow: &str) -> bool {
    if wide == narrow || wide == "*" {
        return true;
    }
    let exact = !narrow.starts_with('*') && !narrow.ends_with('*');
    if let Some(suffix) = wide.strip_prefix('*') {
        let narrow_suffix = narrow.strip_prefix('*');
        return match narrow_suffix {
            Some(narrow) => narrow.ends_with(suffix),
            None => exact && narrow.ends_with(suffix),
        };
    }
    if let Some(prefix) = wide.strip_suffix('*') {
        let narrow = match narrow.starts_with('*') {
            true => return false,
            false => narrow.strip_suffix('*').unwrap_or(narrow),
        };
        return narrow.starts_with(prefix);
    }
    false
}

/// `/a/*` covers `/a/{*}/b`: the template's text before its first variable begins with the prefix.
fn literal_prefix_covers(wide: &str, narrow: &str) -> bool {
    let Some(prefix) = wide.strip_suffix('*').filter(|p| !p.contains("{*")) else {
        return false;
    };
    !wide.starts_with('*') && narrow.split("{*").next().unwrap_or("").starts_with(prefix)
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn wider_values_cover_narrower_ones() {
        for (field, wide, narrow) in [
            ("principals", "*", "a"),
            ("principals", "a*", "ab*"),
            ("principals", "*b", "*ab"),
            ("notPrincipals", "a", "a"),
            ("hosts", "*.Example", "a.example"),
            ("ipBlocks", "10.0.0.0/8", "10.1.0.0/16"),
            ("ports", "080", "80"),
            ("paths", "/a/*", "/a/{*}/b"),
            ("source.ip", "10.0.0.1/24", "10.0.0.77"),
        ] {
            assert!(
                covers(field, wide, narrow),
                "{field}: {wide} covers {narrow}"
            );
        }
        for (field, wide, narrow) in [
            ("principals", "a", "a*"),
            ("principals", "ab*", "a*"),
            ("principals", "*b", "b*"),
            ("principals", "*.a", "A.A"),
            ("paths", "/a/{*}", "/a/b"),
            ("ipBlocks", "10.1.0.0/16", "10.0.0.0/8"),
            ("ipBlocks", "::/0", "10.0.0.0/8"),
            ("serviceAccounts", "a*", "ab"),
        ] {
            assert!(
                !covers(field, wide, narrow),
                "{field}: {wide} does not cover {narrow}"
            );
        }
    }
}
