//! Namespaces and nodes.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Meta, Namespace, Node as ClusterNode};
use crate::{
    diagnostic::Code,
    read::node::{Node, Reader},
};

pub(crate) fn namespace(reader: &mut Reader<'_>, object: &Node<'_>) -> Option<(String, Namespace)> {
    let meta = Meta::read(reader, object)?;
    let namespace = Namespace {
        document: reader.document,
        labels: meta.labels,
    };
    Some((meta.name, namespace))
}

pub(crate) fn node(reader: &mut Reader<'_>, object: &Node<'_>) -> Option<ClusterNode> {
    let meta = Meta::read(reader, object)?;
    let mut node = ClusterNode {
        name: meta.name,
        ..ClusterNode::default()
    };
    if let Some(spec) = object.get("spec") {
        if let Some(cidrs) = spec.get("podCIDRs") {
            reader.list(&cidrs)?;
            node.pod_cidrs = cidrs.items().filter_map(|c| cidr(reader, &c)).collect();
        } else if let Some(one) = spec.get("podCIDR") {
            node.pod_cidrs = cidr(reader, &one).into_iter().collect();
        }
    }
    if let Some(status) = object.get("status")
        && let Some(addresses) = status.get("addresses")
    {
        reader.list(&addresses)?;
        for entry in addresses.items() {
            let kind = entry.value.get("type").and_then(|v| v.as_str());
            if let (Some("InternalIP" | "ExternalIP"), Some(at)) = (kind, entry.get("address")) {
                node.addresses.extend(address(reader, &at));
            }
        }
    }
    Some(node)
}

/// An IP address, or an error.
pub(crate) fn address(reader: &mut Reader<'_>, node: &Node<'_>) -> Option<IpAddr> {
    let text = reader.string(node)?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        reader.error(
            Code::BadAddress,
            node,
            format!("`{text}` is not an IP address"),
            "write an IPv4 or IPv6 address",
        );
    }
    parsed
}

fn cidr(reader: &mut Reader<'_>, node: &Node<'_>) -> Option<IpNet> {
    let text = reader.string(node)?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        reader.error(
            Code::BadAddress,
            node,
            format!("`{text}` is not a CIDR block"),
            "write an address and a prefix length, such as 10.1.0.0/24",
        );
    }
    parsed
}
