//! Texts to documents: what is YAML, JSON or a large List, and each of them read in turn.
//!
//! Documents wait until there are enough of them for several threads; they are handed on one by one
//! and in order.

use std::{ops::Range, sync::Arc};

use super::{
    input::Text,
    json, list,
    loader::{Loader, offset_of},
    parallel::{self, Read},
    position::Format,
    split,
    value::Value,
    yaml,
};
use crate::{
    ast::DocumentId,
    diagnostic::{Code, Path},
};

/// YAML documents of more bytes than this are cut into items, where they are Lists.
const LIST_BYTES_MIN: usize = 1 << 20;
/// Bytes of documents that wait to be read together.
const BATCH_BYTES: usize = 4 << 20;

/// A value that was read, and where it is.
pub struct Entry {
    pub document: DocumentId,
    pub path: Path,
    pub value: Value,
    /// API version and kind of the items of a typed list, where it is one of them.
    pub of_list: Option<(String, String)>,
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

/// A part of a file that waits to be read.
pub struct Job {
    file: usize,
    part: Range<usize>,
    kind: Kind,
}

enum Kind {
    Yaml,
    /// `only`: the file's name says that it is nothing else.
    Json {
        only: bool,
    },
    List(list::List),
}

/// Documents that wait, and their bytes.
#[derive(Default)]
pub struct Queue {
    jobs: Vec<Job>,
    bytes: usize,
}

type Each<'e, 'w> = &'e mut dyn FnMut(&mut Loader<'w>, Entry);

impl<'w> Loader<'w> {
    /// Takes a file of manifests.
    pub fn manifests(&mut self, text: Text) {
        let jobs = self.jobs(text);
        self.queue.bytes += jobs.iter().map(|job| job.part.len()).sum::<usize>();
        self.queue.jobs.extend(jobs);
        if self.queue.bytes >= BATCH_BYTES {
            self.flush();
        }
    }

    /// Reads the manifests that still wait.
    pub(super) fn flush(&mut self) {
        let queue = std::mem::take(&mut self.queue);
        self.run(queue.jobs, &mut |loader, entry| {
            // kubectl passes over a document that is null.
            if entry.value == Value::Null {
                return;
            }
            let of_list = entry.of_list.as_ref();
            let of_list = of_list.map(|(version, kind)| (version.as_str(), kind.as_str()));
            loader.object(entry.document, &entry.path, &entry.value, of_list, 0);
        });
    }

    /// Splits a text into documents, reads each and hands it on.
    pub(super) fn documents(&mut self, text: Text, each: Each<'_, 'w>) {
        let jobs = self.jobs(text);
        self.run(jobs, each);
    }

    /// Splits a text into what can be read by itself.
    fn jobs(&mut self, text: Text) -> Vec<Job> {
        let only = text.json;
        let (content, unreadable) = match text.content {
            Ok(content) => (content, None),
            Err(reason) => (reason.text(), Some(reason)),
        };
        let file = self.loaded.sources.add_file(text.name, Arc::new(content));
        if let Some(reason) = unreadable {
            self.unreadable(file, reason);
            return Vec::new();
        }
        let whole = self.loaded.sources.text(file);
        let parts = match only {
            true => vec![Range {
                start: 0,
                end: whole.len(),
            }],
            false => split::documents(whole),
        };
        let job = |part: Range<usize>| {
            let text = &whole[part.clone()];
            let kind = if only || text.trim_start().starts_with(['{', '[']) {
                Kind::Json { only }
            } else if text.len() > LIST_BYTES_MIN
                && let Some(list) = list::split(text)
            {
                Kind::List(list)
            } else {
                Kind::Yaml
            };
            Job { file, part, kind }
        };
        parts.into_iter().map(job).collect()
    }

    fn run(&mut self, jobs: Vec<Job>, each: Each<'_, 'w>) {
        let yaml = jobs.iter().filter(|job| matches!(job.kind, Kind::Yaml));
        let ranges = yaml.map(|job| (job.file, job.part.clone())).collect();
        let mut read = self.read_all(ranges).into_iter();
        for Job { file, part, kind } in jobs {
            match kind {
                Kind::Yaml => {
                    if let Some(read) = read.next()
                        && let Some((id, value)) = self.yaml_read(file, &part, read)
                    {
                        each(self, Entry::whole(id, value));
                    }
                }
                Kind::Json { only } => {
                    for (id, value) in self.json(file, &part, only) {
                        each(self, Entry::whole(id, value));
                    }
                }
                Kind::List(list) => self.large_list(file, &part, list, each),
            }
            self.tell(file, part.end);
        }
    }

    fn read_all(&self, ranges: Vec<(usize, Range<usize>)>) -> Vec<Read> {
        let text = |(file, range): (usize, Range<usize>)| &self.loaded.sources.text(file)[range];
        let texts: Vec<&str> = ranges.into_iter().map(text).collect();
        parallel::read_all(&texts)
    }

    fn tell(&mut self, file: usize, done: usize) {
        if let Some(watch) = &mut self.watch {
            let all = self.loaded.sources.text(file).len();
            watch(self.loaded.sources.file_name(file), done, all);
        }
    }

    /// A large List, item by item.
    fn large_list(
        &mut self,
        file: usize,
        part: &Range<usize>,
        list: list::List,
        each: Each<'_, 'w>,
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
        let of_list = (!item_kind.is_empty()).then(|| (version, item_kind.to_owned()));
        let mut items = list
            .items
            .into_iter()
            .map(|item| (file, part.start + item.start..part.start + item.end))
            .peekable();
        while items.peek().is_some() {
            let mut bytes = 0;
            let batch: Vec<_> = std::iter::from_fn(|| {
                let item = items.next_if(|_| bytes < BATCH_BYTES)?;
                bytes += item.1.len();
                Some(item)
            })
            .collect();
            let read = self.read_all(batch.clone());
            for ((file, range), read) in batch.into_iter().zip(read) {
                self.list_item(file, &range, read, &of_list, each);
                self.tell(file, range.end);
            }
        }
    }

    /// An item that was cut out of a List: a YAML sequence of one.
    fn list_item(
        &mut self,
        file: usize,
        range: &Range<usize>,
        read: Read,
        of_list: &Option<(String, String)>,
        each: Each<'_, 'w>,
    ) {
        let Some((document, Value::List(values))) = self.yaml_read(file, range, read) else {
            return;
        };
        for (i, value) in values.into_iter().enumerate() {
            let entry = Entry {
                document,
                path: Path::default().index(i),
                value,
                of_list: of_list.clone(),
            };
            each(self, entry);
        }
    }

    fn yaml(&mut self, file: usize, part: &Range<usize>) -> Vec<(DocumentId, Value)> {
        let read = yaml::read(&self.loaded.sources.text(file)[part.clone()]);
        self.yaml_read(file, part, read).into_iter().collect()
    }

    fn yaml_read(
        &mut self,
        file: usize,
        part: &Range<usize>,
        read: Read,
    ) -> Option<(DocumentId, Value)> {
        match read {
            Ok((value, faults)) => {
                let id = self.add(file, part.clone(), Format::Yaml);
                self.faults(id, faults);
                Some((id, value))
            }
            Err(failure) => {
                self.yaml_failure(file, part, failure);
                None
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
}
