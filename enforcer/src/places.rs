//! Where others listen whom the agent itself asks: authorizers and issuers of keys. A Service of the
//! inventory is reached at its pods; any other name is the resolver's business.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use policyc::cluster::{Cluster, Pod, Service, TargetPort};

/// Names and addresses.
#[derive(Debug, Default)]
pub struct Places {
    /// By namespace and name.
    services: RwLock<BTreeMap<String, BTreeMap<String, Served>>>,
    next: AtomicUsize,
}

/// A Service and where it is served.
#[derive(Debug)]
struct Served {
    service: Service,
    /// By the pod's name: the port of the Service, and the end.
    pods: BTreeMap<String, Vec<(u16, SocketAddr)>>,
}

impl Served {
    fn by(service: &Service) -> Self {
        Self {
            service: service.clone(),
            pods: BTreeMap::new(),
        }
    }

    /// A pod of the Service's namespace as it is now.
    fn learn(&mut self, pod: &Pod) {
        if !selects(&self.service, pod) {
            return;
        }
        let ports = self.service.ports.iter();
        let ends = ports.flat_map(|port| end(pod, &port.target).map(|end| (port.port, end)));
        self.pods.insert(pod.name.clone(), ends.collect());
    }
}

impl Places {
    /// Learns the Services of an inventory, in the place of those known before.
    pub fn know(&self, cluster: &Cluster) {
        let mut services: BTreeMap<String, BTreeMap<String, Served>> = BTreeMap::new();
        for service in &cluster.services {
            services
                .entry(service.namespace.clone())
                .or_default()
                .insert(service.name.clone(), Served::by(service));
        }
        for pod in &cluster.pods {
            let served = services.get_mut(&pod.namespace).into_iter().flatten();
            served.for_each(|(_, served)| served.learn(pod));
        }
        *self
            .services
            .write()
            .unwrap_or_else(PoisonError::into_inner) = services;
    }

    /// Learns of pods that have changed: as they were, and as they are.
    pub fn change(&self, before: &[&Arc<Pod>], now: &[&Arc<Pod>]) {
        let mut services = self
            .services
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        for pod in before {
            for served in services.get_mut(&pod.namespace).into_iter().flatten() {
                served.1.pods.remove(&pod.name);
            }
        }
        for pod in now {
            let served = services.get_mut(&pod.namespace).into_iter().flatten();
            served.for_each(|(_, served)| served.learn(pod));
        }
    }

    /// An address of a host: an IP address, a Service of the inventory as `NAME.NAMESPACE[.svc[...]]`,
    /// or what the resolver knows. Where there are several, one after the other.
    pub async fn find(&self, host: &str, port: u16) -> io::Result<SocketAddr> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip, port));
        }
        let found = match self.service(host, port) {
            Some(ends) if ends.is_empty() => {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("no pod of Service `{host}` has an address"),
                ));
            }
            Some(ends) => ends,
            None => tokio::net::lookup_host((host, port)).await?.collect(),
        };
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let one = found.get(next % found.len().max(1)).copied();
        one.ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, format!("`{host}` has no address"))
        })
    }

    fn service(&self, host: &str, port: u16) -> Option<Vec<SocketAddr>> {
        let mut parts = host.splitn(3, '.');
        let (name, namespace, rest) = (parts.next()?, parts.next()?, parts.next());
        let local = rest.is_none_or(|rest| rest == "svc" || rest.starts_with("svc."));
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        let served = services.get(namespace)?.get(name).filter(|_| local)?;
        let mut ports = served.service.ports.iter();
        ports.find(|known| known.port == port)?;
        let ends = served.pods.values().flatten();
        Some(
            ends.filter(|(of, _)| *of == port)
                .map(|(_, end)| *end)
                .collect(),
        )
    }
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let labels = &pod.template.labels;
    !service.selector.is_empty()
        && !pod.finished
        && pod.namespace == service.namespace
        && service
            .selector
            .iter()
            .all(|(name, value)| labels.get(name) == Some(value))
}

fn end(pod: &Pod, target: &TargetPort) -> Option<SocketAddr> {
    let port = match target {
        TargetPort::Number(port) => Some(*port),
        TargetPort::Name(name) => {
            let mut ports = pod.template.ports.iter();
            ports.find(|port| port.name == *name).map(|port| port.port)
        }
    };
    // The first address is the one that a pod is known by.
    let ip = pod.ips.first().copied();
    port.zip(ip).map(|(port, ip)| SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use policyc::{diagnostic::any_error, read};

    use super::*;

    const CLUSTER: &str = "
apiVersion: v1
kind: Service
metadata: {name: authz, namespace: shop}
spec:
  selector: {app: authz}
  ports: [{port: 9000, targetPort: grpc}, {port: 80, targetPort: 8000}]
---
apiVersion: v1
kind: Pod
metadata: {name: authz-1, namespace: shop, labels: {app: authz}}
spec:
  containers: [{name: main, image: a, ports: [{name: grpc, containerPort: 9191}]}]
status: {phase: Running, podIP: 10.0.0.7}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: shop, labels: {app: other}}
spec: {containers: [{name: main, image: a}]}
status: {phase: Running, podIP: 10.0.0.8}
";

    #[tokio::test]
    async fn a_service_is_its_pods_and_an_address_is_itself() {
        let (loaded, found) = read::load_str("cluster.yaml", CLUSTER, None);
        assert!(!any_error(&found), "{found:?}");
        let places = Places::default();
        places.know(&loaded.cluster);
        for (host, port, expected) in [
            ("authz.shop.svc.cluster.local", 9000, "10.0.0.7:9191"),
            ("authz.shop.svc", 80, "10.0.0.7:8000"),
            ("authz.shop", 80, "10.0.0.7:8000"),
            ("10.1.2.3", 5, "10.1.2.3:5"),
            ("[fd00::1]", 5, "[fd00::1]:5"),
        ] {
            let found = places.find(host, port).await.expect(host);
            assert_eq!(found.to_string(), expected, "{host}");
        }
        assert_eq!(places.service("authz.shop.example.com", 80), None);
        assert_eq!(places.service("authz.shop.svc", 81), None);
        // It moves, and a pod joins that was not selected before.
        let before = loaded.cluster.pods.clone();
        let mut now = before.clone();
        for pod in now.iter_mut().map(std::sync::Arc::make_mut) {
            pod.template.labels.insert("app".into(), "authz".into());
            pod.ips = vec!["10.0.0.9".parse().expect("an address")];
        }
        let [before, now] = [&before, &now].map(|pods| pods.iter().collect::<Vec<_>>());
        places.change(&before, &now);
        let ends = places.service("authz.shop", 80).expect("it is known");
        assert_eq!(ends, ["10.0.0.9:8000".parse().expect("an end"); 2]);
        places.change(&now, &[]);
        assert_eq!(places.service("authz.shop", 80), Some(Vec::new()));
    }
}
