//! The text of what was read, kept so that a diagnostic can find its line and column.

use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use super::position::{Format, Positions};
use crate::{ast::DocumentId, diagnostic::Path};

/// All documents, in the order in which they were read; [`DocumentId`] is the index.
#[derive(Debug, Default)]
pub struct Sources {
    files: Vec<File>,
    documents: Vec<Document>,
    /// The document that was asked about last: diagnostics come in runs.
    last: Mutex<Option<(DocumentId, Arc<Positions>)>>,
}

#[derive(Debug)]
struct File {
    name: String,
    /// Shared with whoever keeps it in memory.
    text: Arc<String>,
    /// Byte offset of each line, found when first asked for.
    lines: OnceLock<Vec<usize>>,
}

impl File {
    /// Line from 1, and the offset of its beginning.
    fn line(&self, at: usize) -> (usize, usize) {
        let lines = self.lines.get_or_init(|| {
            let ends = self.text.match_indices('\n').map(|(end, _)| end + 1);
            std::iter::once(0).chain(ends).collect()
        });
        let line = lines.partition_point(|start| *start <= at);
        (
            line,
            lines.get(line.saturating_sub(1)).copied().unwrap_or(0),
        )
    }
}

#[derive(Debug)]
struct Document {
    file: usize,
    bytes: Range<usize>,
    format: Format,
}

/// A place in a file, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place<'s> {
    pub file: &'s str,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The whole text of the file, and the byte range in it.
    pub text: &'s str,
    pub span: Range<usize>,
}

impl Sources {
    /// How many documents were read.
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Nothing was read.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// The names of the files, in the order in which they were read.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|f| f.name.as_str())
    }

    /// Which of the files a document is in, counted from 0.
    pub fn file_of(&self, id: DocumentId) -> usize {
        self.document(id).map_or(usize::MAX, |d| d.file)
    }

    /// Name of the file that a document is in.
    pub fn file_name_of(&self, id: DocumentId) -> &str {
        self.file_name(self.file_of(id))
    }

    /// Where a path of a document is. `about_key`: its last key rather than the value behind it.
    pub fn place(&self, id: DocumentId, path: &Path, about_key: bool) -> Option<Place<'_>> {
        let document = self.document(id)?;
        let found = self.positions(id)?.find(path, about_key);
        let at = document.bytes.start + found.start;
        let file = self.files.get(document.file)?;
        Some(Self::place_at(file, at..document.bytes.start + found.end))
    }

    /// Whether the whole path is written in the document.
    pub(crate) fn has(&self, id: DocumentId, path: &Path) -> bool {
        self.positions(id).is_some_and(|found| found.has(path))
    }

    /// Whether the document holds this text anywhere.
    pub(crate) fn mentions(&self, id: DocumentId, text: &str) -> bool {
        let document = self.document(id);
        let of = document.and_then(|d| self.text(d.file).get(d.bytes.clone()));
        of.is_some_and(|of| of.contains(text))
    }

    /// Line and file of a document's path, as `file:line`.
    pub fn file_line(&self, id: DocumentId, path: &Path) -> String {
        match self.place(id, path, false) {
            Some(place) => format!("{}:{}", place.file, place.line),
            None => String::from("unknown place"),
        }
    }

    pub(super) fn add_file(&mut self, name: String, text: Arc<String>) -> usize {
        let lines = OnceLock::new();
        self.files.push(File { name, text, lines });
        self.files.len() - 1
    }

    pub(super) fn file_name(&self, file: usize) -> &str {
        self.files.get(file).map_or("", |f| &f.name)
    }

    pub(super) fn text(&self, file: usize) -> &str {
        self.files.get(file).map_or("", |f| &f.text)
    }

    pub(super) fn add_document(
        &mut self,
        file: usize,
        bytes: Range<usize>,
        format: Format,
    ) -> DocumentId {
        let id = DocumentId(u32::try_from(self.documents.len()).unwrap_or(u32::MAX));
        self.documents.push(Document {
            file,
            bytes,
            format,
        });
        id
    }

    /// Lets go of all texts. Documents stay, and are nowhere.
    pub(super) fn forget_texts(&mut self) {
        for file in &mut self.files {
            (file.text, file.lines) = (Arc::default(), OnceLock::new());
        }
        for document in &mut self.documents {
            document.bytes = 0..0;
        }
    }

    pub(super) fn shrink(&mut self) {
        self.files.shrink_to_fit();
        self.documents.shrink_to_fit();
    }

    /// Adds everything of another one behind its own.
    pub(super) fn append(&mut self, other: &Self) {
        let files = self.files.len();
        self.files.extend(other.files.iter().map(|file| File {
            name: file.name.clone(),
            text: Arc::clone(&file.text),
            lines: file.lines.clone(),
        }));
        self.documents
            .extend(other.documents.iter().map(|document| Document {
                file: files + document.file,
                bytes: document.bytes.clone(),
                format: document.format,
            }));
    }

    fn document(&self, id: DocumentId) -> Option<&Document> {
        self.documents.get(usize::try_from(id.0).ok()?)
    }

    fn positions(&self, id: DocumentId) -> Option<Arc<Positions>> {
        if let Some((last, positions)) = &*self.last()
            && *last == id
        {
            return Some(positions.clone());
        }
        let document = self.document(id)?;
        let text = self.text(document.file).get(document.bytes.clone())?;
        let positions = Arc::new(Positions::of(text, document.format));
        *self.last() = Some((id, positions.clone()));
        Some(positions)
    }

    fn last(&self) -> MutexGuard<'_, Option<(DocumentId, Arc<Positions>)>> {
        // Whoever died while holding it left a whole value behind.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place_at<'s>(file: &'s File, span: Range<usize>) -> Place<'s> {
        let (line, start) = file.line(span.start);
        let before = file.text.get(start..span.start).unwrap_or_default();
        Place {
            file: &file.name,
            line,
            column: before.chars().count() + 1,
            text: &file.text,
            span,
        }
    }
}
