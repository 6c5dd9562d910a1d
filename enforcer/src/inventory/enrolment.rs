//! Which pods are policed, and why others are not. They are guarded against spoofing all the same:
//! other pods' verdicts rest on the source addresses of every pod.
//!
//! The first of these that says something decides:
//! 1. `--interface`: pods behind none of the named ones are left out;
//! 2. a sidecar or ambient redirection leaves a pod out, unless `--enroll-meshed`;
//! 3. the pod's label `enforcer/enroll`, `"true"` or `"false"`, unless `--ignore-enroll-label`;
//! 4. `--exclude-namespace` leaves out;
//! 5. `--enroll-namespace` leaves out what it does not name.

use policyc::cluster::{Cluster, MeshOnPod, Pod};

use super::{Enrolment, LocalPod, PodName};
use crate::apply::{Settings, namespace_policed};

/// The label with which a pod speaks for itself.
pub const LABEL: &str = "enforcer/enroll";

/// Why a pod is not policed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LeftOut {
    #[error("no --interface names its interface")]
    NotNamed,
    #[error(
        "it has a sidecar proxy, which ends its connections, so that two enforcers would judge \
         different addresses: take it out of the mesh, or leave its policies to the mesh \
         (--enroll-meshed polices it all the same)"
    )]
    Sidecar,
    #[error(
        "its traffic is redirected by an ambient mesh, so that two enforcers would judge different \
         addresses: take it out of the mesh, or leave its policies to the mesh (--enroll-meshed \
         polices it all the same)"
    )]
    Ambient,
    #[error("its label enforcer/enroll is \"false\"")]
    Label,
    #[error("its namespace is excluded")]
    Namespace,
}

/// Why a pod of this node that was found is not policed; `None`: it is.
pub fn left_out(pod: &LocalPod, cluster: &Cluster, settings: &Settings) -> Option<LeftOut> {
    match pod.enrolment {
        Enrolment::NotNamed => Some(LeftOut::NotNamed),
        Enrolment::Wanted => unwanted(&pod.name, cluster, settings),
    }
}

/// The same by name, for pods that were not found as well.
pub fn unwanted(name: &PodName, cluster: &Cluster, settings: &Settings) -> Option<LeftOut> {
    let pod = find(name, cluster);
    let mesh = pod.and_then(|pod| pod.template.mesh());
    match mesh.filter(|_| !settings.enroll_meshed) {
        Some(MeshOnPod::Sidecar) => return Some(LeftOut::Sidecar),
        Some(MeshOnPod::Ambient) => return Some(LeftOut::Ambient),
        None => {}
    }
    match pod.and_then(label).filter(|_| !settings.ignore_label) {
        Some("true") => None,
        Some("false") => Some(LeftOut::Label),
        // Whatever else it says is trouble, and says nothing.
        _ => (!namespace_policed(&name.0, cluster, settings)).then_some(LeftOut::Namespace),
    }
}

/// What a pod is told of that has a label nobody can read.
pub fn label_trouble(name: &PodName, cluster: &Cluster, settings: &Settings) -> Option<String> {
    let value = find(name, cluster).and_then(label)?;
    let said = settings.ignore_label || ["true", "false"].contains(&value);
    (!said).then(|| {
        format!(
            "{}/{}: its label {LABEL} is `{value}`, and can be \"true\" or \"false\": its namespace \
             decides",
            name.0, name.1
        )
    })
}

/// What is to be said of a policed pod that is in a mesh.
pub fn in_mesh(name: &PodName, cluster: &Cluster) -> Option<&'static str> {
    match find(name, cluster)?.template.mesh()? {
        MeshOnPod::Sidecar => Some("it has a sidecar proxy: what that sends or receives is judged"),
        MeshOnPod::Ambient => {
            Some("an ambient mesh redirects it: what that sends or receives is judged")
        }
    }
}

fn label(pod: &Pod) -> Option<&str> {
    pod.template.labels.get(LABEL).map(String::as_str)
}

