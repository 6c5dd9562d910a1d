//! The world that policies speak about: namespaces, service accounts, pods, workloads, services,
//! nodes and the mesh's own settings. Plain values as the manifests give them. A bundle remembers
//! them without annotations, which may say anything, and without where they were written.

pub(crate) mod mesh;
mod meta;
pub(crate) mod other;
pub(crate) mod pod;
pub(crate) mod service;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub(crate) use self::meta::Meta;
pub use self::pod::MeshOnPod;
use crate::ast::{AuthorizationPolicy, DocumentId, RequestAuthentication};

/// Everything that was read, sorted by (namespace, name) within each kind, so that the order of
/// files and documents never shows in a result.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cluster {
    pub mesh: Mesh,
    pub namespaces: BTreeMap<String, Namespace>,
    /// (namespace, name)
    pub service_accounts: BTreeSet<(String, String)>,
    /// Shared: a hundred thousand of them move whenever one comes or goes.
    pub pods: Vec<Arc<Pod>>,
    pub workloads: Vec<Workload>,
    pub services: Vec<Service>,
    pub nodes: Vec<Node>,
    pub policies: Vec<AuthorizationPolicy>,
    pub request_authentications: Vec<RequestAuthentication>,
    pub peer_authentications: Vec<ObjectRef>,
    /// Objects of kinds that mean nothing here, by kind.
    pub skipped: BTreeMap<String, u32>,
}

/// An object and the document it came from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ObjectRef {
    pub document: DocumentId,
    pub object: crate::diagnostic::Path,
    pub namespace: String,
    pub name: String,
}

/// The part of Istio's MeshConfig that changes the meaning of policies.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mesh {
    pub trust_domain: String,
    pub trust_domain_aliases: Vec<String>,
    pub root_namespace: String,
    pub path_normalization: PathNormalization,
    pub extension_providers: Vec<ExtensionProvider>,
    /// `defaultConfig.gatewayTopology.numTrustedProxies`
    pub trusted_proxies: u32,
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".into(),
            trust_domain_aliases: Vec::new(),
            root_namespace: "istio-system".into(),
            path_normalization: PathNormalization::Base,
            extension_providers: Vec::new(),
            trusted_proxies: 0,
        }
    }
}

/// `pathNormalization.normalization`; DEFAULT is BASE.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum PathNormalization {
    None,
    #[default]
    Base,
    MergeSlashes,
    DecodeAndMergeSlashes,
}

/// `extensionProviders[]`, of which only the ext_authz kinds matter.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExtensionProvider {
    pub name: String,
    pub kind: ProviderKind,
}

/// What a CUSTOM policy's provider speaks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ProviderKind {
    /// `envoyExtAuthzGrpc`
    ExtAuthzGrpc(ExtAuthz),
    /// `envoyExtAuthzHttp`
    ExtAuthzHttp(ExtAuthz),
    /// Tracing, logging and so on: not an authorizer.
    Other,
}

/// Where an external authorizer listens, and what its failure means.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ExtAuthz {
    pub service: String,
    pub port: u16,
    pub timeout_ms: Option<u64>,
    /// Let requests through when the authorizer fails.
    pub fail_open: bool,
    /// Status of a refusal caused by failure; default 403.
    pub status_on_error: Option<u16>,
    pub path_prefix: String,
    pub include_request_headers_in_check: Vec<String>,
    pub include_additional_headers_in_check: BTreeMap<String, String>,
    pub headers_to_upstream_on_allow: Vec<String>,
    pub headers_to_downstream_on_deny: Vec<String>,
    pub headers_to_downstream_on_allow: Vec<String>,
    /// `includeRequestBodyInCheck.maxRequestBytes`; `None`: the body is not sent.
    pub max_request_bytes: Option<u32>,
    pub allow_partial_message: bool,
    /// The body goes as bytes, not as text; gRPC only.
    pub pack_as_bytes: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Namespace {
    #[serde(skip)]
    pub document: DocumentId,
    pub labels: BTreeMap<String, String>,
}

/// What a pod is made from: of a Pod itself, or of a workload's template.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct PodTemplate {
    pub labels: BTreeMap<String, String>,
    #[serde(skip)]
    pub annotations: BTreeMap<String, String>,
    /// `default` when the manifest names none.
    pub service_account: String,
    /// The manifest names the service account itself.
    pub service_account_given: bool,
    pub host_network: bool,
    pub ports: Vec<ContainerPort>,
    /// Ports that TCP, HTTP and gRPC probes of the containers name, resolved to numbers.
    pub probe_ports: BTreeSet<u16>,
    /// Names of containers and native-sidecar init containers.
    pub containers: Vec<String>,
}

