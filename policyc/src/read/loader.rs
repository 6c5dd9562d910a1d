//! Texts to objects: documents, Lists, kinds, and the one place where objects join the cluster.

use std::{collections::BTreeMap, ops::Range};

use super::{
    Loaded,
    input::{self, Text, Unreadable},
    json, list,
    node::{Node, Reader},
    position::Format,
    split,
    value::{Fault, Value},
    yaml,
};
use crate::{
    ast::DocumentId,
    cluster,
    diagnostic::{At, Code, Diagnostic, Path},
};

/// YAML documents of more bytes than this are cut into items, where they are Lists.
const LIST_BYTES_MIN: usize = 1 << 20;

/// A value that was read, and where it is.
struct Entry {
    document: DocumentId,
    path: Path,
    value: Value,
    /// API version and kind of the items of a typed list, where it is one of them.
    of_list: Option<(String, String)>,
}

impl Entry {
    fn whole(document: DocumentId, value: Value) -> Self {
        Self {
            document,
            path: Path::default(),
            value,
            of_list: None,
        }
    }
}

/// Hears how far the reading of a file is: its name, the bytes that are done, and all of them.
pub type Watch<'w> = &'w mut dyn FnMut(&str, usize, usize);

#[derive(Default)]
pub struct Loader<'w> {
    pub(super) watch: Option<Watch<'w>>,
    pub(super) loaded: Loaded,
    pub(super) found: Vec<Diagnostic>,
    pub(super) mesh_given: bool,
    /// Where each object was found first: kind, namespace, name.
    pub(super) seen: BTreeMap<(String, String, String), At>,
}

