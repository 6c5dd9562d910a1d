//! Destinations of both sides, side by side: by name, else by what they are made from, so that a
//! pod that another replaced is the same destination.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    attach::Attachments,
    cluster::{Cluster, Pod, PodTemplate, Service},
    ir::{Atom, Program},
    link::{LinkError, PodName, scopes::keys},
    lower::scope::ScopeKey,
};

/// A destination as it is called on either side.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Place {
    pub names: [Option<PodName>; 2],
}

/// Destinations that are alike: the same scope on the old side, and the same on the new.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// For IPv4 and IPv6.
    pub keys: [Option<[ScopeKey; 2]>; 2],
    pub places: Vec<Place>,
    /// Families of their addresses: IPv6 or not.
    pub families: BTreeSet<bool>,
    /// Ports that the containers of the first of them name.
    pub listens: BTreeSet<u16>,
    /// Some of them has no address.
    pub nowhere: bool,
}

/// A pod of one side, and the other side's that it is compared with.
pub(super) type Pairing<'a> = Vec<[Option<&'a Pod>; 2]>;

impl Place {
    /// The name to show: the new one where there is one.
    pub fn shown(&self) -> String {
        let [old, new] = &self.names;
        let name = new.as_ref().or(old.as_ref());
        name.map_or_else(String::new, |(namespace, name)| {
            format!("{namespace}/{name}")
        })
    }
}

/// Pairs the pods of both sides.
pub(super) fn pair<'a>(old: &'a Cluster, new: &'a Cluster) -> Pairing<'a> {
    let alive = |cluster: &'a Cluster| cluster.pods.iter().filter(|pod| !pod.finished);
    let named = |cluster: &'a Cluster| -> HashMap<(&'a str, &'a str), &'a Pod> {
        alive(cluster)
            .map(|pod| ((pod.namespace.as_str(), pod.name.as_str()), &**pod))
            .collect()
    };
    let (olds, news) = (named(old), named(new));
    let mut pairing: Pairing<'a> = Vec::new();
    for pod in alive(new) {
        let before = olds.get(&(pod.namespace.as_str(), pod.name.as_str()));
        pairing.push([before.copied(), Some(pod)]);
    }
    for pod in alive(old) {
        if !news.contains_key(&(pod.namespace.as_str(), pod.name.as_str())) {
            pairing.push([Some(pod), None]);
        }
    }
    let made = |pods: &HashMap<(&'a str, &'a str), &'a Pod>| -> BTreeMap<Made<'a>, &'a Pod> {
        let mut sorted: Vec<&'a Pod> = pods.values().copied().collect();
        sorted.sort_by_key(|pod| std::cmp::Reverse((&pod.namespace, &pod.name)));
        sorted.into_iter().map(|pod| (made_of(pod), pod)).collect()
    };
    let alone = |pair: &[Option<&Pod>; 2]| matches!(pair, [None, _] | [_, None]);
    if !pairing.iter().any(alone) {
        return pairing;
    }
    let (old_made, new_made) = (made(&olds), made(&news));
    for pair in &mut pairing {
        match *pair {
            [None, Some(pod)] => pair[0] = old_made.get(&made_of(pod)).copied(),
            [Some(pod), None] => pair[1] = new_made.get(&made_of(pod)).copied(),
            _ => {}
        }
    }
    pairing
}

/// What tells a pod from others besides its name and address.
type Made<'a> = (
    &'a str,
    Vec<(&'a str, &'a str)>,
    &'a str,
    bool,
    Vec<(&'a str, u16)>,
);

fn made_of(pod: &Pod) -> Made<'_> {
    /// Labels that a controller gives each of its pods or each of its roll-outs.
    const OWN: [&str; 5] = [
        "pod-template-hash",
        "controller-revision-hash",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
        "pod-template-generation",
    ];
    let template: &PodTemplate = &pod.template;
    let labels = template.labels.iter();
    (
        &pod.namespace,
        labels
            .filter(|(key, _)| !OWN.contains(&key.as_str()))
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect(),
        &template.service_account,
        template.host_network,
        template
            .ports
            .iter()
            .map(|p| (p.name.as_str(), p.port))
            .collect(),
    )
}

/// Finds the scopes of pods, those of equal templates once.
struct Finder<'a> {
    program: &'a Program,
    attachments: Attachments<'a>,
    services: BTreeMap<&'a str, Vec<&'a Service>>,
    /// Some policy asks for `destination.ip`.
    addresses_matter: bool,
    known: HashMap<(&'a str, &'a PodTemplate), [ScopeKey; 2]>,
}

impl<'a> Finder<'a> {
    fn new(program: &'a Program, cluster: &'a Cluster) -> Self {
        let mut services: BTreeMap<&str, Vec<&Service>> = BTreeMap::new();
        for service in &cluster.services {
            services
                .entry(&service.namespace)
                .or_default()
                .push(service);
        }
        Self {
            program,
            attachments: Attachments::new(program),
            services,
            addresses_matter: program
                .atoms
                .iter()
                .any(|atom| matches!(atom, Atom::DestinationIp(_))),
            known: HashMap::new(),
        }
    }

    fn keys(&mut self, pod: &'a Pod) -> Result<[ScopeKey; 2], LinkError> {
        let place = (pod.namespace.as_str(), &pod.template);
        if !self.addresses_matter
            && let Some(known) = self.known.get(&place)
        {
            return Ok(known.clone());
        }
        let services = self.services.get(pod.namespace.as_str());
        let services = services.map_or(&[][..], Vec::as_slice);
        let keys = keys(self.program, &self.attachments, services, pod)?;
        self.known.insert(place, keys.clone());
        Ok(keys)
    }
}

/// Groups of destinations, in the order of their first name.
///
/// # Errors
/// A pod whose scope cannot be told.
pub(super) fn groups(
    programs: [&Program; 2],
    clusters: [&Cluster; 2],
    pairing: &Pairing<'_>,
) -> Result<Vec<Group>, LinkError> {
    let [old, new] = clusters;
    let mut finders = [Finder::new(programs[0], old), Finder::new(programs[1], new)];
    let mut groups: Vec<Group> = Vec::new();
    let mut numbers: HashMap<[Option<[ScopeKey; 2]>; 2], usize> = HashMap::new();
    for pods in pairing {
        let mut keys = [None, None];
        for ((pod, key), finder) in pods.iter().zip(&mut keys).zip(&mut finders) {
            if let Some(pod) = pod {
                *key = Some(finder.keys(pod)?);
            }
        }
        let number = *numbers.entry(keys.clone()).or_insert_with(|| {
            groups.push(Group {
                keys,
                ..Group::default()
            });
            groups.len() - 1
        });
        let Some(group) = groups.get_mut(number) else {
            continue;
        };
        group.places.push(Place {
            names: pods.map(|pod| pod.map(|p| (p.namespace.clone(), p.name.clone()))),
        });
        let addresses: Vec<bool> = pods
            .iter()
            .flatten()
            .flat_map(|pod| &pod.ips)
            .map(std::net::IpAddr::is_ipv6)
            .collect();
        if group.listens.is_empty() {
            let ports = pods.iter().flatten().flat_map(|pod| &pod.template.ports);
            group.listens.extend(ports.map(|port| port.port));
        }
        group.nowhere |= pods.iter().flatten().any(|pod| pod.ips.is_empty());
        match addresses.is_empty() {
            true => group.families.extend([false, true]),
            false => group.families.extend(addresses),
        }
    }
    for group in &mut groups {
        group.places.sort_by_cached_key(Place::shown);
    }
    Ok(groups)
}
