//! Pods, workloads, Services, Nodes and MeshConfig as real manifests have them.

use policyc::{
    cluster::{Cluster, PathNormalization, Protocol, ProviderKind, TargetPort},
    diagnostic::{Code, Diagnostic},
    read::load_str,
};

#[track_caller]
fn cluster(text: &str, mesh: Option<&str>) -> Cluster {
    let (loaded, found) = load_str("a.yaml", text, mesh);
    assert!(found.is_empty(), "must be accepted: {found:?}");
    loaded.cluster
}

#[track_caller]
fn mesh_codes(mesh: &str) -> Vec<Code> {
    let (_, found): (_, Vec<Diagnostic>) = load_str("a.yaml", "", Some(mesh));
    found.iter().map(|d| d.code).collect()
}

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  labels: {app: web}
  annotations:
    enforcer/interface: veth-web
    enforcer/netns: /run/netns/web
spec:
  serviceAccountName: web
  nodeName: node-1
  initContainers:
  - name: setup
    ports: [{containerPort: 1}]
  - name: agent
    restartPolicy: Always
    ports: [{name: tcp-agent, containerPort: 9000}]
  containers:
  - name: web
    ports:
    - {name: http-web, containerPort: 8080}
    - {name: dns, containerPort: 53, protocol: UDP}
    readinessProbe: {httpGet: {path: /, port: http-web}}
    livenessProbe: {tcpSocket: {port: 8081}}
    startupProbe: {grpc: {port: 8082}}
status:
  phase: Running
  podIP: 10.0.0.9
  podIPs: [{ip: 10.0.0.9}, {ip: "fd00::9"}]
"#;

#[test]
fn a_pod_with_everything() {
    let mut cluster = cluster(POD, None);
    let pod = cluster.pods.remove(0);
    assert_eq!(pod.template.service_account, "web");
    assert!(pod.template.service_account_given, "the manifest names it");
    let ports: Vec<_> = pod
        .template
        .ports
        .iter()
        .map(|p| (p.port, p.name.as_str()))
        .collect();
    assert_eq!(
        ports,
        [(8080, "http-web"), (9000, "tcp-agent")],
        "no UDP, no finished container"
    );
    assert_eq!(
        pod.template.probe_ports.iter().copied().collect::<Vec<_>>(),
        [8080, 8081, 8082]
    );
    assert_eq!(pod.template.containers, ["agent", "web"]);
    assert_eq!(pod.ips.len(), 2, "both families");
    assert_eq!(pod.node.as_deref(), Some("node-1"));
    assert!(!pod.finished);
    assert_eq!(pod.interface.as_deref(), Some("veth-web"));
    assert_eq!(pod.netns.as_deref(), Some("/run/netns/web"));
}

#[test]
fn a_finished_pod_and_one_without_a_list_of_addresses() {
    let text = POD
        .replace("phase: Running", "phase: Succeeded")
        .replace("  podIPs: [{ip: 10.0.0.9}, {ip: \"fd00::9\"}]\n", "");
    let pod = cluster(&text, None).pods.remove(0);
    assert!(pod.finished, "its address may be another pod's by now");
    assert_eq!(
        pod.ips,
        ["10.0.0.9".parse::<std::net::IpAddr>().expect("an address")]
    );
}

#[test]
fn workloads_of_every_kind_have_their_template() {
    let mut text = String::new();
    let plain = [
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "ReplicaSet"),
        ("batch/v1", "Job"),
        ("v1", "ReplicationController"),
    ];
    for (version, kind) in plain {
        text += &format!(
            "---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: w}}\nspec:\n  template:\n    metadata: {{labels: {{app: a}}}}\n    spec: {{hostNetwork: true, containers: [{{name: c}}]}}\n"
        );
    }
    text += "---\napiVersion: batch/v1\nkind: CronJob\nmetadata: {name: w}\nspec:\n  jobTemplate:\n    spec:\n      template:\n        metadata: {labels: {app: a}}\n        spec: {hostNetwork: true, serviceAccount: old}\n";
    let cluster = cluster(&text, None);
    let kinds: Vec<&str> = cluster.workloads.iter().map(|w| w.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "CronJob",
            "DaemonSet",
            "Deployment",
            "Job",
            "ReplicaSet",
            "ReplicationController",
            "StatefulSet"
        ],
        "one of each, sorted"
    );
    for workload in &cluster.workloads {
        assert_eq!(workload.template.labels["app"], "a", "{}", workload.kind);
        assert!(workload.template.host_network, "{}", workload.kind);
        let (account, given) = match workload.kind.as_str() {
            "CronJob" => ("old", true),
            _ => ("default", false),
        };
        assert_eq!(workload.template.service_account, account);
        assert_eq!(workload.template.service_account_given, given);
    }
}

