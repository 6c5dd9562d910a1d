//! What one text came to by itself, kept so that it can join others again and again.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    input::Text, json, loader::Loader, objects::Object, position::Format, sources::Sources,
};
use crate::diagnostic::{At, Code, Diagnostic, Path};

/// What one file came to by itself: objects and diagnostics by the number of their document in it.
#[derive(Default)]
pub struct Part {
    pub(super) sources: Sources,
    pub(super) objects: Vec<(At, Object)>,
    pub(super) found: Vec<Diagnostic>,
    skipped: BTreeMap<String, u32>,
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Part({} objects)", self.objects.len())
    }
}

impl Part {
    /// Reads a file of manifests.
    pub fn read(text: Text) -> Self {
        let mut loader = Loader::default();
        loader.manifests(text);
        loader.flush();
        Self::of(loader)
    }

    /// Reads one object as JSON. `of` is its API version and kind, where it does not say so itself:
    /// the items of a typed list do not.
    pub fn object(name: &str, json: &str, of: (&str, &str)) -> Self {
        let mut loader = Loader::default();
        let text = Arc::new(json.to_owned());
        let file = loader.loaded.sources.add_file(name.to_owned(), text);
        match json::read(json) {
            Ok((value, faults)) => {
                let document = loader.add(file, 0..json.len(), Format::Json);
                loader.faults(document, faults);
                loader.object(document, &Path::default(), &value, Some(of), 0);
            }
            Err(failure) => {
                let help = "it should have been refused by whoever sent it";
                loader.at_offset(file, 0, Code::Syntax, failure.message, help);
            }
        }
        Self::of(loader)
    }

    fn of(loader: Loader<'_>) -> Self {
        Self {
            sources: loader.loaded.sources,
            objects: loader.objects,
            found: loader.found,
            skipped: loader.loaded.cluster.skipped,
        }
    }

    /// Lets go of room that lists took to grow. A policy would be three times as large.
    pub fn shrink(&mut self) {
        // A copy of a list has as much room as it has items, and so have the lists within.
        self.objects = self.objects.to_vec();
        self.found.shrink_to_fit();
        self.sources.shrink();
    }

    /// Nothing else decides what a file comes to; what could not be read is always new.
    pub fn same_text(&self, other: &Self) -> bool {
        let text = |part: &Self| part.sources.text(0).to_owned();
        self.found.is_empty() && other.found.is_empty() && text(self) == text(other)
    }
}

impl Loader<'_> {
    /// Takes what a file came to, as if it were read here and now.
    pub(super) fn part(&mut self, part: &Part) {
        let by = u32::try_from(self.loaded.sources.len()).unwrap_or(u32::MAX);
        let later = |at: &At| {
            let mut at = at.clone();
            at.document.0 += by;
            at
        };
        self.loaded.sources.append(&part.sources);
        let objects = part.objects.iter();
        self.objects
            .extend(objects.map(|(at, object)| (later(at), object.clone().later(by))));
        self.found.extend(part.found.iter().map(|found| Diagnostic {
            at: later(&found.at),
            ..found.clone()
        }));
        for (kind, count) in &part.skipped {
            *self.loaded.cluster.skipped.entry(kind.clone()).or_default() += count;
        }
    }
}
