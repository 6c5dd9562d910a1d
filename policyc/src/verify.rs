//! Does a bundle mean what its sources say? The table that is linked from it is compared with the
//! oracle, which reads the sources alone, on a set of requests that is complete over what the
//! policies can tell apart:
//!
//! - every distinct scope, by one of its workloads;
//! - for each scope every set of its source predicates that some source makes true, by one such
//!   source: everybody in the inventory, whomever a policy names and the nearest neighbours of those;
//!   the source that makes none true; the first and last address of every IP block that the scope
//!   names, and their neighbours outside;
//! - every port that a rule names or a workload declares, its neighbours, and one that nobody names;
//! - everything that may be spoken there: TCP, TLS, and HTTP requests made so that each rule that is
//!   left to userspace holds, and so that each of its parts in turn does not.
//!
//! What is to be told apart is asked of the bundle and of the sources, so that neither hides what
//! only the other one distinguishes. The verdict on the sources' side is the oracle's alone.
//!
//! Nothing is sampled: what was compared is counted and told.

mod identities;
mod witness;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use serde::Serialize;

use crate::{
    attach::Attachments,
    cluster::{Cluster, Pod, Service},
    diagnostic::At,
    engine,
    ir::{Atom, AtomId, Program},
    link::{Identity, Source, classes::Classes, scopes::keys},
    lower::{
        cell::cell,
        scope::{Scope, ScopeKey},
    },
    options::Options,
    oracle,
    report::with_workloads,
    request::{IpSource, Judgement, Request, ServiceAccountSource, SourceRef},
    resolve::resolve,
};

/// What was compared, and where the two differ.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Verified {
    pub scopes: usize,
    /// (scope, source predicates) pairs.
    pub rows: usize,
    /// (scope, source predicates, port) triples.
    pub cells: usize,
    pub requests: usize,
    pub differences: Vec<Difference>,
}

/// A request that the bundle and its sources judge differently.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Difference {
    pub request: Request,
    pub sources: String,
    pub bundle: String,
}

/// Differences that are kept; one is enough for a no.
const DIFFERENCES_KEPT: usize = 20;

/// Compares a program with the sources of `cluster`. `progress` is called with the number of scopes
/// that are done and of all.
///
/// # Errors
/// A table that cannot be linked, or an inventory that contradicts itself.
pub fn verify(
    program: &Program,
    cluster: &Cluster,
    options: &Options,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Verified, String> {
    let world = with_workloads(cluster);
    let nowhere = |_: &At| (String::new(), 0);
    let written = resolve(cluster, options.catch_all_deny, &options.jwks, &nowhere)
        .map_err(|e| e.to_string())?;
    let sides = [program, &written];
    let scopes = distinct_scopes(&sides, &world)?;
    let identities = identities::all(&world, &sides);
    let mut verified = Verified::default();
    let all = scopes.len();
    for (done, (keys, pod)) in scopes.into_iter().enumerate() {
        progress(done, all);
        verified.scopes += 1;
        let [of_bundle, of_sources] = keys;
        let scopes = [
            Scope::new(program, of_bundle),
            Scope::new(&written, of_sources),
        ];
        let requests = requests(&scopes, pod, &identities, &mut verified)?;
        let near = neighbourhood(&world, pod);
        compare(program, &near, &requests, options, &mut verified);
    }
    progress(all, all);
    Ok(verified)
}

/// One workload for each scope that exists, in the bundle or in the sources.
fn distinct_scopes<'a>(
    programs: &[&Program; 2],
    world: &'a Cluster,
) -> Result<BTreeMap<[ScopeKey; 2], &'a Pod>, String> {
    let attachments = programs.map(Attachments::new);
    let mut services: BTreeMap<&str, Vec<&Service>> = BTreeMap::new();
    for service in &world.services {
        services
            .entry(&service.namespace)
            .or_default()
            .push(service);
    }
    let mut scopes = BTreeMap::new();
    for pod in world.pods.iter().filter(|p| !p.finished) {
        let near = services
            .get(pod.namespace.as_str())
            .map_or(&[][..], Vec::as_slice);
        let keys = |i: usize| -> Result<[ScopeKey; 2], String> {
            let (Some(program), Some(attachments)) = (programs.get(i), attachments.get(i)) else {
                return Err("there are two programs".into());
            };
            keys(program, attachments, near, pod).map_err(|e| e.to_string())
        };
        for (of_bundle, of_sources) in keys(0)?.into_iter().zip(keys(1)?) {
            scopes.entry([of_bundle, of_sources]).or_insert(&**pod);
        }
    }
    Ok(scopes)
}

