//! What is being read, what was found on the way, and what is wrong with the text itself.

use std::{collections::HashMap, ops::Range};

use super::{
    Loaded,
    documents::{Entry, Queue},
    input::{self, Text, Unreadable},
    node::{Node, Reader},
    objects::Object,
    position::Format,
    value::{Fault, Value},
    yaml,
};
use crate::{
    ast::DocumentId,
    cluster,
    diagnostic::{At, Code, Diagnostic, Path},
};

/// Hears how far the reading of a file is: its name, the bytes that are done, and all of them.
pub type Watch<'w> = &'w mut dyn FnMut(&str, usize, usize);

#[derive(Default)]
pub struct Loader<'w> {
    pub(super) watch: Option<Watch<'w>>,
    pub(super) loaded: Loaded,
    pub(super) found: Vec<Diagnostic>,
    pub(super) mesh_given: bool,
    pub(super) queue: Queue,
    /// Objects that are read and wait to join the cluster.
    pub(super) objects: Vec<(At, Object)>,
    /// Where each object was found first: kind, namespace, name.
    pub(super) seen: HashMap<(String, String, String), At>,
}

impl Loader<'_> {
    /// Takes a file that holds a MeshConfig, or the ConfigMap that Istio keeps it in.
    pub fn mesh(&mut self, text: Text) {
        self.flush();
        let name = format!("{} (data.mesh)", text.name);
        self.documents(text, &mut |loader,
                                   Entry {
                                       document, value, ..
                                   }| {
            if value.get("kind").and_then(Value::as_str) == Some("ConfigMap") {
                let inner = value.get("data").and_then(|data| data.get("mesh"));
                return match inner.and_then(Value::as_str) {
                    Some(inner) => loader.mesh_config(&name, inner),
                    None => loader.found.push(Diagnostic::error(
                        Code::MissingField,
                        At {
                            document,
                            path: Path::default().key("data"),
                        },
                        "the ConfigMap has no `data.mesh`",
                        "give the ConfigMap `istio` of the root namespace, or a plain MeshConfig",
                    )),
                };
            }
            loader.mesh_value(document, &value);
        });
    }

    fn mesh_config(&mut self, name: &str, text: &str) {
        let text = Text {
            name: name.into(),
            content: Ok(text.into()),
            json: false,
        };
        self.documents(text, &mut |loader,
                                   Entry {
                                       document, value, ..
                                   }| {
            loader.mesh_value(document, &value);
        });
    }

    fn mesh_value(&mut self, document: DocumentId, value: &Value) {
        if std::mem::replace(&mut self.mesh_given, true) {
            self.found.push(Diagnostic::error(
                Code::MeshValue,
                At {
                    document,
                    path: Path::default(),
                },
                "this is a second MeshConfig, and a mesh has one",
                "leave one document in the file",
            ));
            return;
        }
        let mut reader = self.reader(document, Path::default());
        let mesh = cluster::mesh::read(&mut reader, &Node::root(value));
        let found = reader.found;
        self.found.extend(found);
        if let Some(mesh) = mesh {
            self.loaded.cluster.mesh = mesh;
        }
    }

    /// The cluster, sorted, and everything that was wrong.
    pub fn finish(mut self) -> (Loaded, Vec<Diagnostic>) {
        self.flush();
        self.join_all();
        let cluster = &mut self.loaded.cluster;
        macro_rules! sort {
            ($($kind:ident),*) => {$(
                cluster.$kind.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
            )*};
        }
        sort!(
            pods,
            services,
            policies,
            request_authentications,
            peer_authentications
        );
        cluster.workloads.sort_by(|a, b| {
            (&a.namespace, &a.name, &a.kind).cmp(&(&b.namespace, &b.name, &b.kind))
        });
        cluster.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        (self.loaded, self.found)
    }

    pub(super) fn add(&mut self, file: usize, bytes: Range<usize>, format: Format) -> DocumentId {
        self.loaded.sources.add_document(file, bytes, format)
    }

    pub(super) fn faults(&mut self, document: DocumentId, faults: Vec<(Fault, Path)>) {
        for (fault, path) in faults {
            let at = At { document, path };
            self.found.push(match fault {
                Fault::DuplicateKey => Diagnostic::error(
                    Code::DuplicateKey,
                    at.clone(),
                    format!("the key `{}` is written twice in one mapping", at.path),
                    "remove one of them, or join their values",
                ),
                Fault::MergeKey => Diagnostic::error(
                    Code::MergeKey,
                    at,
                    "merge keys are not read",
                    "write the fields out where they belong",
                ),
            });
        }
    }

    pub(super) fn unreadable(&mut self, file: usize, reason: Unreadable) {
        let (code, message, help) = match reason {
            Unreadable::Io(reason) => (
                Code::CannotRead,
                format!("cannot read this: {reason}"),
                "check the path and its permissions",
            ),
            Unreadable::TooLarge => (
                Code::TooLarge,
                format!("the file has more than {} MiB", input::FILE_BYTES_MAX >> 20),
                "split it into several files",
            ),
            Unreadable::NotUtf8(_) => (
                Code::NotUtf8,
                "this byte is not part of UTF-8 text".into(),
                "save the file as UTF-8",
            ),
        };
        let at = self.loaded.sources.text(file).len();
        self.at_offset(file, at, code, message, help);
    }

    pub(super) fn yaml_failure(
        &mut self,
        file: usize,
        part: &Range<usize>,
        failure: yaml::Failure,
    ) {
        let text = &self.loaded.sources.text(file)[part.clone()];
        let yaml::Failure { kind, line, column } = failure;
        let at = match line {
            0 => part.start + text.len() - text.trim_start().len(),
            _ => part.start + offset_of(text, line, column),
        };
        let (code, message, help) = match kind {
            yaml::Kind::TooLarge(message) => (
                Code::TooLarge,
                message,
                "split it into documents, or write it as JSON",
            ),
            yaml::Kind::TooDeep => (
                Code::TooDeep,
                "the document is nested too deeply".into(),
                "write it with less nesting",
            ),
            yaml::Kind::Aliases => (
                Code::TooDeep,
                "the document's aliases expand to far more than its text".into(),
                "write it without aliases",
            ),
            yaml::Kind::Tag => (
                Code::Tag,
                "a YAML tag that Kubernetes does not know, or whose value we do not read".into(),
                "write the value without the tag",
            ),
            yaml::Kind::Syntax(message) => (
                Code::Syntax,
                message,
                "mend the YAML here; the cause may be a line above",
            ),
        };
        self.at_offset(file, at, code, message, help);
    }

    pub(super) fn at_offset(
        &mut self,
        file: usize,
        at: usize,
        code: Code,
        message: String,
        help: &str,
    ) {
        let document = self.add(file, at..at, Format::Unread);
        let at = At {
            document,
            path: Path::default(),
        };
        self.found.push(Diagnostic::error(code, at, message, help));
    }

    pub(super) fn reader(&self, document: DocumentId, object: Path) -> Reader<'_> {
        Reader {
            sources: &self.loaded.sources,
            document,
            object,
            policy: None,
            found: Vec::new(),
        }
    }
}

/// Byte offset of a line and a column that count from 1; 0 and what lies outside is the nearest end.
pub(super) fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let mut start = 0;
    for (number, content) in text.split_inclusive('\n').enumerate() {
        if number + 1 >= line {
            let characters = content.trim_end_matches(['\n', '\r']).char_indices();
            let at = characters.map(|(at, _)| at).nth(column.saturating_sub(1));
            return start + at.unwrap_or(content.trim_end().len());
        }
        start += content.len();
    }
    // Behind the last line there is nothing to show.
    text.trim_end().len()
}