impl Loader<'_> {
    /// Takes a file of manifests.
    pub fn manifests(&mut self, text: Text) {
        self.documents(text, &mut |loader, entry| {
            // kubectl passes over a document that is null.
            if entry.value == Value::Null {
                return;
            }
            let of_list = entry.of_list.as_ref();
            let of_list = of_list.map(|(version, kind)| (version.as_str(), kind.as_str()));
            loader.object(entry.document, &entry.path, &entry.value, of_list, 0);
        });
    }

    /// Takes a file that holds a MeshConfig, or the ConfigMap that Istio keeps it in.
    pub fn mesh(&mut self, text: Text) {
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

    /// Splits a text into documents, reads each and hands it on.
    fn documents(&mut self, text: Text, each: &mut dyn FnMut(&mut Self, Entry)) {
        let text_json = text.json;
        let (content, unreadable) = match text.content {
            Ok(content) => (content, None),
            Err(reason) => (reason.text(), Some(reason)),
        };
        let file = self.loaded.sources.add_file(text.name, content);
        if let Some(reason) = unreadable {
            return self.unreadable(file, reason);
        }
        let whole = self.loaded.sources.text(file);
        let parts = match text_json {
            true => vec![Range {
                start: 0,
                end: whole.len(),
            }],
            false => split::documents(whole),
        };
        let all = whole.len();
        for part in parts {
            let text = &self.loaded.sources.text(file)[part.clone()];
            let json = text_json || text.trim_start().starts_with(['{', '[']);
            let list = match !json && text.len() > LIST_BYTES_MIN {
                true => list::split(text),
                false => None,
            };
            match list {
                Some(list) => self.large_list(file, &part, list, each),
                None => {
                    let read = match json {
                        true => self.json(file, &part, text_json),
                        false => self.yaml(file, &part),
                    };
                    for (id, value) in read {
                        each(self, Entry::whole(id, value));
                    }
                }
            }
            self.tell(file, part.end, all);
        }
    }

    fn tell(&mut self, file: usize, done: usize, all: usize) {
        if let Some(watch) = &mut self.watch {
            watch(self.loaded.sources.file_name(file), done, all);
        }
    }

    /// A large List, item by item.
    fn large_list(
        &mut self,
        file: usize,
        part: &Range<usize>,
        list: list::List,
        each: &mut dyn FnMut(&mut Self, Entry),
    ) {
        let header = yaml::read(&list.header).ok().map(|(value, _)| value);
        let text = |key: &str| {
            let value = header.as_ref().and_then(|header| header.get(key));
            value.and_then(Value::as_str).map(str::to_owned)
        };
        let kind = text("kind");
        let item_kind = kind.as_deref().and_then(|kind| kind.strip_suffix("List"));
        let (Some(version), Some(item_kind)) = (text("apiVersion"), item_kind) else {
            // It is something else that has items; reading it whole says what.
            for (id, value) in self.yaml(file, part) {
                each(self, Entry::whole(id, value));
            }
            return;
        };
        let all = self.loaded.sources.text(file).len();
        for item in list.items {
            let range = part.start + item.start..part.start + item.end;
            for (document, value) in self.yaml(file, &range) {
                let Value::List(values) = value else { continue };
                for (i, value) in values.into_iter().enumerate() {
                    let of_list =
                        (!item_kind.is_empty()).then(|| (version.clone(), item_kind.to_owned()));
                    let path = Path::default().index(i);
                    each(
                        self,
                        Entry {
                            document,
                            path,
                            value,
                            of_list,
                        },
                    );
                }
            }
            self.tell(file, range.end, all);
        }
    }

    fn yaml(&mut self, file: usize, part: &Range<usize>) -> Vec<(DocumentId, Value)> {
        let text = &self.loaded.sources.text(file)[part.clone()];
        match yaml::read(text) {
            Ok((value, faults)) => {
                let id = self.add(file, part.clone(), Format::Yaml);
                self.faults(id, faults);
                vec![(id, value)]
            }
            Err(failure) => {
                self.yaml_failure(file, part, failure);
                Vec::new()
            }
        }
    }

    /// JSON values one after another. What only looks like JSON may be YAML in its flow style.
    fn json(&mut self, file: usize, part: &Range<usize>, only: bool) -> Vec<(DocumentId, Value)> {
        let text = &self.loaded.sources.text(file)[part.clone()];
        let mut values = Vec::new();
        for range in json::documents(text) {
            match json::read(&text[range.clone()]) {
                Ok(read) => values.push((range, read)),
                Err(_) if !values.is_empty() && (only || yaml::read(text).is_err()) => {
                    let message = "what follows the JSON value is neither JSON nor a comment";
                    let help = "remove it, or begin a document with `---`";
                    let at = part.start + range.start;
                    self.at_offset(file, at, Code::Syntax, message.into(), help);
                    return Vec::new();
                }
                Err(failure) if only || failure.too_deep => {
                    let start = part.start + range.start;
                    let offset = offset_of(&text[range], failure.line, failure.column);
                    let (code, help) = match failure.too_deep {
                        true => (Code::TooDeep, "write the document with less nesting"),
                        false => (Code::Syntax, "mend the JSON here"),
                    };
                    self.at_offset(file, start + offset, code, failure.message, help);
                    return Vec::new();
                }
                Err(_) => return self.yaml(file, part),
            }
        }
        let mut read = Vec::new();
        for (range, (value, faults)) in values {
            let bytes = part.start + range.start..part.start + range.end;
            let id = self.add(file, bytes, Format::Json);
            self.faults(id, faults);
            read.push((id, value));
        }
        read
    }

    fn add(&mut self, file: usize, bytes: Range<usize>, format: Format) -> DocumentId {
        self.loaded.sources.add_document(file, bytes, format)
    }

    fn faults(&mut self, document: DocumentId, faults: Vec<(Fault, Path)>) {
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

    fn unreadable(&mut self, file: usize, reason: Unreadable) {
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

    fn yaml_failure(&mut self, file: usize, part: &Range<usize>, failure: yaml::Failure) {
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

    fn at_offset(&mut self, file: usize, at: usize, code: Code, message: String, help: &str) {
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
fn offset_of(text: &str, line: usize, column: usize) -> usize {
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
