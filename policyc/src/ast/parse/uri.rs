//! The address of a key set, as Go's `url.Parse` takes it: that is what Istio asks. What it takes and
//! nobody can fetch is a warning.

/// What is wrong with an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// Istio refuses it.
    Refused(&'static str),
    /// Istio takes it, and no key can come from there.
    Useless(&'static str),
}

use Problem::{Refused, Useless};

/// The first problem of an address, if there is one.
pub fn problem(uri: &str) -> Option<Problem> {
    check(uri).err()
}

fn check(uri: &str) -> Result<(), Problem> {
    if uri.bytes().any(|b| b.is_ascii_control()) {
        return Err(Refused("it has a control character"));
    }
    let (rest, fragment) = uri.split_once('#').unwrap_or((uri, ""));
    escapes(fragment)?;
    let scheme = rest
        .split_once(':')
        .map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
    let rest = match &scheme {
        Some((scheme, rest)) if scheme == "http" || scheme == "https" => rest,
        _ => return Err(Refused("it must begin with http:// or https://")),
    };
    let rest = rest.split('?').next().unwrap_or("");
    if !rest.starts_with('/') {
        return Err(Useless("it names no host"));
    }
    let Some(rest) = rest.strip_prefix("//") else {
        escapes(rest)?;
        return Err(Useless("it names no host"));
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = match authority.rsplit_once('@') {
        Some((user, host)) => {
            user_info(user)?;
            host
        }
        None => authority,
    };
    let port = host_port(host)?;
    escapes(path)?;
    usable(host, port)
}

/// Checks a host and gives its port.
fn host_port(host: &str) -> Result<&str, Problem> {
    let (name, port) = match host.strip_prefix('[') {
        Some(inner) => {
            let (inner, port) = inner
                .rsplit_once(']')
                .ok_or(Refused("its address in brackets has no end"))?;
            // A zone may have escapes of its own.
            (inner.split("%25").next().unwrap_or(""), port)
        }
        None => host.split_at(host.rfind(':').unwrap_or(host.len())),
    };
    let digits = port.strip_prefix(':').unwrap_or(port);
    let bare = port.is_empty() || port.starts_with(':');
    if !bare || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refused("its port is not a number"));
    }
    let mut bytes = name.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        let plain = byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:[]<>\"".contains(&byte);
        // In a host only bytes beyond ASCII may be escaped.
        let escaped = byte == b'%' && escape(name, at).is_some_and(|b| b >= 0x80);
        if escaped {
            bytes.nth(1);
        } else if byte.is_ascii() && !plain {
            return Err(Refused("its host has a character that no host has"));
        }
    }
    Ok(digits)
}

fn usable(host: &str, port: &str) -> Result<(), Problem> {
    let name = host.strip_suffix(port).unwrap_or(host);
    if name.trim_end_matches(':').is_empty() {
        return Err(Useless("it names no host"));
    }
    // Beyond what Go's numbers hold, Istio refuses it as well.
    match port.parse::<u64>() {
        Ok(number) if number > u64::from(u16::MAX) && i64::try_from(number).is_ok() => {
            Err(Useless("its port is more than 65535"))
        }
        Err(_) if !port.is_empty() => Err(Refused("its port is not a number")),
        Ok(number) if i64::try_from(number).is_err() => Err(Refused("its port is not a number")),
        _ => Ok(()),
    }
}

fn user_info(user: &str) -> Result<(), Problem> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b);
    match user.bytes().all(good) {
        true => escapes(user),
        false => Err(Refused("its user has a character that must be escaped")),
    }
}

/// Every `%` begins an escape.
fn escapes(text: &str) -> Result<(), Problem> {
    let mut marks = text.match_indices('%');
    match marks.all(|(at, _)| escape(text, at).is_some()) {
        true => Ok(()),
        false => Err(Refused("a `%` is not followed by two hexadecimal digits")),
    }
}

/// The byte that the escape at `at` stands for.
fn escape(text: &str, at: usize) -> Option<u8> {
    let digits = text.get(at + 1..at + 3)?;
    let hexadecimal = digits.bytes().all(|b| b.is_ascii_hexdigit());
    hexadecimal.then(|| u8::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::{Problem, problem};

    #[test]
    fn what_go_parses_is_taken() {
        for good in [
            "https://issuer.example/keys",
            "HTTPS://issuer.example",
            "http://issuer.example:8080/a b?c=%zz",
            "https://[::1]:443/keys",
            "https://user:pass@host:/x#y",
            "https://h%C3%A9/x",
            "https://host:065/",
        ] {
            assert_eq!(problem(good), None, "{good}");
        }
        for useless in [
            "https:keys",
            "https:///keys",
            "https://",
            "https://:80",
            "http://h:70000",
        ] {
            assert!(
                matches!(problem(useless), Some(Problem::Useless(_))),
                "{useless}"
            );
        }
        for bad in [
            "issuer.example",
            "ftp://issuer.example",
            "://x",
            "https://host:port",
            "https://host:-1",
            "https://[::1",
            "https://[::1]x",
            "https://a b/",
            "https://h%41/",
            "https://h/%zz",
            "https://h/#%z",
            "https://us er@h/",
            "https://h:99999999999999999999",
            "https://h/\u{7f}",
        ] {
            assert!(matches!(problem(bad), Some(Problem::Refused(_))), "{bad}");
        }
    }
}
