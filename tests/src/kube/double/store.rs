//! The objects of each kind, what has happened to them, and who watches.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    ops::Bound,
    time::Duration,
};

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

/// Events that a watch can go on from.
const LOG_MAX: usize = 50_000;

/// Namespace, which may be empty, and name.
pub type Name = (String, String);

/// A line for a watch, or the end of its connection.
pub type Line = io::Result<Bytes>;

#[derive(Default, Debug)]
pub struct Store {
    kinds: BTreeMap<&'static str, Kind>,
    /// Of the newest event.
    version: u64,
    /// Of the newest event that is forgotten.
    forgotten: u64,
    log: VecDeque<Event>,
    watches: Vec<Watch>,
    next_watch: u64,
    pub slow: Duration,
    forbidden: BTreeSet<&'static str>,
    away: bool,
}

#[derive(Default, Debug)]
struct Kind {
    /// As they are sent.
    objects: BTreeMap<Name, Box<str>>,
    asked: Asked,
}

/// How often a kind was asked for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Asked {
    /// First pages.
    pub lists: u64,
    pub pages: u64,
    pub watches: u64,
}

#[derive(Debug)]
struct Event {
    version: u64,
    kind: &'static str,
    name: Name,
    line: Bytes,
}

/// Which objects are asked for.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Selection {
    pub namespace: Option<String>,
    pub name: Option<String>,
}

#[derive(Debug)]
struct Watch {
    number: u64,
    kind: &'static str,
    selection: Selection,
    sender: UnboundedSender<Line>,
}

/// A page of a list.
#[derive(Debug)]
pub struct Page {
    pub text: String,
}

/// From where a list goes on: the version that it began with, and the last name.
pub type Further = (u64, Name);

impl Selection {
    fn has(&self, (namespace, name): &Name) -> bool {
        self.namespace.as_ref().is_none_or(|n| n == namespace)
            && self.name.as_ref().is_none_or(|n| n == name)
    }
}

impl Store {
    pub fn set(&mut self, kind: &'static str, mut object: Value) {
        self.version += 1;
        let meta = &mut object["metadata"];
        meta["resourceVersion"] = self.version.to_string().into();
        let word = |key: &str| meta[key].as_str().unwrap_or_default().to_owned();
        let name = (word("namespace"), word("name"));
        assert!(!name.1.is_empty(), "an object has a name");
        let text = object.to_string();
        let objects = &mut self.kinds.entry(kind).or_default().objects;
        let known = objects.insert(name.clone(), text.as_str().into());
        let event = match known {
            Some(_) => "MODIFIED",
            None => "ADDED",
        };
        self.happened(kind, name, event, &text);
    }

    pub fn remove(&mut self, kind: &'static str, namespace: &str, name: &str) -> bool {
        let name = (namespace.to_owned(), name.to_owned());
        let objects = &mut self.kinds.entry(kind).or_default().objects;
        let Some(text) = objects.remove(&name) else {
            return false;
        };
        self.version += 1;
        // As the real one does it: what it was, at the version of its end.
        let mut object: Value = match serde_json::from_str(&text) {
            Ok(object) => object,
            Err(error) => panic!("it was written here: {error}"),
        };
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.happened(kind, name, "DELETED", &object.to_string());
        true
    }

    fn happened(&mut self, kind: &'static str, name: Name, event: &str, object: &str) {
        let line = Bytes::from(format!("{{\"type\":\"{event}\",\"object\":{object}}}\n"));
        self.watches.retain(|watch| {
            let wanted = watch.kind == kind && watch.selection.has(&name);
            !wanted || watch.sender.send(Ok(line.clone())).is_ok()
        });
        self.log.push_back(Event {
            version: self.version,
            kind,
            name,
            line,
        });
        if self.log.len() > LOG_MAX
            && let Some(event) = self.log.pop_front()
        {
            self.forgotten = event.version;
        }
    }

