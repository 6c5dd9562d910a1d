//! The routes and rules of the proxy's namespace: everything that comes in is for here.

use std::net::{Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use netlink_packet_route::{
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute},
};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};
use rustix::io::Errno;

use super::{L7, Port, ProxyNetnsError, REJ, bring_up, is};
use crate::{
    netlink::{self, NetlinkError, request},
    netns::has_ipv6,
};

/// Routing table, in the namespace, in which every address is local.
const ALL_LOCAL: u32 = 100;
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;

/// Loopback up, everything local for what comes in, everything else back to the node.
pub(super) async fn ensure_routes(inside: &Handle, l7: &Port) -> Result<(), ProxyNetnsError> {
    let lo = netlink::link(inside, "lo")
        .await?
        .ok_or(ProxyNetnsError::Vanished("lo"))?;
    bring_up(inside, &lo, lo.mtu).await?;
    let v4 = || RouteMessageBuilder::<Ipv4Addr>::new();
    let local4 = |table| {
        v4().table_id(table)
            .kind(RouteType::Local)
            .scope(RouteScope::Host)
            .output_interface(lo.index)
            .build()
    };
    if !has_default_route(inside).await? {
        // While every address is local, a gateway is refused as one that is ourselves.
        delete_route(inside, local4(TABLE_LOCAL)).await?;
        add_route(
            inside,
            v4().output_interface(l7.inside)
                .gateway(L7.outside_v4)
                .onlink()
                .build(),
        )
        .await?;
    }
    // A reset that belongs to no socket is only sent from an address that the namespace calls
    // local; with `main` asked first it still finds its way out.
    for route in [local4(ALL_LOCAL), local4(TABLE_LOCAL)] {
        add_route(inside, route).await?;
    }
    for way in [&L7, &REJ] {
        add_rule(inside, IpVersion::V4, 10, ALL_LOCAL, Some(way.inside)).await?;
    }
    if has_ipv6() {
        ensure_ipv6(inside, l7, lo.index).await?;
    }
    add_rule(inside, IpVersion::V4, 15, TABLE_MAIN, None).await?;
    add_rule(inside, IpVersion::V4, 20, TABLE_LOCAL, None).await?;
    remove_first_rule(inside).await?;
    Ok(())
}

async fn ensure_ipv6(inside: &Handle, l7: &Port, lo: u32) -> Result<(), ProxyNetnsError> {
    let v6 = || RouteMessageBuilder::<Ipv6Addr>::new();
    let back = v6().output_interface(l7.inside).gateway(L7.outside_v6);
    let local = v6()
        .table_id(ALL_LOCAL)
        .kind(RouteType::Local)
        .scope(RouteScope::Host)
        .output_interface(lo);
    for route in [back.build(), local.build()] {
        add_route(inside, route).await?;
    }
    for way in [&L7, &REJ] {
        add_rule(inside, IpVersion::V6, 10, ALL_LOCAL, Some(way.inside)).await?;
    }
    Ok(())
}

async fn has_default_route(inside: &Handle) -> Result<bool, NetlinkError> {
    let routes: Vec<RouteMessage> = inside
        .route()
        .get(RouteMessageBuilder::<Ipv4Addr>::new().build())
        .execute()
        .try_collect()
        .await
        .map_err(request("list the routes of", "the proxy's namespace"))?;
    let gateway = RouteAttribute::Gateway(RouteAddress::Inet(L7.outside_v4));
    Ok(routes
        .iter()
        .any(|route| route.attributes.contains(&gateway)))
}

async fn delete_route(inside: &Handle, route: RouteMessage) -> Result<(), NetlinkError> {
    match inside.route().del(route).execute().await {
        Err(error) if is(&error, Errno::SRCH) => Ok(()),
        other => other.map_err(request("delete a route of", "the proxy's namespace")),
    }
}

async fn add_route(inside: &Handle, route: RouteMessage) -> Result<(), NetlinkError> {
    match inside.route().add(route).execute().await {
        Err(error) if is(&error, Errno::EXIST) => Ok(()),
        other => other.map_err(request("add a route to", "the proxy's namespace")),
    }
}

async fn add_rule(
    inside: &Handle,
    version: IpVersion,
    priority: u32,
    table: u32,
    input: Option<&str>,
) -> Result<(), NetlinkError> {
    let mut rule = inside
        .rule()
        .add()
        .priority(priority)
        .table_id(table)
        .action(RuleAction::ToTable);
    if let Some(name) = input {
        rule = rule.input_interface(name);
    }
    let added = match version {
        IpVersion::V4 => rule.v4().execute().await,
        IpVersion::V6 => rule.v6().execute().await,
    };
    match added {
        Err(error) if is(&error, Errno::EXIST) => Ok(()),
        other => other.map_err(request("add a rule to", "the proxy's namespace")),
    }
}

/// Takes away the IPv4 rule that asks table `local` before all others.
async fn remove_first_rule(inside: &Handle) -> Result<(), NetlinkError> {
    let rules: Vec<_> = inside
        .rule()
        .get(IpVersion::V4)
        .execute()
        .try_collect()
        .await
        .map_err(request("list the rules of", "the proxy's namespace"))?;
    for rule in rules {
        let first = !rule
            .attributes
            .iter()
            .any(|a| matches!(a, RuleAttribute::Priority(priority) if *priority > 0));
        if first {
            inside
                .rule()
                .del(rule)
                .execute()
                .await
                .map_err(request("remove a rule from", "the proxy's namespace"))?;
        }
    }
    Ok(())
}
