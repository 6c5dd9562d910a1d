//! Services.

use super::{Meta, Service, ServicePort, TargetPort};
use crate::read::{
    node::{Node, Reader},
    value::Value,
};

pub(crate) fn service(reader: &mut Reader<'_>, object: &Node<'_>) -> Option<Service> {
    let meta = Meta::read(reader, object)?;
    let mut service = Service {
        document: reader.document,
        object: reader.object.clone(),
        namespace: meta.namespace,
        name: meta.name,
        kind: "ClusterIP".into(),
        ..Service::default()
    };
    let Some(spec) = object.get("spec") else {
        return Some(service);
    };
    if let Some(kind) = reader.field(&spec, "type", Reader::string) {
        service.kind = kind;
    }
    if let Some(selector) = reader.field(&spec, "selector", Reader::string_map) {
        service.selector = selector;
    }
    service.external_traffic_local = reader
        .field(&spec, "externalTrafficPolicy", Reader::string)
        .is_some_and(|policy| policy == "Local");
    if let Some(ports) = spec.get("ports") {
        reader.list(&ports)?;
        service.ports = ports.items().filter_map(|p| port(reader, &p)).collect();
    }
    Some(service)
}

/// One port; `None` where it is wrong or not TCP.
fn port(reader: &mut Reader<'_>, node: &Node<'_>) -> Option<ServicePort> {
    reader.map(node)?;
    let protocol = reader.field(node, "protocol", Reader::string);
    if protocol.is_some_and(|p| p != "TCP") {
        return None;
    }
    let port: u16 = reader.field(node, "port", Reader::integer)?;
    let target = match node.get("targetPort") {
        None => TargetPort::Number(port),
        Some(target) => port_reference(reader, &target)?,
    };
    Some(ServicePort {
        name: reader
            .field(node, "name", Reader::string)
            .unwrap_or_default(),
        port,
        target,
        app_protocol: reader.field(node, "appProtocol", Reader::string),
    })
}

/// A port by number or by the name of a container port; a number in quotes is a number, as the API
/// server has it for probes and target ports.
pub(crate) fn port_reference(reader: &mut Reader<'_>, node: &Node<'_>) -> Option<TargetPort> {
    match node.value {
        Value::Integer(_) => reader.integer(node).map(TargetPort::Number),
        _ => {
            let text = reader.string(node)?;
            Some(match text.parse() {
                Ok(number) => TargetPort::Number(number),
                Err(_) => TargetPort::Name(text),
            })
        }
    }
}
