//! Questions about addresses and ports.

use std::net::IpAddr;

use ipnet::IpNet;

use super::http::HttpFacts;

/// Whether the block holds the address; `None` when it is no block. An address alone is a block of
/// one; host bits do not matter. IPv4 and IPv6 never meet.
pub fn is_in_block(address: IpAddr, block: &str) -> Option<bool> {
    let network: IpNet = if block.contains('/') {
        block.parse().ok()?
    } else {
        IpNet::from(block.parse::<IpAddr>().ok()?)
    };
    Some(network.contains(&address))
}

/// Whether this is the port; `None` when the text is no port. Leading zeros do not matter.
pub fn is_port(port: u16, text: &str) -> Option<bool> {
    let digits_only = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits_only
        .then(|| text.parse::<u16>().ok())
        .flatten()
        .map(|number| number == port)
}

/// The client's address on HTTP.
///
/// A sidecar takes the rightmost element of X-Forwarded-For, whoever wrote it. A gateway counts the
/// proxies that it trusts from the right; it trusts none by default and takes the TCP peer. An
/// element that is missing or no address leaves the TCP peer.
pub fn client(
    request: &HttpFacts,
    trusted_proxies: Option<u32>,
    peer: Option<IpAddr>,
) -> Option<IpAddr> {
    let from_the_right = match trusted_proxies {
        None => 1,
        Some(0) => return peer,
        Some(proxies) => proxies,
    };
    let forwarded = request.values("x-forwarded-for").concat();
    let elements: Vec<&str> = forwarded.split(',').map(str::trim).collect();
    usize::try_from(from_the_right)
        .ok()
        .and_then(|count| elements.len().checked_sub(count))
        .and_then(|index| elements[index].parse().ok())
        .or(peer)
}
