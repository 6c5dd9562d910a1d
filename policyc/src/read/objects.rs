//! Kinds to what reads them, and the one place where objects join the cluster.

use super::{
    loader::Loader,
    node::{Node, Reader, nearest},
    value::Value,
};
use crate::{
    ast::{self, DocumentId},
    cluster::{self, Meta, ObjectRef},
    diagnostic::{At, Code, Diagnostic, Path},
};

/// A List within a List within ...: more is a mistake.
const LIST_DEPTH_MAX: usize = 4;

/// The group of Istio's policies.
const ISTIO: &str = "security.istio.io";
const ISTIO_KINDS: [&str; 3] = [
    "AuthorizationPolicy",
    "RequestAuthentication",
    "PeerAuthentication",
];

/// What an object says it is.
#[derive(Clone, Copy)]
struct Type<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

impl<'a> Type<'a> {
    fn new(api_version: &'a str, kind: &'a str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self {
            group,
            version,
            kind,
        }
    }
}

impl Loader<'_> {
    /// Takes one object or a list of them. `of_list`: what the items of a typed list are.
    pub(super) fn object(
        &mut self,
        document: DocumentId,
        path: &Path,
        value: &Value,
        of_list: Option<(&str, &str)>,
        depth: usize,
    ) {
        let at = || At {
            document,
            path: path.clone(),
        };
        let kind = value.get("kind").and_then(Value::as_str);
        let api_version = value.get("apiVersion").and_then(Value::as_str);
        let (api_version, kind) = match (api_version, kind, of_list) {
            (Some(api_version), Some(kind), _) => (api_version, kind),
            (None, None, Some(of_list)) => of_list,
            (api_version, _, _) => {
                let missing = match api_version {
                    None => "apiVersion",
                    Some(_) => "kind",
                };
                self.found.push(Diagnostic::error(
                    Code::NotAnObject,
                    at(),
                    format!("this is not a Kubernetes object: it has no `{missing}`"),
                    "give every document a string `apiVersion` and `kind`, or leave it out of what is read",
                ));
                return;
            }
        };
        if let (Some(item_kind), Some(_)) = (kind.strip_suffix("List"), value.get("items")) {
            if depth >= LIST_DEPTH_MAX {
                self.found.push(Diagnostic::error(
                    Code::TooDeep,
                    at(),
                    "lists of lists are nested too deeply",
                    "write the objects in one list",
                ));
                return;
            }
            let items = path.key("items");
            let of_list = (!item_kind.is_empty()).then_some((api_version, item_kind));
            self.list(document, &items, value, of_list, depth);
            return;
        }
        self.one(document, path, value, Type::new(api_version, kind));
    }

    fn list(
        &mut self,
        document: DocumentId,
        path: &Path,
        value: &Value,
        of_list: Option<(&str, &str)>,
        depth: usize,
    ) {
        match value.get("items") {
            Some(Value::List(items)) => {
                for (i, item) in items.iter().enumerate() {
                    self.object(document, &path.index(i), item, of_list, depth + 1);
                }
            }
            _ => self.found.push(Diagnostic::error(
                Code::WrongType,
                At {
                    document,
                    path: path.clone(),
                },
                "`items` wants a list",
                "write a list of objects",
            )),
        }
    }

    fn one(&mut self, document: DocumentId, path: &Path, value: &Value, kind: Type<'_>) {
        let mut reader = self.reader(document, path.clone());
        let node = Node::root(value);
        let object = read(&mut reader, &node, kind);
        let found = reader.found;
        self.found.extend(found);
        match object {
            Object::Skipped => {
                *self
                    .loaded
                    .cluster
                    .skipped
                    .entry(kind.kind.into())
                    .or_default() += 1;
            }
            Object::Wrong => {}
            object => self.objects.push((
                At {
                    document,
                    path: path.clone(),
                },
                object,
            )),
        }
    }

    /// Adds the objects that were read to the cluster, in order.
    pub(super) fn join_all(&mut self) {
        for (at, object) in std::mem::take(&mut self.objects) {
            self.join(at, object);
        }
    }

    /// Adds an object to the cluster, unless one of its kind and name is there.
    fn join(&mut self, at: At, object: Object) {
        let (kind, namespace, name) = object.identity();
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        if let Some(first) = self.seen.get(&key) {
            let place = self.loaded.sources.file_line(first.document, &first.path);
            let name = match namespace {
                "" => name.to_owned(),
                _ => format!("{namespace}/{name}"),
            };
            self.found.push(Diagnostic::error(
                Code::DuplicateObject,
                At {
                    document: at.document,
                    path: at.path.key("metadata").key("name"),
                },
                format!("{kind} {name} is already defined at {place}"),
                "remove one of the two, or give it another name",
            ));
            return;
        }
        self.seen.insert(key, at);
        let cluster = &mut self.loaded.cluster;
        match object {
            Object::Policy(policy) => cluster.policies.push(policy),
            Object::RequestAuthentication(ra) => cluster.request_authentications.push(ra),
            Object::PeerAuthentication(object) => cluster.peer_authentications.push(object),
            Object::Namespace(name, namespace) => {
                cluster.namespaces.insert(name, namespace);
            }
            Object::ServiceAccount(namespace, name) => {
                cluster.service_accounts.insert((namespace, name));
            }
            Object::Pod(pod) => cluster.pods.push(std::sync::Arc::from(pod)),
            Object::Workload(workload) => cluster.workloads.push(*workload),
            Object::Service(service) => cluster.services.push(service),
            Object::Node(node) => cluster.nodes.push(node),
            Object::Skipped | Object::Wrong => {}
        }
    }
}