/// A container port. Only TCP ones are kept.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct ContainerPort {
    pub name: String,
    pub port: u16,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Pod {
    #[serde(skip)]
    pub document: DocumentId,
    #[serde(skip)]
    pub object: crate::diagnostic::Path,
    pub namespace: String,
    pub name: String,
    pub template: PodTemplate,
    /// `status.podIPs`, else `status.podIP`.
    pub ips: Vec<IpAddr>,
    pub node: Option<String>,
    /// Phase Succeeded or Failed: its addresses may be another pod's by now.
    pub finished: bool,
    /// The host's side of the pod's veth: annotation `enforcer/interface`.
    pub interface: Option<String>,
    /// Path of the pod's network namespace: annotation `enforcer/netns`.
    pub netns: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Workload {
    #[serde(skip)]
    pub document: DocumentId,
    #[serde(skip)]
    pub object: crate::diagnostic::Path,
    /// Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, CronJob, ReplicationController.
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub template: PodTemplate,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Service {
    #[serde(skip)]
    pub document: DocumentId,
    #[serde(skip)]
    pub object: crate::diagnostic::Path,
    pub namespace: String,
    pub name: String,
    /// Empty: selects nothing.
    pub selector: BTreeMap<String, String>,
    /// ClusterIP, NodePort, LoadBalancer, ExternalName.
    pub kind: String,
    /// `externalTrafficPolicy: Local`
    pub external_traffic_local: bool,
    pub ports: Vec<ServicePort>,
}

/// A TCP port of a Service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServicePort {
    pub name: String,
    pub port: u16,
    pub target: TargetPort,
    pub app_protocol: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TargetPort {
    Number(u16),
    /// Name of a container port.
    Name(String),
}

impl Default for TargetPort {
    fn default() -> Self {
        Self::Number(0)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    /// `status.addresses` of type InternalIP and ExternalIP.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`, else `spec.podCIDR`.
    pub pod_cidrs: Vec<IpNet>,
}

/// What is declared to be spoken on a destination port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Protocol {
    /// http, http2, h2c, grpc, grpc-web
    Http,
    /// tcp, tls, https, mongo, mysql, redis
    Tcp,
    /// Anything else, nothing, or Services that disagree: found out from the first bytes.
    Undeclared,
}

impl PodTemplate {
    /// What `port` is declared to speak: Services that select the pod first, else, where none of them
    /// says anything, the name of the container port. A Service says it by `appProtocol`, whose
    /// value may be one that means nothing here, else by the beginning of its port's name if that
    /// is a protocol. Services that disagree declare nothing.
    pub fn protocol(&self, namespace: &str, port: u16, services: &[&Service]) -> Protocol {
        let mut declared: Option<Option<Protocol>> = None;
        for service in services
            .iter()
            .filter(|s| s.namespace == namespace && s.selects(self))
        {
            for service_port in service
                .ports
                .iter()
                .filter(|p| self.target(&p.target) == Some(port))
            {
                let one = service_port.protocol();
                match declared {
                    Some(before) if before != one => return Protocol::Undeclared,
                    _ => declared = Some(one),
                }
            }
        }
        match declared.flatten() {
            None => self
                .ports
                .iter()
                .find(|p| p.port == port)
                .map_or(Protocol::Undeclared, |p| protocol_of_port_name(&p.name)),
            Some(protocol) => protocol,
        }
    }

    /// The container port that a Service's target port means on this pod.
    pub fn target(&self, target: &TargetPort) -> Option<u16> {
        match target {
            TargetPort::Number(port) => Some(*port),
            TargetPort::Name(name) => self.ports.iter().find(|p| p.name == *name).map(|p| p.port),
        }
    }
}

impl Service {
    /// Whether the Service sends its traffic to pods of this template. The caller compares namespaces.
    pub fn selects(&self, template: &PodTemplate) -> bool {
        !self.selector.is_empty()
            && self
                .selector
                .iter()
                .all(|(k, v)| template.labels.get(k) == Some(v))
    }
}

impl ServicePort {
    /// `None` where nothing is said.
    fn protocol(&self) -> Option<Protocol> {
        match &self.app_protocol {
            Some(name) => Some(protocol_by_name(name)),
            None => match protocol_of_port_name(&self.name) {
                Protocol::Undeclared => None,
                protocol => Some(protocol),
            },
        }
    }
}

/// Istio: the name of a port is `<protocol>` or `<protocol>-<suffix>`.
fn protocol_of_port_name(name: &str) -> Protocol {
    // ISTIO: "grpc-web" is the one protocol with a dash in it.
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return Protocol::Http;
    }
    protocol_by_name(name.split('-').next().unwrap_or(""))
}

fn protocol_by_name(name: &str) -> Protocol {
    match name.to_ascii_lowercase().as_str() {
        "http" | "http2" | "h2c" | "kubernetes.io/h2c" | "grpc" | "grpc-web" => Protocol::Http,
        "tcp" | "tls" | "https" | "mongo" | "mysql" | "redis" => Protocol::Tcp,
        _ => Protocol::Undeclared,
    }
}
