//! Typed access to a document's values. Each wrong value becomes a diagnostic at its place, and the
//! caller goes on with what is right, so that one run reports as many problems as possible.

use std::collections::BTreeMap;

use super::{
    sources::Sources,
    value::{Key, Value},
    yaml::kubectl_reads_as,
};
use crate::{
    ast::DocumentId,
    diagnostic::{At, Code, Diagnostic, Path, Severity, Step},
};

/// A value and the way to it. Nodes borrow their parents, so that walking allocates nothing.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    pub value: &'a Value,
    parent: Option<&'a Node<'a>>,
    step: StepRef<'a>,
}

#[derive(Clone, Copy)]
enum StepRef<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> Node<'a> {
    pub fn root(value: &'a Value) -> Self {
        Self {
            value,
            parent: None,
            step: StepRef::Root,
        }
    }

    /// The value of a key; a null is as absent as it is to Kubernetes.
    pub fn get(&'a self, key: &'a str) -> Option<Node<'a>> {
        let value = self.value.get(key)?;
        Some(self.child(value, StepRef::Key(key)))
    }

    /// The entries of a mapping, nulls included.
    pub fn entries(&'a self) -> impl Iterator<Item = (&'a Key, Node<'a>)> {
        let entries: &[(Key, Value)] = match self.value {
            Value::Map(entries) => entries,
            _ => &[],
        };
        entries
            .iter()
            .map(|(key, value)| (key, self.child(value, StepRef::Key(&key.text))))
    }

    /// The items of a list, nulls included.
    pub fn items(&'a self) -> impl ExactSizeIterator<Item = Node<'a>> {
        let items: &[Value] = match self.value {
            Value::List(items) => items,
            _ => &[],
        };
        let child = |(i, value)| self.child(value, StepRef::Index(i));
        items.iter().enumerate().map(child)
    }

    /// The name that the value goes by: its key, or that of the list it is in.
    pub fn name(&self) -> &'a str {
        match (self.step, self.parent) {
            (StepRef::Key(key), _) => key,
            (StepRef::Index(_), Some(parent)) => parent.name(),
            _ => "document",
        }
    }

    fn child(&'a self, value: &'a Value, step: StepRef<'a>) -> Self {
        Self {
            value,
            parent: Some(self),
            step,
        }
    }

    fn push_path(&self, path: &mut Path) {
        if let Some(parent) = self.parent {
            parent.push_path(path);
        }
        match self.step {
            StepRef::Root => {}
            StepRef::Key(key) => path.0.push(Step::Key(key.into())),
            StepRef::Index(i) => path
                .0
                .push(Step::Index(u32::try_from(i).unwrap_or(u32::MAX))),
        }
    }
}

/// Reads the values of one object and keeps what is wrong with them.
pub struct Reader<'s> {
    pub sources: &'s Sources,
    pub document: DocumentId,
    /// Path of the object in its document: empty, or `items[3]` within a List.
    pub object: Path,
    /// `namespace/name` of the policy that is being read.
    pub policy: Option<String>,
    pub found: Vec<Diagnostic>,
}

