//! Every path to a pod: from pods, from another node, from the node itself and from the pod back to
//! itself, straight or through a Service, on a routed node and on one with a bridge, with and without
//! a rule that drops what connection tracking takes for invalid.

use std::net::{Ipv4Addr, Ipv6Addr};

use tests::{
    live::three_pods_on,
    netns::run,
    ready::skipped,
    topology::{BRIDGE_V4, BRIDGE_V6, Layout, NODE_V4, NODE_V6, REMOTE_V4, REMOTE_V6},
};

use super::*;

/// Ports of `backend`: decided by the rule alone, by the request, and denied to all.
const DIRECT: u16 = PORT;
const HTTP: u16 = PORT + 1;
const DENIED: u16 = PORT + 2;
/// What a Service adds to the ports. The second NodePort hides the client, as
/// `externalTrafficPolicy: Cluster` does.
const CLUSTER_IP_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const CLUSTER_IP_V6: &str = "fd96::10";
const NODE_PORT: u16 = 22_000;
const HIDING_NODE_PORT: u16 = 23_000;

/// Whoever is named may reach `backend`'s first port, and read from the second.
fn policy() -> String {
    let node = [
        NODE_V4.to_string(),
        NODE_V6.to_owned(),
        BRIDGE_V4.to_string(),
        BRIDGE_V6.to_owned(),
        "192.0.2.1".to_owned(),
        "fe80::1".to_owned(),
    ];
    let outside: Vec<String> = [REMOTE_V4.to_string(), REMOTE_V6.to_owned()]
        .into_iter()
        .chain(node)
        .map(|address| format!("\"{address}\""))
        .collect();
    let sources = format!(
        "    from:
    - source:
        principals: [cluster.local/ns/default/sa/frontend, cluster.local/ns/default/sa/backend]
    - source: {{ipBlocks: [{}]}}
",
        outside.join(", ")
    );
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: paths, namespace: default}}
spec:
  selector: {{matchLabels: {{app: backend}}}}
  rules:
  - to: [{{operation: {{ports: [\"{DIRECT}\"]}}}}]
{sources}  - to: [{{operation: {{ports: [\"{HTTP}\"], methods: [GET]}}}}]
{sources}"
    )
}

/// Address translation as kube-proxy does it, for both families.
fn services(backend: &Pod) -> String {
    let mut text = String::from("table inet services {\n");
    let rules = |local: bool| {
        let mut rules = String::new();
        for (family, pod, service, node) in [
            (
                "ip",
                backend.v4.to_string(),
                CLUSTER_IP_V4.to_string(),
                NODE_V4.to_string(),
            ),
            (
                "ip6",
                format!("[{}]", backend.v6),
                CLUSTER_IP_V6.into(),
                NODE_V6.into(),
            ),
        ] {
            for port in [DIRECT, HTTP, DENIED] {
                let to = format!("dnat {family} to {pod}:{port}");
                rules += &format!("    {family} daddr {service} tcp dport {port} {to}\n");
                if !local {
                    let (seen, hidden) = (NODE_PORT + port, HIDING_NODE_PORT + port);
                    rules += &format!(
                        "    {family} daddr {node} tcp dport {seen} {to}
    {family} daddr {node} tcp dport {hidden} meta mark set 0x4000 {to}\n"
                    );
                }
            }
        }
        rules
    };
    text += "  chain pre {\n    type nat hook prerouting priority -100;\n";
    text += &rules(false);
    text += "  }\n  chain out {\n    type nat hook output priority -100;\n";
    text += &rules(true);
    text += "  }\n  chain post {\n    type nat hook postrouting priority 100;\n";
    text += "    meta mark 0x4000 masquerade\n";
    // A Service that leads a pod back to itself.
    text += &format!("    ip saddr {0} ip daddr {0} masquerade\n", backend.v4);
    text += &format!("    ip6 saddr {0} ip6 daddr {0} masquerade\n", backend.v6);
    text += "  }\n}\n";
    text
}

pub(super) const DROP_INVALID: &str = "
table inet strict {
  chain forward { type filter hook forward priority 0; ct state invalid drop; }
  chain input { type filter hook input priority 0; ct state invalid drop; }
  chain output { type filter hook output priority 0; ct state invalid drop; }
}
";

/// A client, and how it comes to `backend`.
struct Path<'a> {
    from: &'a Netns,
    what: &'static str,
    to: [IpAddr; 2],
    /// Added to the ports.
    base: u16,
    allowed: bool,
    /// The address that `backend` sees, where it is the client's own.
    own: Option<[IpAddr; 2]>,
}

/// The paths that a network carries which nothing polices.
fn paths(world: &World, layout: Layout) -> Vec<Path<'_>> {
    let pod = |name: &str| world.pod(name);
    let direct = world.backend();
    let service: [IpAddr; 2] = [CLUSTER_IP_V4.into(), v6(CLUSTER_IP_V6)];
    let node: [IpAddr; 2] = [NODE_V4.into(), v6(NODE_V6)];
    let remote = world.net.remote.as_ref().expect("the test has made it");
    let remotes = [REMOTE_V4.into(), v6(REMOTE_V6)];
    let path = |from, what, to, base, allowed, own| Path {
        from,
        what,
        to,
        base,
        allowed,
        own,
    };
    let frontend = pod("frontend");
    let other = pod("other");
    // Between pods of one bridge the answers are switched past the node, which alone could undo the
    // Service's translation: that is what `bridge-nf-call-iptables` is for.
    let carried = |path: &Path| {
        let switched = layout
            == Layout::Bridge {
                calls_netfilter: false,
            };
        !(switched && path.what.ends_with("pod to Service"))
    };
    let mut all = vec![
        path(
            &frontend.netns,
            "pod to pod",
            direct,
            0,
            true,
            Some(frontend.addresses()),
        ),
        path(&other.netns, "another pod to pod", direct, 0, false, None),
        path(
            &frontend.netns,
            "pod to Service",
            service,
            0,
            true,
            Some(frontend.addresses()),
        ),
        path(
            &other.netns,
            "another pod to Service",
            service,
            0,
            false,
            None,
        ),
        path(
            &pod("backend").netns,
            "pod to itself through a Service",
            service,
            0,
            true,
            None,
        ),
        path(remote, "remote to pod", direct, 0, true, Some(remotes)),
        path(
            remote,
            "remote to NodePort",
            node,
            NODE_PORT,
            true,
            Some(remotes),
        ),
        path(
            remote,
            "remote to hiding NodePort",
            node,
            HIDING_NODE_PORT,
            true,
            None,
        ),
        path(&world.net.node, "node to pod", direct, 0, true, None),
        path(&world.net.node, "node to Service", service, 0, true, None),
    ];
    all.retain(carried);
    all
}

fn v6(text: &str) -> IpAddr {
    text.parse::<Ipv6Addr>().expect("an address").into()
}

pub(super) fn nft(world: &World, rules: &str) {
    let file = world.home.file("rules.nft");
    fs::write(&file, rules).expect("a file of its own");
    let loaded = world
        .net
        .node
        .enter(|| run(Command::new("nft").arg("-f").arg(&file)));
    loaded.expect("the rules are well formed");
}

/// All paths on one node.
#[track_caller]
fn walk(what: &str, layout: Layout, drop_invalid: bool) {
    if !possible() {
        return;
    }
    if run(Command::new("nft").arg("--version")).is_err() {
        return skipped("no nft on this machine");
    }
    let mut net = three_pods_on(what, layout).expect("a node with three pods");
    net.with_remote().expect("a remote node");
    let world = World::on(net);
    let backend = world.pod("backend");
    serve_http(backend, HTTP);
    let _denied = Echo::start(backend, DENIED).expect("the port is free");
    nft(&world, &services(backend));
    if drop_invalid {
        nft(&world, DROP_INVALID);
    }
    let paths = paths(&world, layout);
    for path in &paths {
        for to in path.to {
            let met = try_from(path.from, to, path.base + DENIED, PATIENCE);
            assert_eq!(met, Met::Answer, "before the agent: {} at {to}", path.what);
        }
    }
    let agent = world.start(&policy(), &[]);
    let mut wrong = Vec::new();
    for path in &paths {
        for (family, to) in path.to.into_iter().enumerate() {
            let mut check = |of: &str, found: String, wanted: String| {
                if found != wanted {
                    wrong.push(format!(
                        "{} at {to}, {of}: {found}, not {wanted}",
                        path.what
                    ));
                }
            };
            let connects =
                |port| format!("{:?}", try_from(path.from, to, path.base + port, PATIENCE));
            let request =
                |method: &str| request_to(path.from, to, path.base + HTTP, &format!("{method} /"));
            check("denied port", connects(DENIED), "Refusal".into());
            if !path.allowed {
                check("port", connects(DIRECT), "Refusal".into());
                check("request", request("GET"), "connection refused".into());
                continue;
            }
            check("allowed port", connects(DIRECT), "Answer".into());
            let answer = request("GET");
            match path.own {
                Some(own) => check("GET", answer, format!("HTTP/1.1 200 {}", own[family])),
                None => check("GET", answer[..12].into(), "HTTP/1.1 200".into()),
            }
            check("POST", request("POST"), "HTTP/1.1 403 Forbidden".into());
        }
    }
    assert!(
        wrong.is_empty(),
        "{wrong:#?}\n{:?}\n{}",
        world.home.status().map(|status| status["counters"].clone()),
        agent.log()
    );
    for reason in [
        "foreign_proxy_packet",
        "spoofed_local_source",
        "spoofed_pod_source",
    ] {
        assert_eq!(
            world.counted(reason),
            0,
            "`{reason}`: everybody is who they say"
        );
    }
}

#[test]
fn every_path_on_a_routed_node() {
    walk("lv-routed", Layout::Routed, false);
}

#[test]
fn every_path_on_a_routed_node_that_drops_what_is_invalid() {
    walk("lv-strict", Layout::Routed, true);
}

#[test]
fn every_path_on_a_bridge() {
    let layout = Layout::Bridge {
        calls_netfilter: false,
    };
    walk("lv-bridge", layout, false);
}

#[test]
fn every_path_on_a_bridge_whose_node_drops_what_is_invalid() {
    let layout = Layout::Bridge {
        calls_netfilter: false,
    };
    walk("lv-brstrict", layout, true);
}

#[test]
fn every_path_on_a_bridge_that_calls_netfilter() {
    let layout = Layout::Bridge {
        calls_netfilter: true,
    };
    walk("lv-brcalls", layout, false);
}

#[test]
fn every_path_on_a_bridge_that_calls_netfilter_which_drops_what_is_invalid() {
    let layout = Layout::Bridge {
        calls_netfilter: true,
    };
    walk("lv-brboth", layout, true);
}
