//! What the kernel says of this node: its addresses, and the namespaces that it knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::PathBuf,
};

use futures_util::TryStreamExt;
use netlink_packet_route::address::AddressAttribute;
use rtnetlink::Handle;

use super::InventoryError;
use crate::{
    netlink::{self, NetlinkError, request},
    netns::Netns,
    proxy_netns::is_own,
};

/// The addresses of the calling thread's namespace that others can reach it by.
pub async fn node_addresses(handle: &Handle) -> Result<Vec<IpAddr>, InventoryError> {
    let mut addresses: Vec<IpAddr> = addresses(handle)
        .await?
        .into_iter()
        .filter(|address| match address {
            IpAddr::V4(v4) => !v4.is_loopback(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        })
        .filter(|address| !is_own(*address))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Every namespace that has a name or a process, by the id that the node knows it by.
pub(super) async fn namespaces(handle: &Handle) -> Result<BTreeMap<i32, PathBuf>, InventoryError> {
    let mut known = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let processes = numbered("/proc").into_iter().map(|p| p.join("ns/net"));
    for path in children("/run/netns").into_iter().chain(processes) {
        // Processes end while we look, and names may be stale: neither is a namespace then.
        let Ok(meta) = fs::metadata(&path) else {
            continue;
        };
        if !seen.insert(std::os::unix::fs::MetadataExt::ino(&meta)) {
            continue;
        }
        let Ok(netns) = Netns::open(&path) else {
            continue;
        };
        if let Ok(Some(id)) = netlink::known_netns_id(handle, &netns).await {
            known.entry(id).or_insert(path);
        }
    }
    Ok(known)
}

fn children(folder: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.sort();
    paths
}

fn numbered(folder: &str) -> Vec<PathBuf> {
    let is_number = |path: &PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()))
    };
    children(folder).into_iter().filter(is_number).collect()
}

pub(super) async fn addresses(handle: &Handle) -> Result<Vec<IpAddr>, NetlinkError> {
    let messages: Vec<_> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(request("list", "addresses"))?;
    Ok(messages
        .iter()
        .flat_map(|message| &message.attributes)
        .filter_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
        .collect())
}
