use std::{collections::BTreeMap, sync::Arc};

use enforcer_ebpf::decide::{address_v4, address_v6};
use proptest::prelude::*;

use super::*;
use crate::{
    compile::compile,
    link::{
        Disputes, Interface, Linked, NodeView, canonical::meaning, link, link_again, link_sources,
    },
    read,
};

const WORLD: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: front, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/web/sa/front]}}]
    to: [{operation: {ports: ['8080']}}]
  - from: [{source: {namespaces: [ops]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: blocks, namespace: shop}
spec:
  action: DENY
  rules:
  - from: [{source: {ipBlocks: [10.0.1.0/24, 'fd00:0:0:1::/64', 10.0.0.7/32]}}]
  - from: [{source: {principals: ['*/sa/back']}}]
    to: [{operation: {ports: ['9090']}}]
---
apiVersion: v1
kind: Node
metadata: {name: here}
spec: {podCIDRs: [10.0.0.0/23, 'fd00::/63']}
status: {addresses: [{type: InternalIP, address: 10.9.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: local, namespace: shop, labels: {app: api}}
spec: {nodeName: here, serviceAccountName: api, containers: [{name: main, image: a}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.200}, {ip: 'fd00::200'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: shop, labels: {app: db}}
spec: {nodeName: here, containers: [{name: main, image: a}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.201}]}
";

/// The policies that may be in force.
const POLICIES: [(&str, &str); 8] = [
    ("", ""),
    ("ns/web/sa/front", "ns/ops/sa/x"),
    ("namespaces: [ops]", "namespaces: [web, shop]"),
    ("namespaces: [ops]", "notNamespaces: ['w*']"),
    ("'*/sa/back'", "'*'"),
    ("['8080']", "['9090']"),
    (
        "selector: {matchLabels: {app: api}}",
        "selector: {matchLabels: {app: none}}",
    ),
    ("10.0.0.7/32", "10.0.0.9/32"),
];

fn world(policies: usize) -> String {
    let (before, now) = POLICIES[policies];
    WORLD.replace(before, if before.is_empty() { before } else { now })
}

/// Words that grow, as in a slot.
struct Slot {
    words: Vec<u32>,
    used: usize,
}

impl Words for Slot {
    fn at(&self, index: u32) -> u32 {
        self.words.as_slice().at(index)
    }
}

impl Table for Slot {
    fn store(&mut self, index: u32, word: u32) {
        self.words[index as usize] = word;
        self.used = self.used.max(index as usize + 1);
    }

    fn room(&self) -> u32 {
        u32::try_from(self.words.len()).unwrap()
    }
}

/// A node whose sources come and go.
struct Node {
    program: Program,
    cluster: Cluster,
    view: NodeView,
    linked: Linked,
    sources: Sources,
    slot: Slot,
}

const ROOM: usize = 16 * 256;

impl Node {
    fn new() -> Self {
        let (loaded, found) = read::load_str("world.yaml", WORLD, None);
        assert!(!crate::diagnostic::any_error(&found), "{found:?}");
        let program = compile(&loaded, Default::default(), &BTreeMap::new()).unwrap();
        let interface = Interface {
            ifindex: 7,
            ..Interface::default()
        };
        let name = ("shop".to_owned(), "local".to_owned());
        let other = ("shop".to_owned(), "other".to_owned());
        let view = NodeView {
            local: Local::Only([name.clone(), other.clone()].into()),
            slots: [(name.clone(), 0), (other, 1)].into(),
            addresses: vec!["10.9.0.1".parse().unwrap()],
            interfaces: [(name, vec![interface])].into(),
            disputes: Disputes::Unknown,
            ..NodeView::default()
        };
        let (linked, sources) = link_sources(&program, &loaded.cluster, &view, &[]).unwrap();
        let slot = roomy(&linked);
        Self {
            program,
            cluster: loaded.cluster,
            view,
            linked,
            sources,
            slot,
        }
    }

    /// Makes changes, by a whole link where that is needed. Whether it was not.
    fn change(&mut self, changes: &[(PodName, Option<Pod>)]) -> Followed {
        let before: Vec<Option<Arc<Pod>>> = changes
            .iter()
            .map(|((namespace, name), _)| {
                let mut pods = self.cluster.pods.iter();
                pods.find(|p| (&p.namespace, &p.name) == (namespace, name))
                    .cloned()
            })
            .collect();
        let told: Vec<PodChange<'_>> = changes
            .iter()
            .zip(&before)
            .map(|((name, now), before)| PodChange {
                name,
                before: before.as_deref(),
                now: now.as_ref(),
            })
            .collect();
        let untouched = self.slot.words.clone();
        let followed = self
            .sources
            .follow(&self.program, &self.cluster, &told, &mut self.slot);
        for ((namespace, name), now) in changes {
            self.cluster
                .pods
                .retain(|p| (&p.namespace, &p.name) != (namespace, name));
            self.cluster.pods.extend(now.clone().map(Arc::new));
        }
        self.cluster
            .pods
            .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        if let Followed::Whole(_) = followed {
            assert!(
                untouched == self.slot.words,
                "no address has changed its word"
            );
            let (linked, sources) =
                link_sources(&self.program, &self.cluster, &self.view, &[]).unwrap();
            self.slot = roomy(&linked);
            (self.linked, self.sources) = (linked, sources);
        }
        followed
    }

    /// Puts other policies in force, by a whole link where that is needed. Whether it was not.
    fn govern(&mut self, policies: usize) -> bool {
        let (loaded, found) = read::load_str("world.yaml", &world(policies), None);
        assert!(!crate::diagnostic::any_error(&found), "{found:?}");
        self.program = compile(&loaded, Default::default(), &BTreeMap::new()).unwrap();
        let length = self.slot.at(header::LENGTH) as usize;
        let words = self.slot.words[..length].to_vec();
        let (program, cluster, view) = (&self.program, &self.cluster, &self.view);
        let again = link_again(&self.sources, words, program, cluster, view).unwrap();
        let done = again.is_some();
        let (linked, sources) =
            again.unwrap_or_else(|| link_sources(program, cluster, view, &[]).unwrap());
        self.slot = roomy(&linked);
        (self.linked, self.sources) = (linked, sources);
        done
    }

    fn is_as_if_linked_anew(&self) {
        let anew = link(&self.program, &self.cluster, &self.view, &[]).unwrap();
        let length = self.slot.at(header::LENGTH) as usize;
        assert!(
            self.slot.used <= length,
            "nothing is written beyond the table"
        );
        let (ours, theirs) = (
            meaning(&self.slot.words[..length], &self.linked),
            meaning(&anew.words, &anew),
        );
        assert_eq!(ours, theirs);
    }

    fn word(&self, address: &str) -> Address {
        match address.parse().unwrap() {
            IpAddr::V4(address) => address_v4(&self.slot, address.to_bits()),
            IpAddr::V6(address) => address_v6(&self.slot, &parts(address.to_bits())),
        }
    }
}

fn roomy(linked: &Linked) -> Slot {
    let mut words = linked.words.clone();
    let used = words.len();
    words.resize(used + ROOM, 0);
    Slot { words, used }
}

fn pod(namespace: &str, name: &str, account: &str, ips: &[&str]) -> (PodName, Option<Pod>) {
    let mut pod = Pod {
        namespace: namespace.into(),
        name: name.into(),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        node: Some("there".into()),
        ..Pod::default()
    };
    pod.template.service_account = account.into();
    ((namespace.into(), name.into()), Some(pod))
}

fn gone(namespace: &str, name: &str) -> (PodName, Option<Pod>) {
    ((namespace.into(), name.into()), None)
}

#[test]
fn a_pod_that_is_gone_leaves_its_address_to_the_range_and_never_its_class() {
    let mut node = Node::new();
    let front = pod("web", "a", "front", &["10.0.0.9", "fd00::9"]);
    let first = node.change(std::slice::from_ref(&front));
    assert_eq!(first, Followed::Done(2), "a policy names it");
    let like = node.change(&[pod("web", "like", "back", &["10.0.0.11"])]);
    let class = Followed::Whole(Why::NewClass);
    assert_eq!(
        like, class,
        "one that only a pattern means is not known before"
    );
    let class = node.word("10.0.0.9");
    let second = pod("web", "b", "front", &["10.0.0.10", "fd00::10"]);
    assert_eq!(node.change(&[second]), Followed::Done(2));
    assert_eq!([node.word("10.0.0.10"), node.word("fd00::10")], [class; 2]);
    assert_eq!(node.change(&[gone("web", "b")]), Followed::Done(2));
    for address in ["10.0.0.10", "fd00::10"] {
        assert_eq!(node.word(address).holder(), Holder::Unknown, "{address}");
        assert_eq!(node.word(address).class(), 0, "{address}");
    }
    // Another's in the same moment.
    let next = pod("web", "c", "nobody", &["10.0.0.9", "fd00::9"]);
    assert_eq!(node.change(&[gone("web", "a"), next]), Followed::Done(2));
    assert_eq!(node.word("10.0.0.9"), Address::new(Holder::RemotePod, 0));
    assert_eq!(node.word("fd00::9"), Address::new(Holder::RemotePod, 0));
    node.is_as_if_linked_anew();
}

#[test]
fn an_address_that_two_pods_claim_is_nobodys_until_one_is_left() {
    let mut node = Node::new();
    node.change(&[pod("ops", "a", "x", &["10.0.0.9"])]);
    let twice = node.change(&[pod("web", "b", "front", &["10.0.0.9"])]);
    assert_eq!(twice, Followed::Whole(Why::Dispute));
    assert_eq!(node.word("10.0.0.9").holder(), Holder::Unknown);
    assert_eq!(
        node.change(&[gone("ops", "a")]),
        Followed::Whole(Why::Dispute)
    );
    assert_eq!(node.word("10.0.0.9").holder(), Holder::RemotePod);
    node.is_as_if_linked_anew();
}

#[test]
fn what_says_nothing_of_a_source_stores_nothing_and_a_local_pod_needs_a_whole_link() {
    let mut node = Node::new();
    let (name, a) = pod("ops", "a", "x", &["10.0.0.9"]);
    node.change(&[(name.clone(), a.clone())]);
    assert_eq!(node.change(&[(name.clone(), a.clone())]), Followed::Done(0));
    let mut finished = a.unwrap();
    finished.finished = true;
    assert_eq!(node.change(&[(name, Some(finished))]), Followed::Done(1));
    assert_eq!(node.word("10.0.0.9").holder(), Holder::Unknown);
    let local = node.change(&[gone("shop", "other")]);
    assert_eq!(local, Followed::Whole(Why::Local));
    node.is_as_if_linked_anew();
}

#[test]
fn room_that_is_used_up_is_found_out_before_anything_is_stored() {
    let mut node = Node::new();
    node.change(&[pod("ops", "a", "x", &["10.0.0.9"])]);
    let many: Vec<_> = (0..9)
        .map(|i| {
            pod(
                "ops",
                &format!("p{i}"),
                "x",
                &[&format!("10.{}.0.1", 20 + i)],
            )
        })
        .collect();
    assert_eq!(
        node.change(&many[..8]),
        Followed::Done(8),
        "two blocks each"
    );
    assert_eq!(node.change(&many[8..]), Followed::Whole(Why::Full));
    node.is_as_if_linked_anew();
}

/// Addresses that share blocks of the trie and buckets, lie in ranges of every kind, or are the node's.
const POOL: [&str; 12] = [
    "10.0.0.7",
    "10.0.0.9",
    "10.0.1.9",
    "10.0.9.9",
    "10.7.0.1",
    "10.9.0.1",
    "192.168.0.1",
    "fd00::9",
    "fd00::a",
    "fd00:0:0:1::9",
    "fd00:0:0:9::9",
    "2001:db8::1",
];

#[derive(Clone, Debug)]
struct Step {
    pod: usize,
    there: bool,
    account: usize,
    addresses: Vec<usize>,
    finished: bool,
    host_network: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let addresses = proptest::collection::btree_set(0..POOL.len(), 0..3);
    (
        0..6_usize,
        prop::bool::weighted(0.75),
        0..3_usize,
        addresses,
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    )
        .prop_map(
            |(pod, there, account, addresses, finished, host_network)| Step {
                pod,
                there,
                account,
                addresses: addresses.into_iter().collect(),
                finished,
                host_network,
            },
        )
}

impl Step {
    fn change(&self) -> (PodName, Option<Pod>) {
        let namespace = ["web", "ops", "shop"][self.pod % 3];
        let name = format!("p{}", self.pod);
        let account = ["front", "back", "x"][self.account];
        let addresses: Vec<&str> = self.addresses.iter().map(|i| POOL[*i]).collect();
        let (name, mut now) = pod(namespace, &name, account, &addresses);
        if let Some(pod) = &mut now {
            pod.finished = self.finished;
            pod.template.host_network = self.host_network;
        }
        (name, now.filter(|_| self.there))
    }
}

/// What happens at once.
#[derive(Clone, Debug)]
enum Event {
    Pods(Vec<Step>),
    Policies(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => proptest::collection::vec(step(), 1..4).prop_map(Event::Pods),
        1 => (0..POLICIES.len()).prop_map(Event::Policies),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn after_any_changes_a_table_says_what_a_whole_link_says(
        events in proptest::collection::vec(event(), 1..16)
    ) {
        let mut node = Node::new();
        for event in events {
            match event {
                Event::Policies(policies) => drop(node.govern(policies)),
                Event::Pods(batch) => {
                    let changes: BTreeMap<PodName, Option<Pod>> =
                        batch.iter().map(Step::change).collect();
                    let changes: Vec<_> = changes.into_iter().collect();
                    node.change(&changes);
                }
            }
            node.is_as_if_linked_anew();
        }
    }
}

#[test]
fn other_policies_take_the_addresses_over_and_store_those_that_they_tell_apart_anew() {
    let mut node = Node::new();
    let pods: Vec<_> = [("web", "front"), ("ops", "x"), ("web", "y")]
        .iter()
        .enumerate()
        .map(|(i, (namespace, account))| {
            let last = 20 + i;
            let addresses = [format!("10.0.9.{last}"), format!("fd00:0:0:9::{last}")];
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            pod(namespace, &format!("p{i}"), account, &addresses)
        })
        .collect();
    node.change(&pods);
    let class = |node: &Node, last: u32| node.word(&format!("10.0.9.{last}")).class();
    let [front, ops, nobody] = [20, 21, 22].map(|last| class(&node, last));
    assert!(front != ops && ops != nobody && nobody == 0);
    let root = node.slot.words[..V4_ROOT as usize + 65_536].to_vec();
    assert!(node.govern(1), "another principal is no whole link");
    assert_eq!(class(&node, 20), nobody, "no policy names it any more");
    assert_eq!(class(&node, 22), nobody);
    assert_ne!(class(&node, 21), nobody);
    let root_now = &node.slot.words[..V4_ROOT as usize + 65_536];
    assert_eq!(root[V4_ROOT as usize..], root_now[V4_ROOT as usize..]);
    node.is_as_if_linked_anew();
    // What is written behind the addresses is written in its old place.
    let length = node.slot.at(header::LENGTH);
    assert!(node.govern(0) && node.govern(1));
    assert_eq!(node.slot.at(header::LENGTH), length);
    assert!(!node.govern(7), "other IP blocks are");
    node.is_as_if_linked_anew();
}

#[test]
fn what_lies_unused_is_bounded() {
    let mut node = Node::new();
    let mut whole = 0;
    for round in 0..64_u32 {
        let (name, pod) = pod("ops", "a", "x", &[&format!("10.{}.0.1", 20 + round)]);
        node.change(&[(name, pod)]);
        whole += u32::from(!node.govern((round % 2) as usize));
        node.is_as_if_linked_anew();
    }
    assert!(whole < 64, "{whole}");
    let anew = link(&node.program, &node.cluster, &node.view, &[]).unwrap();
    let length = node.slot.at(header::LENGTH) as usize;
    assert!(length < anew.words.len() * 2, "{length}");
}
