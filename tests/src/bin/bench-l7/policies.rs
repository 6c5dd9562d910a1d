//! The policies of the bench, the same for both proxies: each allows GET of one path to one principal,
//! and only the last matches what is asked.

/// In what the policies differ from one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Kind {
    /// Paths, and principals too.
    Path,
    /// Principals; all have the path that is asked for.
    Principal,
    /// No HTTP: a rule about the server name.
    Tcp,
}

/// What is asked for.
pub const PATH: &str = "/api/v1/last";
/// What no policy allows.
pub const DENIED: &str = "/denied";

/// The path of policy `i` of `count`.
pub fn path(kind: Kind, i: usize, count: usize) -> String {
    if i + 1 == count || kind == Kind::Principal {
        PATH.into()
    } else {
        format!("/api/v1/res{i:05}")
    }
}

/// The client's identity: of policy `i` of `count`.
pub fn account(i: usize, count: usize) -> String {
    if i + 1 == count {
        "last".into()
    } else {
        format!("other-{i:05}")
    }
}

/// The address that stands for that identity where there is none: Envoy's.
pub fn address(i: usize, count: usize) -> String {
    if i + 1 == count {
        return "127.0.0.1".into();
    }
    // Spread over the block, as addresses are.
    let spread = (i * 40_503) % 65_536;
    format!("11.7.{}.{}", spread / 256, spread % 256)
}