/// What an object turned out to be.
#[derive(Clone, PartialEq)]
pub(super) enum Object {
    Policy(ast::AuthorizationPolicy),
    RequestAuthentication(ast::RequestAuthentication),
    PeerAuthentication(ObjectRef),
    Namespace(String, cluster::Namespace),
    ServiceAccount(String, String),
    Pod(Box<cluster::Pod>),
    Workload(Box<cluster::Workload>),
    Service(cluster::Service),
    Node(cluster::Node),
    /// A kind that means nothing to policies.
    Skipped,
    /// It has errors, which have been reported.
    Wrong,
}

impl Object {
    /// The same, from a document that comes so many later.
    pub(super) fn later(mut self, by: u32) -> Self {
        match &mut self {
            Self::Policy(o) => o.document.0 += by,
            Self::RequestAuthentication(o) => o.document.0 += by,
            Self::PeerAuthentication(o) => o.document.0 += by,
            Self::Namespace(_, o) => o.document.0 += by,
            Self::Pod(o) => o.document.0 += by,
            Self::Workload(o) => o.document.0 += by,
            Self::Service(o) => o.document.0 += by,
            Self::ServiceAccount(..) | Self::Node(_) | Self::Skipped | Self::Wrong => {}
        }
        self
    }

    /// Kind, namespace and name.
    fn identity(&self) -> (&str, &str, &str) {
        match self {
            Self::Policy(o) => ("AuthorizationPolicy", &o.namespace, &o.name),
            Self::RequestAuthentication(o) => ("RequestAuthentication", &o.namespace, &o.name),
            Self::PeerAuthentication(o) => ("PeerAuthentication", &o.namespace, &o.name),
            Self::Namespace(name, _) => ("Namespace", "", name),
            Self::ServiceAccount(namespace, name) => ("ServiceAccount", namespace, name),
            Self::Pod(o) => ("Pod", &o.namespace, &o.name),
            Self::Workload(o) => (&o.kind, &o.namespace, &o.name),
            Self::Service(o) => ("Service", &o.namespace, &o.name),
            Self::Node(o) => ("Node", "", &o.name),
            Self::Skipped | Self::Wrong => ("", "", ""),
        }
    }
}

