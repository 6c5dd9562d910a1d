//! Who asks whom: a request's names, found in the cluster.

use std::{collections::HashMap, net::IpAddr};

use crate::{
    attach::Attachments,
    cluster::{Cluster, Pod, PodTemplate, Workload},
    ir::{Atom, Program},
    link::{Identity, PodName, Source},
    lower::scope::atoms,
    request::{Request, SourceRef, Wire},
};

/// Both ends of a request.
#[derive(Clone, Debug)]
pub(crate) struct Parties {
    pub source: Source,
    /// As the request names it, for messages.
    pub source_name: String,
    /// The source is a pod of the inventory under its own address and trust domain.
    pub listed: bool,
    pub destination: Destination,
    /// The connection is IPv6.
    pub v6: bool,
    /// `Host`, as `http.host` or as a header.
    pub authority: Option<String>,
}

/// The pod that is asked, or the workload whose template stands for its pods.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    pub name: PodName,
    pub template: PodTemplate,
    /// A pod to be added to the inventory: made from a workload's template.
    pub pod: Option<Pod>,
    pub has_address: bool,
    /// Succeeded or failed: its addresses may be another pod's.
    pub finished: bool,
}

/// Addresses that the policies of a destination ask for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    pub source: bool,
    pub destination: bool,
}

/// The cluster's pods and workloads by name.
pub(crate) struct World<'a> {
    cluster: &'a Cluster,
    pods: HashMap<(&'a str, &'a str), &'a Pod>,
    workloads: HashMap<(&'a str, &'a str), Vec<&'a Workload>>,
}

impl<'a> World<'a> {
    pub fn new(cluster: &'a Cluster) -> Self {
        let mut workloads: HashMap<_, Vec<&Workload>> = HashMap::new();
        for workload in &cluster.workloads {
            workloads
                .entry((&*workload.namespace, &*workload.name))
                .or_default()
                .push(workload);
        }
        Self {
            cluster,
            pods: cluster
                .pods
                .iter()
                .map(|p| ((&*p.namespace, &*p.name), &**p))
                .collect(),
            workloads,
        }
    }

    /// A pod of that name, else a workload, and its addresses.
    fn find(&self, name: &str) -> Result<Option<(Destination, Vec<IpAddr>)>, String> {
        let (namespace, base) = split(name)?;
        let key = (namespace.to_string(), base.to_string());
        if let Some(pod) = self.pods.get(&(namespace, base)) {
            let destination = Destination {
                name: key,
                template: pod.template.clone(),
                pod: None,
                has_address: !pod.ips.is_empty(),
                finished: pod.finished,
            };
            return Ok(Some((destination, pod.ips.clone())));
        }
        let Some([first, others @ ..]) = self.workloads.get(&(namespace, base)).map(Vec::as_slice)
        else {
            return Ok(None);
        };
        if others.iter().any(|other| other.template != first.template) {
            return Err(format!("several workloads are called `{name}`: name a pod"));
        }
        let pod = Pod {
            namespace: namespace.into(),
            name: base.into(),
            template: first.template.clone(),
            ..Pod::default()
        };
        let destination = Destination {
            name: key,
            template: first.template.clone(),
            pod: Some(pod),
            has_address: false,
            finished: false,
        };
        Ok(Some((destination, Vec::new())))
    }
}