#[test]
fn services_and_the_protocol_they_declare() {
    let text = format!(
        "{POD}---\n{}",
        r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {app: web}
  ports:
  - {name: grpc-api, port: 80, targetPort: http-web}
  - {name: x, port: 9000, appProtocol: redis}
  - {name: dns, port: 53, protocol: UDP}
  - {port: 7, targetPort: "70"}
"#
    );
    let cluster = cluster(&text, None);
    let service = &cluster.services[0];
    assert_eq!(service.kind, "NodePort");
    assert!(service.external_traffic_local);
    let targets: Vec<_> = service.ports.iter().map(|p| &p.target).collect();
    let name = TargetPort::Name("http-web".into());
    assert_eq!(
        targets,
        [&name, &TargetPort::Number(9000), &TargetPort::Number(70)],
        "no UDP; a number in quotes is a number"
    );
    let template = &cluster.pods[0].template;
    let services = [service];
    assert_eq!(template.protocol("shop", 8080, &services), Protocol::Http);
    assert_eq!(template.protocol("shop", 9000, &services), Protocol::Tcp);
    assert_eq!(
        template.protocol("shop", 70, &services),
        Protocol::Undeclared
    );
    assert_eq!(
        template.protocol("elsewhere", 9000, &services),
        Protocol::Tcp,
        "a Service of another namespace is not asked; the container port's name is"
    );
}

#[test]
fn nodes_and_namespaces() {
    let text = r#"
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDR: 10.244.0.0/24, podCIDRs: [10.244.0.0/24, "fd00::/64"]}
status:
  addresses:
  - {type: InternalIP, address: 192.0.2.1}
  - {type: Hostname, address: n1}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: a}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
"#;
    let cluster = cluster(text, None);
    assert_eq!(cluster.nodes[0].pod_cidrs.len(), 2);
    assert_eq!(
        cluster.nodes[0].addresses.len(),
        1,
        "a host name is not an address"
    );
    assert_eq!(cluster.namespaces["shop"].labels["team"], "a");
    assert!(
        cluster
            .service_accounts
            .contains(&("shop".into(), "web".into()))
    );
    assert_eq!(cluster.peer_authentications.len(), 1);
    assert_eq!(cluster.skipped["Secret"], 1);
}

const MESH: &str = r#"
trustDomain: corp.example
trustDomainAliases: [old.example]
rootNamespace: istio-config
enableTracing: true
pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}
defaultConfig: {gatewayTopology: {numTrustedProxies: 2}, concurrency: 4}
extensionProviders:
- name: opa
  envoyExtAuthzHttp:
    service: opa.opa.svc.cluster.local
    port: 8181
    timeout: 0.5s
    failOpen: true
    statusOnError: "503"
    includeRequestHeadersInCheck: [authorization]
    includeRequestBodyInCheck: {maxRequestBytes: 1024}
- name: tracing
  zipkin: {service: z, port: 9411}
"#;

#[test]
fn a_mesh_config_plain_and_in_its_config_map() {
    let plain = cluster("", Some(MESH)).mesh;
    assert_eq!(plain.trust_domain, "corp.example");
    assert_eq!(plain.trust_domain_aliases, ["old.example"]);
    assert_eq!(plain.root_namespace, "istio-config");
    assert_eq!(
        plain.path_normalization,
        PathNormalization::DecodeAndMergeSlashes
    );
    assert_eq!(plain.trusted_proxies, 2);
    let ProviderKind::ExtAuthzHttp(opa) = &plain.extension_providers[0].kind else {
        panic!("opa speaks HTTP");
    };
    assert_eq!(
        (opa.port, opa.timeout_ms, opa.fail_open),
        (8181, Some(500), true)
    );
    assert_eq!(
        (opa.status_on_error, opa.max_request_bytes),
        (Some(503), Some(1024))
    );
    assert_eq!(plain.extension_providers[1].kind, ProviderKind::Other);
    let indented = MESH.replace('\n', "\n    ");
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio}}\ndata:\n  mesh: |-{indented}\n"
    );
    assert_eq!(cluster("", Some(&map)).mesh, plain);
    assert_eq!(
        cluster("", Some("{}")).mesh,
        policyc::cluster::Mesh::default()
    );
}

#[test]
fn mistakes_in_a_mesh_config() {
    assert_eq!(mesh_codes("trustDomian: a"), [Code::UnknownField]);
    assert_eq!(mesh_codes("trustDomainAliases: a"), [Code::WrongType]);
    assert_eq!(
        mesh_codes("pathNormalization: {normalization: base}"),
        [Code::MeshValue]
    );
    assert_eq!(
        mesh_codes("extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: s}}]"),
        [Code::MissingField]
    );
    assert_eq!(
        mesh_codes("extensionProviders: [{zipkin: {}}]"),
        [Code::MeshValue]
    );
    assert_eq!(
        mesh_codes("apiVersion: v1\nkind: ConfigMap\ndata: {}"),
        [Code::MissingField]
    );
}