fn read(reader: &mut Reader<'_>, node: &Node<'_>, kind: Type<'_>) -> Object {
    let group = kind.group;
    let or_wrong = |object: Option<Object>| object.unwrap_or(Object::Wrong);
    match kind.kind {
        _ if group == ISTIO => istio(reader, node, kind),
        istio if ISTIO_KINDS.contains(&istio) && is_nearly_istio(group) => {
            unknown_version(reader, node, kind);
            Object::Wrong
        }
        "Namespace" if group.is_empty() => or_wrong(
            cluster::other::namespace(reader, node).map(|(name, ns)| Object::Namespace(name, ns)),
        ),
        "ServiceAccount" if group.is_empty() => {
            or_wrong(Meta::read(reader, node).map(|m| Object::ServiceAccount(m.namespace, m.name)))
        }
        "Pod" if group.is_empty() => {
            or_wrong(cluster::pod::pod(reader, node).map(|pod| Object::Pod(Box::new(pod))))
        }
        "Service" if group.is_empty() => {
            or_wrong(cluster::service::service(reader, node).map(Object::Service))
        }
        "Node" if group.is_empty() => {
            or_wrong(cluster::other::node(reader, node).map(Object::Node))
        }
        workload if cluster::pod::is_workload(group, workload) => or_wrong(
            cluster::pod::workload(reader, node, workload).map(|w| Object::Workload(Box::new(w))),
        ),
        _ => Object::Skipped,
    }
}

/// Whether a group can only be a mistake for Istio's: no group at all, another one of Istio's, past
/// ones included, or a misspelling. Other projects have kinds of the same names.
fn is_nearly_istio(group: &str) -> bool {
    group.is_empty()
        || group == "istio.io"
        || group.ends_with(".istio.io")
        || nearest(group, [ISTIO].into_iter()).is_some()
}

fn istio(reader: &mut Reader<'_>, node: &Node<'_>, kind: Type<'_>) -> Object {
    if !ISTIO_KINDS.contains(&kind.kind) {
        let help = match nearest(kind.kind, ISTIO_KINDS.into_iter()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known kinds: {}", ISTIO_KINDS.join(", ")),
        };
        let message = format!("`{ISTIO}` has no kind `{}`", kind.kind);
        let at = node.get("kind");
        reader.error(
            Code::UnknownVersion,
            at.as_ref().unwrap_or(node),
            message,
            help,
        );
        return Object::Wrong;
    }
    if !["v1", "v1beta1"].contains(&kind.version) {
        unknown_version(reader, node, kind);
        return Object::Wrong;
    }
    let object = match kind.kind {
        "AuthorizationPolicy" => ast::parse::authorization_policy(reader, node).map(Object::Policy),
        "RequestAuthentication" => {
            ast::parse::request_authentication(reader, node).map(Object::RequestAuthentication)
        }
        _ => Meta::read(reader, node).map(|meta| {
            ast::parse::no_dry_run(reader, node, &meta.annotations, "a PeerAuthentication");
            Object::PeerAuthentication(ObjectRef {
                document: reader.document,
                object: reader.object.clone(),
                namespace: meta.namespace,
                name: meta.name,
            })
        }),
    };
    object.unwrap_or(Object::Wrong)
}

fn unknown_version(reader: &mut Reader<'_>, node: &Node<'_>, kind: Type<'_>) {
    let version = match kind.group {
        "" => kind.version.to_owned(),
        group => format!("{group}/{}", kind.version),
    };
    let at = node.get("apiVersion");
    reader.error(
        Code::UnknownVersion,
        at.as_ref().unwrap_or(node),
        format!("{} has no API version `{version}`", kind.kind),
        format!("write `{ISTIO}/v1` or `{ISTIO}/v1beta1`"),
    );
}