/// All that matters for a destination: policies of its namespace and of the root namespace, and
/// itself. Istio looks at no other.
fn neighbourhood(world: &Cluster, pod: &Pod) -> Cluster {
    let near =
        |namespace: &str| namespace == pod.namespace || namespace == world.mesh.root_namespace;
    Cluster {
        mesh: world.mesh.clone(),
        pods: vec![Arc::new(pod.clone())],
        services: world
            .services
            .iter()
            .filter(|s| s.namespace == pod.namespace)
            .cloned()
            .collect(),
        policies: world
            .policies
            .iter()
            .filter(|p| near(&p.namespace))
            .cloned()
            .collect(),
        request_authentications: world
            .request_authentications
            .iter()
            .filter(|a| near(&a.namespace))
            .cloned()
            .collect(),
        ..Cluster::default()
    }
}

/// The requests that tell everything apart for one workload: its scope in the bundle, and its scope
/// in the sources.
fn requests(
    scopes: &[Scope<'_>; 2],
    pod: &Pod,
    identities: &[Identity],
    verified: &mut Verified,
) -> Result<Vec<Request>, String> {
    let mut ports: BTreeSet<u16> = scopes
        .iter()
        .flat_map(|s| s.port_atoms.keys().chain(s.key.ports.keys()))
        .copied()
        .collect();
    let named: Vec<u16> = ports.iter().copied().collect();
    ports.extend(
        named
            .iter()
            .flat_map(|p| [p.saturating_sub(1), p.saturating_add(1)]),
    );
    ports.insert(first_unnamed(&ports));
    let rows = rows(scopes, pod, identities)?;
    verified.rows += rows.len();
    let mut requests = Vec::new();
    let mut told = BTreeSet::new();
    for (sets, source) in &rows {
        for &port in &ports {
            verified.cells += 1;
            let base = Request {
                port,
                dst: format!("{}/{}", pod.namespace, pod.name),
                ..asked_by(source)
            };
            for (scope, atoms) in scopes.iter().zip(sets) {
                let declared = scope.key.ports.get(&port).copied();
                let protocol = declared.unwrap_or(crate::cluster::Protocol::Undeclared);
                let atom = scope.port_atoms.get(&port).copied();
                let residual = cell(scope, atoms, atom, protocol).residual;
                for request in witness::requests(scope.program, &residual, &base) {
                    // Both sides often ask for the same.
                    if told.insert(serde_json::to_string(&request).map_err(|e| e.to_string())?) {
                        requests.push(Request {
                            id: requests.len().to_string(),
                            ..request
                        });
                    }
                }
            }
        }
    }
    Ok(requests)
}

fn first_unnamed(ports: &BTreeSet<u16>) -> u16 {
    (1024..=u16::MAX)
        .rev()
        .find(|port| !ports.contains(port))
        .unwrap_or(0)
}

/// One source for each pair of sets of the two scopes' atoms that some source makes true.
fn rows(
    scopes: &[Scope<'_>; 2],
    pod: &Pod,
    identities: &[Identity],
) -> Result<BTreeMap<[BTreeSet<AtomId>; 2], Source>, String> {
    let v6 = pod.ips.first().is_some_and(IpAddr::is_ipv6);
    let mut addresses = BTreeSet::from([if v6 { ANYONE_V6 } else { ANYONE_V4 }]);
    for scope in scopes {
        for atom in &scope.source_atoms {
            let atom = scope.program.atoms.get(atom.index());
            if let Some(Atom::SourceIp(net) | Atom::RemoteIp(net)) = atom {
                addresses.extend(edges(*net));
            }
        }
    }
    let mut classes = Vec::new();
    for scope in scopes {
        classes.push(Classes::new(scope.program).map_err(|e| e.to_string())?);
    }
    let everybody = std::iter::once(None).chain(identities.iter().cloned().map(Some));
    let mut of_classes: BTreeMap<Vec<u16>, Source> = BTreeMap::new();
    for identity in everybody {
        for &address in &addresses {
            let source = Source {
                identity: identity.clone(),
                address: Some(address),
            };
            let both = classes
                .iter_mut()
                .map(|c| c.class(&source).map_err(|e| e.to_string()));
            of_classes
                .entry(both.collect::<Result<_, _>>()?)
                .or_insert(source);
        }
    }
    let closed: Vec<_> = classes.into_iter().map(Classes::close).collect();
    let mut rows = BTreeMap::new();
    for (both, source) in of_classes {
        let set = |side: usize| -> BTreeSet<AtomId> {
            let (Some(scope), Some(closed), Some(class)) =
                (scopes.get(side), closed.get(side), both.get(side))
            else {
                return BTreeSet::new();
            };
            let atoms = closed
                .signatures
                .get(usize::from(*class))
                .into_iter()
                .flatten();
            atoms
                .copied()
                .filter(|atom| scope.source_atoms.contains(atom))
                .collect()
        };
        rows.entry([set(0), set(1)]).or_insert(source);
    }
    Ok(rows)
}

const ANYONE_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const ANYONE_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// The first and last address of a block, and their neighbours outside it.
fn edges(net: ipnet::IpNet) -> Vec<IpAddr> {
    let step = |address: IpAddr, up: bool| -> Option<IpAddr> {
        match address {
            IpAddr::V4(a) => {
                let a = u32::from(a);
                let next = if up {
                    a.checked_add(1)
                } else {
                    a.checked_sub(1)
                };
                next.map(|a| IpAddr::V4(a.into()))
            }
            IpAddr::V6(a) => {
                let a = u128::from(a);
                let next = if up {
                    a.checked_add(1)
                } else {
                    a.checked_sub(1)
                };
                next.map(|a| IpAddr::V6(a.into()))
            }
        }
    };
    let (first, last) = (net.network(), net.broadcast());
    [
        Some(first),
        Some(last),
        step(first, false),
        step(last, true),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A request of that source; the rest is for the caller to fill in.
fn asked_by(source: &Source) -> Request {
    let (src, src_ip, domain) = match (&source.identity, source.address) {
        (Some(identity), address) => (
            SourceRef::ServiceAccount(ServiceAccountSource {
                sa: format!("{}/{}", identity.namespace, identity.service_account),
            }),
            address,
            Some(identity.trust_domain.clone()),
        ),
        (None, address) => (
            SourceRef::Ip(IpSource {
                ip: address.unwrap_or(ANYONE_V4),
            }),
            None,
            None,
        ),
    };
    Request {
        id: String::new(),
        src,
        src_ip,
        src_trust_domain: domain,
        dst: String::new(),
        port: 0,
        protocol: crate::request::Wire::Tcp,
        http: None,
        sni: None,
        ext_authz: None,
        expect: None,
    }
}

fn compare(
    program: &Program,
    near: &Cluster,
    requests: &[Request],
    options: &Options,
    verified: &mut Verified,
) {
    let bundle = engine::judge(program, near, requests, options.now);
    for (request, bundle) in requests.iter().zip(bundle) {
        verified.requests += 1;
        let sources = oracle::evaluate(near, request, options).map_err(|e| e.to_string());
        let same = match (&sources, &bundle) {
            (Ok(sources), Ok(bundle)) => sources == bundle,
            (Err(_), Err(_)) => true,
            _ => false,
        };
        if !same && verified.differences.len() < DIFFERENCES_KEPT {
            verified.differences.push(Difference {
                request: request.clone(),
                sources: words(&sources),
                bundle: words(&bundle),
            });
        }
    }
}

fn words(judgement: &Result<Judgement, String>) -> String {
    match judgement {
        Ok(j) => {
            let verdict = match j.verdict {
                crate::request::Expected::Allow => "allow",
                crate::request::Expected::Deny => "deny",
            };
            let rule = match (&j.policy, j.rule) {
                (Some(policy), Some(rule)) => format!(" ({policy} rule {rule})"),
                _ => String::new(),
            };
            format!("{verdict}: {}{rule}", crate::explain::cause(j.reason))
        }
        Err(why) => format!("cannot be judged: {why}"),
    }
}
