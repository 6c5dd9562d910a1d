//! Which pod speaks from which address.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use policyc::{
    cluster::{Cluster, Pod},
    link::Identity,
};

/// Pods by their addresses. They are those of the cluster: a hundred thousand are not kept twice.
#[derive(Default, Debug)]
pub struct Names {
    trust_domain: String,
    pods: BTreeMap<IpAddr, Arc<Pod>>,
}

impl Names {
    pub fn of(cluster: &Cluster) -> Self {
        let pods = cluster.pods.iter().flat_map(addresses);
        Self {
            trust_domain: cluster.mesh.trust_domain.clone(),
            pods: pods.map(|(ip, pod)| (ip, Arc::clone(pod))).collect(),
        }
    }

    /// Learns of pods that have changed: as they were, and as they are.
    pub fn change(&mut self, before: &[&Arc<Pod>], now: &[&Arc<Pod>]) {
        for (ip, gone) in before.iter().copied().flat_map(addresses) {
            let is = |pod: &Arc<Pod>| pod.namespace == gone.namespace && pod.name == gone.name;
            if self.pods.get(&ip).is_some_and(is) {
                self.pods.remove(&ip);
            }
        }
        let now = now.iter().copied().flat_map(addresses);
        self.pods.extend(now.map(|(ip, pod)| (ip, Arc::clone(pod))));
    }

    /// The pod that speaks from an address.
    pub fn pod(&self, address: IpAddr) -> Option<&Pod> {
        self.pods.get(&address).map(AsRef::as_ref)
    }

    /// What its certificate would say.
    pub fn principal(&self, address: IpAddr) -> Option<String> {
        let pod = self.pod(address)?;
        let identity = Identity {
            trust_domain: self.trust_domain.clone(),
            namespace: pod.namespace.clone(),
            service_account: pod.template.service_account.clone(),
        };
        Some(identity.principal())
    }
}

/// The addresses from which a pod speaks.
fn addresses(pod: &Arc<Pod>) -> impl Iterator<Item = (IpAddr, &Arc<Pod>)> {
    let speaks = !pod.finished && !pod.template.host_network;
    let ips = speaks.then_some(&pod.ips).into_iter().flatten();
    ips.map(move |ip| (*ip, pod))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ip: &str) -> Arc<Pod> {
        let mut pod = Pod {
            namespace: "shop".into(),
            name: name.into(),
            ips: vec![ip.parse().unwrap()],
            ..Pod::default()
        };
        pod.template.service_account = "sa".into();
        Arc::new(pod)
    }

    #[test]
    fn a_pod_that_goes_does_not_take_its_address_from_the_next_one() {
        let (old, new) = (pod("old", "10.0.0.1"), pod("new", "10.0.0.1"));
        let ip = old.ips[0];
        let mut cluster = Cluster::default();
        cluster.pods.push(old.clone());
        let mut names = Names::of(&cluster);
        let name = |names: &Names| names.pod(ip).map(|pod| pod.name.clone());
        assert_eq!(name(&names).as_deref(), Some("old"));
        names.change(&[], &[&new]);
        names.change(&[&old], &[]);
        assert_eq!(name(&names).as_deref(), Some("new"));
        let principal = names.principal(ip);
        assert_eq!(principal.as_deref(), Some("cluster.local/ns/shop/sa/sa"));
        names.change(&[&new], &[]);
        assert_eq!((name(&names), names.principal(ip)), (None, None));
    }

    #[test]
    fn who_is_over_or_on_the_nodes_network_speaks_from_no_address_of_its_own() {
        let mut over = Pod::clone(&pod("over", "10.0.0.1"));
        let mut host = Pod::clone(&pod("host", "10.0.0.2"));
        over.finished = true;
        host.template.host_network = true;
        let mut cluster = Cluster::default();
        cluster.pods.extend([over, host].map(Arc::new));
        assert!(Names::of(&cluster).pods.is_empty());
    }
}