impl Reader<'_> {
    /// Where a node is.
    pub fn at(&self, node: &Node<'_>) -> At {
        let mut path = self.object.clone();
        node.push_path(&mut path);
        At {
            document: self.document,
            path,
        }
    }

    pub fn error(&mut self, code: Code, node: &Node<'_>, message: String, help: impl Into<String>) {
        let at = self.at(node);
        self.push(code, Severity::Error, at, message, help.into());
    }

    pub fn warning(
        &mut self,
        code: Code,
        node: &Node<'_>,
        message: String,
        help: impl Into<String>,
    ) {
        let at = self.at(node);
        self.push(code, Severity::Warning, at, message, help.into());
    }

    fn push(&mut self, code: Code, severity: Severity, at: At, message: String, help: String) {
        self.found.push(Diagnostic {
            code,
            severity,
            message,
            at,
            help,
            policy: self.policy.clone(),
        });
    }

    /// A field, read by `read`; `None` if it is absent, null or wrong.
    pub fn field<T>(
        &mut self,
        node: &Node<'_>,
        key: &str,
        read: impl FnOnce(&mut Self, &Node<'_>) -> Option<T>,
    ) -> Option<T> {
        node.get(key).and_then(|child| read(self, &child))
    }

    /// A mapping, or an error.
    pub fn map(&mut self, node: &Node<'_>) -> Option<()> {
        match node.value {
            Value::Map(_) => Some(()),
            other => self.wrong_type(node, "a mapping", other),
        }
    }

    /// A list, or an error.
    pub fn list(&mut self, node: &Node<'_>) -> Option<()> {
        match node.value {
            Value::List(_) => Some(()),
            other => self.wrong_type(node, "a list", other),
        }
    }

    /// A string as kubectl would read one.
    pub fn string(&mut self, node: &Node<'_>) -> Option<String> {
        match node.value {
            Value::String(text) => Some(text.clone()),
            Value::Word(_) | Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {
                let text = self.written(node);
                self.quote_it(node, &text, node.value.kind())
            }
            other => self.wrong_type(node, "a string", other),
        }
    }

    /// A scalar as text, whatever kubectl makes of it: for what must be one of a few words.
    pub fn scalar(&mut self, node: &Node<'_>) -> Option<String> {
        match node.value {
            Value::Word(text) => Some(text.clone()),
            Value::Bool(_) | Value::Integer(_) | Value::Float(_) => Some(self.written(node)),
            _ => self.string(node),
        }
    }

    /// A list of strings. Members that are wrong are reported and left out.
    pub fn strings(&mut self, node: &Node<'_>) -> Option<Vec<String>> {
        if !matches!(node.value, Value::Null | Value::List(_) | Value::Map(_)) {
            let (name, text) = (node.name(), self.written(node));
            let message = format!("`{name}` wants a list, and this is {}", node.value.kind());
            self.error(
                Code::WrongType,
                node,
                message,
                format!("write `{name}: [\"{text}\"]`"),
            );
            return None;
        }
        self.list(node)?;
        Some(node.items().filter_map(|item| self.string(&item)).collect())
    }

    /// Keys and values that are both strings: labels, annotations.
    pub fn string_map(&mut self, node: &Node<'_>) -> Option<BTreeMap<String, String>> {
        self.map(node)?;
        let mut map = BTreeMap::new();
        for (key, child) in node.entries() {
            self.check_key(key, &child);
            // Kubernetes stores a label or annotation without a value as an empty one.
            let value = match child.value {
                Value::Null => Some(String::new()),
                _ => self.string(&child),
            };
            if let Some(value) = value {
                map.insert(key.text.clone(), value);
            }
        }
        Some(map)
    }

    pub fn boolean(&mut self, node: &Node<'_>) -> Option<bool> {
        match node.value {
            Value::Bool(value) => Some(*value),
            // `yes` is a boolean to kubectl, and a string to the YAML of today.
            Value::Word(text) if kubectl_reads_as(text) == Some("true") => Some(true),
            Value::Word(text) if kubectl_reads_as(text) == Some("false") => Some(false),
            other => self.wrong_type(node, "true or false", other),
        }
    }

    /// A whole number within the range of `T`.
    pub fn integer<T: TryFrom<i128>>(&mut self, node: &Node<'_>) -> Option<T> {
        match node.value {
            Value::Integer(value) => {
                let converted = T::try_from(*value).ok();
                if converted.is_none() {
                    let message = format!("`{}` is out of range: {value}", node.name());
                    self.error(
                        Code::BadPortNumber,
                        node,
                        message,
                        "write a number that fits the field",
                    );
                }
                converted
            }
            other => self.wrong_type(node, "a whole number", other),
        }
    }

    /// Every key must be one of `known`; a similar one is suggested. False where one is not, so that
    /// what is then missing is not reported as well.
    pub fn only_keys(&mut self, node: &Node<'_>, what: &str, known: &[&str]) -> bool {
        let mut all_known = true;
        for (key, child) in node.entries() {
            if known.contains(&key.text.as_str()) {
                if *child.value == Value::Null {
                    self.null_field(&child);
                }
                continue;
            }
            all_known = false;
            // A merge key has been reported as such.
            if key.text == "<<" {
                continue;
            }
            let help = match nearest(&key.text, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known fields: {}", known.join(", ")),
            };
            self.error(
                Code::UnknownField,
                &child,
                format!("unknown field `{}` in {what}", key.text),
                help,
            );
        }
        all_known
    }

    fn null_field(&mut self, child: &Node<'_>) {
        let name = child.name();
        self.warning(
            Code::NullField,
            child,
            format!("`{name}` has no value, and Kubernetes reads that as if it were not written"),
            format!("give `{name}` a value, or remove it"),
        );
    }

    fn check_key(&mut self, key: &Key, child: &Node<'_>) {
        if key.not_a_string {
            let message = format!("the key `{}` is not a string to kubectl", key.text);
            self.error(
                Code::NotAString,
                child,
                message,
                format!("quote it: `\"{}\"`", key.text),
            );
        }
    }

    fn quote_it<T>(&mut self, node: &Node<'_>, text: &str, what: &str) -> Option<T> {
        self.error(
            Code::NotAString,
            node,
            format!(
                "`{}` wants a string, and kubectl reads `{text}` as {what}",
                node.name()
            ),
            match self.is_tagged(node) {
                true => "remove the tag, and quote the value".to_owned(),
                false => format!("quote it: `\"{text}\"`"),
            },
        );
        None
    }

    /// Whether a tag stands before the value on its line.
    fn is_tagged(&self, node: &Node<'_>) -> bool {
        let at = self.at(node);
        let place = self.sources.place(at.document, &at.path, false);
        place.is_some_and(|place| {
            let before = place.text.get(..place.span.start).unwrap_or("");
            let line = before.rsplit('\n').next().unwrap_or("");
            line.split_whitespace()
                .next_back()
                .is_some_and(|word| word.contains('!'))
        })
    }

    fn wrong_type<T>(&mut self, node: &Node<'_>, wanted: &str, value: &Value) -> Option<T> {
        let name = node.name();
        let subject = match node.step {
            StepRef::Index(_) => format!("an item of `{name}`"),
            StepRef::Root => "a document".to_owned(),
            StepRef::Key(_) => format!("`{name}`"),
        };
        let message = format!("{subject} wants {wanted}, and this is {}", value.kind());
        self.error(Code::WrongType, node, message, format!("write {wanted}"));
        None
    }

    /// The scalar as the text has it, without its quotes.
    fn written(&self, node: &Node<'_>) -> String {
        let at = self.at(node);
        let place = self.sources.place(at.document, &at.path, false);
        let text = place.and_then(|p| p.text.get(p.span)).unwrap_or("");
        let text = text.trim().trim_matches(['"', '\'']);
        match text.is_empty() || text.len() > 60 {
            true => String::from("value"),
            false => text.to_owned(),
        }
    }
}

