//! What is known of one connection and one request: who asks, from where, to where, saying what.

use std::{net::IpAddr, sync::Arc};

use super::{http::HttpFacts, token::Claims, truth::Fact, unjudgeable::Unjudgeable};
use crate::{
    cluster::{Cluster, Mesh, Pod, PodTemplate},
    request::{Request, SourceRef},
};

/// Label that makes a pod a gateway, and names the Gateway it belongs to.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Label that a waypoint carries besides.
const MANAGED_BY: &str = "gateway.istio.io/managed";
const MESH_CONTROLLER: &str = "istio.io-mesh-controller";

/// Everything that rules can ask about.
#[derive(Clone, Debug)]
pub struct Facts {
    pub identity: Option<Identity>,
    /// The TCP peer's address.
    pub source: Option<IpAddr>,
    pub destination: Option<IpAddr>,
    pub port: u16,
    pub sni: Fact<Option<String>>,
    pub spoken: Spoken,
}

/// As what the connection is judged.
#[derive(Clone, Debug)]
pub enum Spoken {
    /// Request by request.
    Http {
        request: Fact<HttpFacts>,
        /// The verified token's, if there is one.
        claims: Fact<Option<Claims>>,
        /// How many proxies in front are trusted; `None` on a sidecar.
        trusted_proxies: Option<u32>,
    },
    /// As bytes, whatever they are: fields of HTTP have no meaning.
    Tcp,
}

/// Who asks, as its certificate would say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    pub trust_domain: String,
    pub namespace: String,
    pub service_account: String,
}

impl Identity {
    /// `<trust domain>/ns/<namespace>/sa/<service account>`
    pub fn principal(&self) -> String {
        format!(
            "{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

/// A pod, or a workload that stands for its pods.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    pub namespace: &'a str,
    pub template: &'a PodTemplate,
    /// None for a workload.
    pub addresses: &'a [IpAddr],
}

impl Workload<'_> {
    /// Name of the Gateway that the pod belongs to; an ordinary pod belongs to none.
    pub fn gateway(&self) -> Option<&String> {
        self.template.labels.get(GATEWAY_NAME)
    }

    /// A gateway of the Gateway API, or one of the two that Istio installs itself.
    pub fn is_gateway(&self) -> bool {
        let installed = self.template.labels.get("istio").map(String::as_str);
        self.gateway().is_some() || matches!(installed, Some("ingressgateway" | "egressgateway"))
    }

    pub fn is_waypoint(&self) -> bool {
        let managed_by = self.template.labels.get(MANAGED_BY);
        self.gateway().is_some() && managed_by.is_some_and(|v| v == MESH_CONTROLLER)
    }
}

/// Who asks and from where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    pub identity: Option<Identity>,
    pub address: Option<IpAddr>,
}

/// The pod or workload that the request is for.
pub fn destination<'a>(
    cluster: &'a Cluster,
    request: &Request,
) -> Result<Workload<'a>, Unjudgeable> {
    let is_it = |pod: &&Arc<Pod>| format!("{}/{}", pod.namespace, pod.name) == request.dst;
    if cluster
        .pods
        .iter()
        .find(is_it)
        .is_some_and(|pod| pod.finished)
    {
        return Err(Unjudgeable::Finished(request.dst.clone()));
    }
    find(cluster, &request.dst)?.ok_or_else(|| Unjudgeable::UnknownDestination(request.dst.clone()))
}

/// Who asks: a pod or service account has an identity, an address alone has none.
pub fn peer(
    cluster: &Cluster,
    request: &Request,
    destination: &Workload,
) -> Result<Peer, Unjudgeable> {
    let trust_domain = trust_domain(&cluster.mesh, request)?;
    let identity = |namespace: &str, service_account: &str| Identity {
        trust_domain,
        namespace: namespace.into(),
        service_account: service_account.into(),
    };
    let peer = match &request.src {
        SourceRef::Pod(name) => {
            let source =
                find(cluster, name)?.ok_or_else(|| Unjudgeable::UnknownSource(name.clone()))?;
            // A pod on the host's network shares the node's address: nothing tells it from the node.
            let has_identity = !source.template.host_network;
            Peer {
                identity: has_identity
                    .then(|| identity(source.namespace, &source.template.service_account)),
                address: request
                    .src_ip
                    .or_else(|| reaching(source.addresses, destination.addresses)),
            }
        }
        SourceRef::ServiceAccount(source) => {
            let (namespace, name) = split_name(&source.sa)?;
            Peer {
                identity: Some(identity(namespace, name)),
                address: request.src_ip,
            }
        }
        SourceRef::Ip(source) => {
            if request.src_ip.is_some_and(|other| other != source.ip) {
                return Err(Unjudgeable::TwoAddresses);
            }
            Peer {
                identity: None,
                address: Some(source.ip),
            }
        }
    };
    if request.src_trust_domain.is_some() && peer.identity.is_none() {
        return Err(Unjudgeable::TrustDomainWithoutIdentity);
    }
    Ok(peer)
}

/// The destination's address that the source reaches: the one of its own family; the first, where
/// the source's is not known.
pub fn reached(destination: &Workload, source: Option<IpAddr>) -> Option<IpAddr> {
    let mut addresses = destination.addresses.iter().copied();
    addresses.find(|own| source.is_none_or(|source| source.is_ipv4() == own.is_ipv4()))
}

/// The first of `ours` that is of the same family as one of `theirs`, else the first.
fn reaching(ours: &[IpAddr], theirs: &[IpAddr]) -> Option<IpAddr> {
    let same_family = |our: &&IpAddr| theirs.iter().any(|their| their.is_ipv4() == our.is_ipv4());
    ours.iter().find(same_family).or(ours.first()).copied()
}

fn trust_domain(mesh: &Mesh, request: &Request) -> Result<String, Unjudgeable> {
    match &request.src_trust_domain {
        None => Ok(mesh.trust_domain.clone()),
        Some(domain) if domain.is_empty() || domain.contains('/') => {
            Err(Unjudgeable::MalformedTrustDomain)
        }
        Some(domain) => Ok(domain.clone()),
    }
}

/// A pod of that name, else a workload of that name.
fn find<'a>(cluster: &'a Cluster, name: &str) -> Result<Option<Workload<'a>>, Unjudgeable> {
    let (namespace, base_name) = split_name(name)?;
    let is_named = |ns: &str, n: &str| ns == namespace && n == base_name;
    if let Some(pod) = cluster
        .pods
        .iter()
        .find(|p| is_named(&p.namespace, &p.name))
    {
        return Ok(Some(Workload {
            namespace: &pod.namespace,
            template: &pod.template,
            addresses: &pod.ips,
        }));
    }
    let mut workloads = cluster
        .workloads
        .iter()
        .filter(|w| is_named(&w.namespace, &w.name));
    let Some(first) = workloads.next() else {
        return Ok(None);
    };
    if workloads.any(|other| other.template != first.template) {
        return Err(Unjudgeable::AmbiguousWorkload(name.into()));
    }
    Ok(Some(Workload {
        namespace: &first.namespace,
        template: &first.template,
        addresses: &[],
    }))
}

fn split_name(name: &str) -> Result<(&str, &str), Unjudgeable> {
    match name.split_once('/') {
        Some((namespace, base_name))
            if !namespace.is_empty() && !base_name.is_empty() && !base_name.contains('/') =>
        {
            Ok((namespace, base_name))
        }
        _ => Err(Unjudgeable::MalformedName(name.into())),
    }
}