impl Parties {
    pub fn of(world: &World<'_>, request: &Request) -> Result<Self, String> {
        let cluster = world.cluster;
        let (destination, own) = world
            .find(&request.dst)?
            .ok_or_else(|| format!("no pod or workload is called `{}`", request.dst))?;
        if destination.finished {
            return Err(format!(
                "`{}` has finished (phase Succeeded or Failed): nothing listens there",
                request.dst
            ));
        }
        let mut listed = false;
        let (source, source_name) = match &request.src {
            SourceRef::Pod(name) => {
                let (found, addresses) = world
                    .find(name)?
                    .ok_or_else(|| format!("no pod or workload is called `{name}`"))?;
                let address = request.src_ip.or_else(|| reaching(&addresses, &own));
                let hidden = found.template.host_network;
                listed = found.pod.is_none()
                    && !hidden
                    && request.src_trust_domain.is_none()
                    && address.is_some_and(|a| addresses.contains(&a))
                    && !found.finished;
                let identity = (!hidden).then(|| Identity {
                    trust_domain: trust_domain(cluster, request),
                    namespace: found.name.0.clone(),
                    service_account: found.template.service_account.clone(),
                });
                (Source { identity, address }, name.clone())
            }
            SourceRef::ServiceAccount(account) => {
                let (namespace, name) = split(&account.sa)?;
                let identity = Identity {
                    trust_domain: trust_domain(cluster, request),
                    namespace: namespace.into(),
                    service_account: name.into(),
                };
                (
                    Source {
                        identity: Some(identity),
                        address: request.src_ip,
                    },
                    format!("sa:{}", account.sa),
                )
            }
            SourceRef::Ip(source) => {
                if request.src_ip.is_some_and(|other| other != source.ip) {
                    return Err("`src.ip` and `src_ip` name two addresses".into());
                }
                (
                    Source {
                        identity: None,
                        address: Some(source.ip),
                    },
                    source.ip.to_string(),
                )
            }
        };
        if request.src_trust_domain.is_some() && source.identity.is_none() {
            return Err("`src_trust_domain` is given for a source without identity".into());
        }
        let domain = request.src_trust_domain.as_deref();
        if domain.is_some_and(|domain| domain.is_empty() || domain.contains('/')) {
            return Err("a trust domain cannot be empty or contain `/`".into());
        }
        if request.http.is_some() && request.protocol != Wire::Http {
            return Err("`http` is given for a request whose protocol is not http".into());
        }
        let v6 = match source.address {
            Some(address) => address.is_ipv6(),
            None => own.first().is_some_and(IpAddr::is_ipv6),
        };
        let has_address = match source.address {
            Some(address) => own.iter().any(|a| a.is_ipv6() == address.is_ipv6()),
            None => !own.is_empty(),
        };
        Ok(Self {
            source,
            source_name,
            listed,
            v6,
            authority: authority(request)?,
            destination: Destination {
                has_address,
                ..destination
            },
        })
    }
}

impl Needs {
    /// Which addresses the policies of a destination ask for.
    pub fn of(program: &Program, attachments: &Attachments<'_>, destination: &Destination) -> Self {
        let mut needs = Self::default();
        for id in attachments.policies(&destination.name.0, &destination.template) {
            let rules = program
                .policies
                .get(id.index())
                .into_iter()
                .flat_map(|p| &p.rules);
            for atom in rules.flat_map(atoms) {
                match program.atoms.get(atom.index()) {
                    Some(Atom::SourceIp(_) | Atom::RemoteIp(_)) => needs.source = true,
                    Some(Atom::DestinationIp(_)) => needs.destination = true,
                    _ => {}
                }
            }
        }
        needs
    }
}

/// The first of `ours` that is of the family of one of `theirs`, else the first.
fn reaching(ours: &[IpAddr], theirs: &[IpAddr]) -> Option<IpAddr> {
    ours.iter()
        .find(|our| theirs.iter().any(|their| their.is_ipv4() == our.is_ipv4()))
        .or(ours.first())
        .copied()
}

fn trust_domain(cluster: &Cluster, request: &Request) -> String {
    request
        .src_trust_domain
        .clone()
        .unwrap_or_else(|| cluster.mesh.trust_domain.clone())
}

fn authority(request: &Request) -> Result<Option<String>, String> {
    let Some(http) = &request.http else {
        return Ok(None);
    };
    let lines: Vec<&String> = http
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("host"))
        .flat_map(|(_, values)| values.lines())
        .collect();
    match (&http.host, lines.as_slice()) {
        (host, []) => Ok(host.clone()),
        (None, [line]) => Ok(Some((*line).clone())),
        _ => Err("the request names several hosts".into()),
    }
}

fn split(name: &str) -> Result<(&str, &str), String> {
    match name.split_once('/') {
        Some((namespace, base))
            if !namespace.is_empty() && !base.is_empty() && !base.contains('/') =>
        {
            Ok((namespace, base))
        }
        _ => Err(format!("`{name}` is not `namespace/name`")),
    }
}