/// Pods are sorted by namespace and name.
fn find<'a>(name: &PodName, cluster: &'a Cluster) -> Option<&'a Pod> {
    let key = |pod: &std::sync::Arc<Pod>| {
        (pod.namespace.as_str(), pod.name.as_str()).cmp(&(&name.0, &name.1))
    };
    let place = cluster.pods.binary_search_by(key).ok()?;
    cluster.pods.get(place).map(AsRef::as_ref)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod of namespace `web`, or `kube-system`, with these lines of metadata and spec.
    fn cluster(namespace: &str, metadata: &str, spec: &str) -> Cluster {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  namespace: {namespace}\n{metadata}\
             spec:\n  containers:\n  - name: app\n{spec}"
        );
        let (loaded, problems) = policyc::read::load_str("test.yaml", &text, None);
        assert!(problems.is_empty(), "{problems:?}");
        loaded.cluster
    }

    fn of(namespace: &str, metadata: &str, spec: &str, settings: &Settings) -> Option<LeftOut> {
        let name = (namespace.to_owned(), "a".to_owned());
        unwanted(&name, &cluster(namespace, metadata, spec), settings)
    }

    fn settings() -> Settings {
        Settings {
            excluded_namespaces: vec!["kube-system".parse().expect("a selector")],
            ..Settings::default()
        }
    }

    const YES: &str = "  labels: {enforcer/enroll: \"true\"}\n";
    const NO: &str = "  labels: {enforcer/enroll: \"false\"}\n";

    #[test]
    fn the_pods_own_label_counts_more_than_its_namespace() {
        let settings = settings();
        assert_eq!(of("web", "", "", &settings), None);
        assert_eq!(of("web", YES, "", &settings), None);
        assert_eq!(of("web", NO, "", &settings), Some(LeftOut::Label));
        assert_eq!(
            of("kube-system", "", "", &settings),
            Some(LeftOut::Namespace)
        );
        assert_eq!(of("kube-system", YES, "", &settings), None);
        let ignored = Settings {
            ignore_label: true,
            ..settings
        };
        assert_eq!(of("web", NO, "", &ignored), None);
        assert_eq!(
            of("kube-system", YES, "", &ignored),
            Some(LeftOut::Namespace)
        );
    }

    #[test]
    fn a_label_that_nobody_can_read_says_nothing_and_is_trouble() {
        let (settings, odd) = (settings(), "  labels: {enforcer/enroll: \"no\"}\n");
        assert_eq!(of("web", odd, "", &settings), None);
        assert_eq!(
            of("kube-system", odd, "", &settings),
            Some(LeftOut::Namespace)
        );
        let name = ("web".to_owned(), "a".to_owned());
        let trouble = label_trouble(&name, &cluster("web", odd, ""), &settings);
        assert!(trouble.expect("trouble").starts_with("web/a: its label"));
        assert_eq!(
            label_trouble(&name, &cluster("web", NO, ""), &settings),
            None
        );
    }

    #[test]
    fn a_pod_in_a_mesh_is_left_out_whatever_its_label_says() {
        let proxy = "  - name: istio-proxy\n";
        let native = "  initContainers:\n  - {name: istio-proxy, restartPolicy: Always}\n";
        let ended = "  initContainers:\n  - {name: istio-proxy}\n";
        let injected = "  annotations: {sidecar.istio.io/status: \"{}\"}\n";
        let ambient = "  annotations: {ambient.istio.io/redirection: enabled}\n";
        let off = "  annotations: {ambient.istio.io/redirection: disabled}\n";
        let settings = settings();
        for (metadata, spec, expected) in [
            (YES, proxy, Some(LeftOut::Sidecar)),
            ("", native, Some(LeftOut::Sidecar)),
            (injected, "", Some(LeftOut::Sidecar)),
            (ambient, "", Some(LeftOut::Ambient)),
            (off, "", None),
            ("", ended, None),
        ] {
            assert_eq!(
                of("web", metadata, spec, &settings),
                expected,
                "{metadata}{spec}"
            );
        }
        let all_the_same = Settings {
            enroll_meshed: true,
            ..settings
        };
        assert_eq!(of("web", "", proxy, &all_the_same), None);
        assert_eq!(of("web", NO, proxy, &all_the_same), Some(LeftOut::Label));
        let name = ("web".to_owned(), "a".to_owned());
        assert!(in_mesh(&name, &cluster("web", ambient, "")).is_some());
        assert!(in_mesh(&name, &cluster("web", "", "")).is_none());
    }

    #[test]
    fn a_pod_behind_no_named_interface_is_left_out_first() {
        let cluster = cluster("web", YES, "");
        let pod = LocalPod {
            name: ("web".into(), "a".into()),
            addresses: Vec::new(),
            interfaces: Vec::new(),
            netns: None,
            enrolment: Enrolment::NotNamed,
            gateway: false,
            hides_sockets: false,
            away: None,
        };
        assert_eq!(
            left_out(&pod, &cluster, &settings()),
            Some(LeftOut::NotNamed)
        );
    }
}