/// The candidate that was probably meant, if any is close: a few letters changed, swapped, missing
/// or too many, or a common beginning.
pub fn nearest<'c>(text: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    const CLOSE: f64 = 0.8;
    let lower = text.to_lowercase();
    let letters = lower.chars().count();
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates {
        let other = candidate.to_lowercase();
        let edits = strsim::damerau_levenshtein(&lower, &other);
        let few_edits = letters >= 3 && edits <= (letters / 4).max(1);
        // The sum prefers few edits, and among those a common beginning.
        let likeness = strsim::jaro_winkler(&lower, &other);
        let score = likeness + strsim::normalized_damerau_levenshtein(&lower, &other);
        let close = likeness >= CLOSE || few_edits;
        if close && best.is_none_or(|(before, _)| score > before) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn what_was_probably_meant() {
        let near = |text, candidates: &[&'static str]| nearest(text, candidates.iter().copied());
        assert_eq!(
            near("wbe", &["web", "db"]),
            Some("web"),
            "two letters swapped"
        );
        assert_eq!(
            near("method", &["paths", "methods", "notMethods"]),
            Some("methods")
        );
        assert_eq!(near("Deny", &["ALLOW", "DENY"]), Some("DENY"), "case aside");
        assert_eq!(near("app", &["db", "cache"]), None, "nothing is close");
        assert_eq!(near("a", &["b"]), None, "one letter says nothing");
    }
}