    /// A page of so many objects.
    pub fn list(
        &mut self,
        kind: &'static str,
        selection: &Selection,
        further: Option<Further>,
        limit: usize,
    ) -> Page {
        let version = further
            .as_ref()
            .map_or(self.version, |(version, _)| *version);
        let of = self.kinds.entry(kind).or_default();
        of.asked.lists += u64::from(further.is_none());
        of.asked.pages += 1;
        let from = match &further {
            Some((_, name)) => Bound::Excluded(name.clone()),
            None => Bound::Unbounded,
        };
        let mut items = of
            .objects
            .range((from, Bound::Unbounded))
            .filter(|(name, _)| selection.has(name));
        let page: Vec<(&Name, &str)> = items
            .by_ref()
            .take(limit)
            .map(|(name, text)| (name, &**text))
            .collect();
        let mut meta = json!({"resourceVersion": version.to_string()});
        if items.next().is_some()
            && let Some((name, _)) = page.last()
        {
            meta["continue"] = format!("{version}/{}/{}", name.0, name.1).into();
        }
        let texts: Vec<&str> = page.iter().map(|(_, text)| *text).collect();
        Page {
            text: format!(
                "{{\"kind\":\"List\",\"apiVersion\":\"v1\",\"metadata\":{meta},\"items\":[{}]}}",
                texts.join(",")
            ),
        }
    }

    /// Sends what has happened since a version, and all that happens from now on. Returns the watch's
    /// number, or `None` where that version is forgotten.
    pub fn watch(
        &mut self,
        kind: &'static str,
        selection: Selection,
        since: u64,
        sender: UnboundedSender<Line>,
    ) -> Option<u64> {
        self.kinds.entry(kind).or_default().asked.watches += 1;
        if since < self.forgotten {
            return None;
        }
        let begin = self.log.partition_point(|event| event.version <= since);
        let later = self.log.range(begin..).filter(|event| event.kind == kind);
        for event in later.filter(|event| selection.has(&event.name)) {
            // Whoever asked may have gone.
            let _sent = sender.send(Ok(event.line.clone()));
        }
        self.next_watch += 1;
        self.watches.push(Watch {
            number: self.next_watch,
            kind,
            selection,
            sender,
        });
        Some(self.next_watch)
    }

    /// Ends a watch in good order.
    pub fn end(&mut self, number: u64) {
        self.watches.retain(|watch| watch.number != number);
    }

    pub fn cut(&mut self, kind: &'static str) {
        self.cut_where(|watch| watch.kind == kind);
    }

    fn cut_where(&mut self, is_cut: impl Fn(&Watch) -> bool) {
        self.watches.retain(|watch| {
            let cut = is_cut(watch);
            if cut {
                let broken = io::Error::from(io::ErrorKind::ConnectionReset);
                let _sent = watch.sender.send(Err(broken));
            }
            !cut
        });
    }

    /// Nobody is told anything any more, or is again.
    pub fn away(&mut self, away: bool) {
        self.away = away;
        if away {
            self.cut_where(|_| true);
        }
    }

    pub fn compact(&mut self) {
        self.log.clear();
        // A version of its own, so that nobody is up to date.
        self.version += 1;
        self.forgotten = self.version;
    }

    pub fn is_away(&self) -> bool {
        self.away
    }

    pub fn bookmark(&mut self) {
        let version = self.version.to_string();
        let object = json!({"type": "BOOKMARK", "object": {"kind": "Bookmark",
            "metadata": {"resourceVersion": version}}});
        let line = Bytes::from(format!("{object}\n"));
        self.watches
            .retain(|watch| watch.sender.send(Ok(line.clone())).is_ok());
    }

    pub fn forbid(&mut self, kind: &'static str, forbidden: bool) {
        match forbidden {
            true => self.forbidden.insert(kind),
            false => self.forbidden.remove(kind),
        };
    }

    pub fn is_forbidden(&self, kind: &str) -> bool {
        self.forbidden.contains(kind)
    }

    pub fn asked(&self, kind: &str) -> Asked {
        self.kinds
            .get(kind)
            .map(|kind| kind.asked)
            .unwrap_or_default()
    }
}
