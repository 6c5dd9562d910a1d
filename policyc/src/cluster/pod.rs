//! Pods, and the templates of workloads that make them.

use super::{
    ContainerPort, Meta, Pod, PodTemplate, TargetPort, Workload, other::address,
    service::port_reference,
};
use crate::read::node::{Node, Reader};

/// What of a mesh stands between a pod and the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MeshOnPod {
    /// A proxy beside the pod's containers.
    Sidecar,
    /// A proxy of the node's.
    Ambient,
}

impl PodTemplate {
    /// The mesh that a pod is in.
    pub fn mesh(&self) -> Option<MeshOnPod> {
        let proxy = |name: &String| name == "istio-proxy";
        let injected = self.annotations.contains_key("sidecar.istio.io/status");
        if injected || self.containers.iter().any(proxy) {
            return Some(MeshOnPod::Sidecar);
        }
        let redirection = self.annotations.get("ambient.istio.io/redirection");
        redirection
            .is_some_and(|value| value == "enabled")
            .then_some(MeshOnPod::Ambient)
    }
}

/// Whether objects of this kind make pods from a template.
pub(crate) fn is_workload(group: &str, kind: &str) -> bool {
    match kind {
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" => {
            matches!(group, "apps" | "extensions")
        }
        "Job" | "CronJob" => group == "batch",
        "ReplicationController" => group.is_empty(),
        _ => false,
    }
}

pub(crate) fn pod(reader: &mut Reader<'_>, object: &Node<'_>) -> Option<Pod> {
    let meta = Meta::read(reader, object)?;
    let mut pod = Pod {
        document: reader.document,
        object: reader.object.clone(),
        namespace: meta.namespace,
        name: meta.name,
        interface: meta.annotations.get("enforcer/interface").cloned(),
        netns: meta.annotations.get("enforcer/netns").cloned(),
        ..Pod::default()
    };
    if let Some(spec) = object.get("spec") {
        pod.template = spec_of(reader, &spec)?;
        pod.node = reader.field(&spec, "nodeName", Reader::string);
    } else {
        pod.template = PodTemplate {
            service_account: "default".into(),
            ..PodTemplate::default()
        };
    }
    pod.template.labels = meta.labels;
    pod.template.annotations = meta.annotations;
    if let Some(status) = object.get("status") {
        let phase = reader.field(&status, "phase", Reader::string);
        pod.finished = phase.is_some_and(|p| p == "Succeeded" || p == "Failed");
        if let Some(ips) = status.get("podIPs") {
            reader.list(&ips)?;
            for entry in ips.items() {
                pod.ips.extend(reader.field(&entry, "ip", address));
            }
        } else if let Some(ip) = reader.field(&status, "podIP", address) {
            pod.ips.push(ip);
        }
    }
    Some(pod)
}

pub(crate) fn workload(reader: &mut Reader<'_>, object: &Node<'_>, kind: &str) -> Option<Workload> {
    let meta = Meta::read(reader, object)?;
    let mut workload = Workload {
        document: reader.document,
        object: reader.object.clone(),
        kind: kind.into(),
        namespace: meta.namespace,
        name: meta.name,
        ..Workload::default()
    };
    let spec = object.get("spec");
    let read = |reader: &mut Reader<'_>, spec: &Node<'_>| {
        let template = spec.get("template");
        template.map_or(Some(PodTemplate::default()), |t| template_of(reader, &t))
    };
    workload.template = match &spec {
        None => PodTemplate::default(),
        Some(spec) if kind == "CronJob" => match spec.get("jobTemplate") {
            Some(job) => match job.get("spec") {
                Some(spec) => read(reader, &spec)?,
                None => PodTemplate::default(),
            },
            None => PodTemplate::default(),
        },
        Some(spec) => read(reader, spec)?,
    };
    if workload.template.service_account.is_empty() {
        workload.template.service_account = "default".into();
    }
    Some(workload)
}

fn template_of(reader: &mut Reader<'_>, node: &Node<'_>) -> Option<PodTemplate> {
    let mut template = match node.get("spec") {
        Some(spec) => spec_of(reader, &spec)?,
        None => PodTemplate::default(),
    };
    if let Some(metadata) = node.get("metadata") {
        template.labels = reader
            .field(&metadata, "labels", Reader::string_map)
            .unwrap_or_default();
        template.annotations = reader
            .field(&metadata, "annotations", Reader::string_map)
            .unwrap_or_default();
    }
    Some(template)
}

/// A pod's `spec`.
fn spec_of(reader: &mut Reader<'_>, spec: &Node<'_>) -> Option<PodTemplate> {
    reader.map(spec)?;
    // `serviceAccount` is the deprecated name of the same field.
    let account = ["serviceAccountName", "serviceAccount"]
        .into_iter()
        .find_map(|key| reader.field(spec, key, Reader::string))
        .filter(|name| !name.is_empty());
    let mut template = PodTemplate {
        service_account_given: account.is_some(),
        service_account: account.unwrap_or_else(|| "default".into()),
        host_network: reader
            .field(spec, "hostNetwork", Reader::boolean)
            .unwrap_or(false),
        ..PodTemplate::default()
    };
    for list in ["initContainers", "containers"] {
        let Some(containers) = spec.get(list) else {
            continue;
        };
        reader.list(&containers)?;
        for container in containers.items() {
            // An init container that restarts always runs beside the pod's containers.
            let restart = container
                .value
                .get("restartPolicy")
                .and_then(|v| v.as_str());
            if list == "containers" || restart == Some("Always") {
                read_container(reader, &container, &mut template)?;
            }
        }
    }
    template.ports.sort_by_key(|p| p.port);
    Some(template)
}

fn read_container(
    reader: &mut Reader<'_>,
    container: &Node<'_>,
    template: &mut PodTemplate,
) -> Option<()> {
    reader.map(container)?;
    template
        .containers
        .extend(reader.field(container, "name", Reader::string));
    let mut own_ports = Vec::new();
    if let Some(ports) = container.get("ports") {
        reader.list(&ports)?;
        for port in ports.items() {
            own_ports.extend(container_port(reader, &port));
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get(probe) {
            probe_port(reader, &probe, &own_ports, template)?;
        }
    }
    template.ports.extend(own_ports);
    Some(())
}

/// One container port; `None` where it is wrong or not TCP.
fn container_port(reader: &mut Reader<'_>, node: &Node<'_>) -> Option<ContainerPort> {
    reader.map(node)?;
    let protocol = reader.field(node, "protocol", Reader::string);
    if protocol.is_some_and(|p| p != "TCP") {
        return None;
    }
    Some(ContainerPort {
        name: reader
            .field(node, "name", Reader::string)
            .unwrap_or_default(),
        port: reader.field(node, "containerPort", Reader::integer)?,
    })
}

fn probe_port(
    reader: &mut Reader<'_>,
    probe: &Node<'_>,
    ports: &[ContainerPort],
    template: &mut PodTemplate,
) -> Option<()> {
    for kind in ["httpGet", "tcpSocket", "grpc"] {
        let Some(action) = probe.get(kind) else {
            continue;
        };
        let Some(port) = reader.field(&action, "port", port_reference) else {
            continue;
        };
        let number = match port {
            TargetPort::Number(number) => Some(number),
            TargetPort::Name(name) => ports.iter().find(|p| p.name == name).map(|p| p.port),
        };
        template.probe_ports.extend(number);
    }
    Some(())
}
