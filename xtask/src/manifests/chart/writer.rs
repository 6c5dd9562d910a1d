//! Writes one object as a template: mappings and lists a line a key, and an `if` where opinions differ.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};

use super::{NAMESPACE, TEXT, fork::Fork, named};
use crate::manifests::{
    COMPONENTS,
    values::{Hole, Place, SETTINGS},
};

pub struct Writer<'a> {
    /// Such as `DaemonSet/enforcer`.
    pub object: &'a str,
    pub out: String,
}

impl Writer<'_> {
    pub fn line(&mut self, line: &str) {
        self.out += line;
        self.out.push('\n');
    }

    /// The keys of mappings, one an entry. `own`: of the base, not of one component.
    pub fn mapping(&mut self, path: &str, indent: usize, fork: &Fork, own: bool) -> Result<()> {
        for key in fork.keys(|value| value.as_object().map(keys).unwrap_or_default()) {
            let lead = format!("{}{}:", " ".repeat(indent), scalar(&key.into())?);
            let below = fork.step(|value| value.get(key));
            let path = format!("{path}/{key}");
            self.entry(&path, indent, &lead, &below, own)?;
        }
        self.added(path, indent);
        self.more(path, indent, own);
        Ok(())
    }

    /// A key or the dash of an item, and what follows it.
    fn entry(
        &mut self,
        path: &str,
        indent: usize,
        lead: &str,
        fork: &Fork,
        own: bool,
    ) -> Result<()> {
        // Where components alone have it, the value is in their branches.
        let shared = fork.base.is_some() || fork.others.is_empty();
        if let Some((setting, place)) = self.hole(path).filter(|_| shared) {
            let value = format!(".Values.{setting}");
            match place.hole {
                Hole::Text(text) => {
                    self.line(&format!("{lead} {text}"));
                    return Ok(());
                }
                Hole::Yaml => {
                    ensure!(fork.others.is_empty(), "{path}: a component and a value");
                    let nested = fork
                        .base
                        .is_some_and(|base| base.is_object() || base.is_array());
                    if nested {
                        self.line(lead);
                        self.line(&yaml_of(&value, indent + 2));
                    } else {
                        self.line(&format!("{lead} {{{{ {value} | quote }}}}"));
                    }
                    return Ok(());
                }
                Hole::Added => bail!("{path} is there already"),
                Hole::More => {}
            }
        }
        if fork.others.is_empty() {
            return match fork.base {
                Some(base) => self.plain(path, indent, lead, base, own),
                None => Ok(()),
            };
        }
        if fork.all(Value::is_object) {
            self.line(&format!("{lead}{}", block(path)));
            return self.mapping(path, indent + 2, fork, own);
        }
        if fork.all(is_named_list) {
            self.line(lead);
            return self.named_list(path, indent, fork, own);
        }
        self.choice(path, indent, lead, fork, own)
    }

    /// Something that components have another one of.
    fn choice(
        &mut self,
        path: &str,
        indent: usize,
        lead: &str,
        fork: &Fork,
        own: bool,
    ) -> Result<()> {
        let mut word = "if";
        // The last component counts most.
        let (taken, given): (Vec<_>, Vec<_>) =
            fork.others.iter().rev().partition(|o| o.1.is_none());
        ensure!(
            taken.is_empty() || given.is_empty(),
            "{path}: taken and changed"
        );
        for (component, other) in given {
            let condition = COMPONENTS[component].condition;
            self.line(&format!("{{{{- {word} {condition} }}}}"));
            if let Some(other) = other {
                self.entry(path, indent, lead, &Fork::plain(other), false)?;
            }
            word = "else if";
        }
        if let (Some(base), true) = (fork.base, taken.is_empty()) {
            self.line("{{- else }}");
            self.entry(path, indent, lead, &Fork::plain(base), own)?;
        }
        if let (Some(base), false) = (fork.base, taken.is_empty()) {
            let conditions: Vec<String> = taken
                .iter()
                .map(|(component, _)| format!("({})", COMPONENTS[*component].condition))
                .collect();
            let any = match &conditions[..] {
                [one] => one.clone(),
                more => format!("(or {})", more.join(" ")),
            };
            self.line(&format!("{{{{- if not {any} }}}}"));
            self.entry(path, indent, lead, &Fork::plain(base), own)?;
        }
        self.line("{{- end }}");
        Ok(())
    }

    /// What nobody has another opinion of.
    fn plain(
        &mut self,
        path: &str,
        indent: usize,
        lead: &str,
        value: &Value,
        own: bool,
    ) -> Result<()> {
        let fork = Fork::plain(value);
        match value {
            Value::Object(map) if !map.is_empty() => {
                self.line(&format!("{lead}{}", block(path)));
                self.mapping(path, indent + 2, &fork, own)?;
            }
            Value::Array(_) if is_named_list(value) => {
                self.line(lead);
                self.named_list(path, indent, &fork, own)?;
            }
            Value::Array(list) if !list.is_empty() => {
                self.line(lead);
                for (i, item) in list.iter().enumerate() {
                    self.item(&format!("{path}/{i}"), indent, &Fork::plain(item), own)?;
                }
                self.more(path, indent, own);
            }
            Value::String(text) if text.contains('\n') => {
                self.line(&format!(
                    "{lead} {}",
                    if text.ends_with('\n') { "|" } else { "|-" }
                ));
                for line in text.lines() {
                    let line = format!("{}{}", " ".repeat(indent + 2), spared(line));
                    self.line(line.trim_end());
                }
            }
            Value::String(text) if text == NAMESPACE => {
                self.line(&format!("{lead} {{{{ .Release.Namespace }}}}"));
            }
            other => self.line(&format!("{lead} {}", spared(&scalar(other)?))),
        }
        Ok(())
    }

    fn named_list(&mut self, path: &str, indent: usize, fork: &Fork, own: bool) -> Result<()> {
        for name in fork.keys(names) {
            let below = fork.step(|value| named(value, name));
            let path = format!("{path}/{name}");
            if below.others.is_empty() || below.all(Value::is_object) {
                self.item(&path, indent, &below, own)?;
                continue;
            }
            ensure!(
                below.base.is_none(),
                "{path}: an item that a component takes away"
            );
            for (component, other) in &below.others {
                let condition = COMPONENTS[*component].condition;
                self.line(&format!("{{{{- if {condition} }}}}"));
                self.item(
                    &path,
                    indent,
                    &Fork::plain(other.context("it is there")?),
                    false,
                )?;
                self.line("{{- end }}");
            }
        }
        self.more(path, indent, own);
        Ok(())
    }

    /// An item of a list, whose dash stands where its parent's key does.
    fn item(&mut self, path: &str, indent: usize, fork: &Fork, own: bool) -> Result<()> {
        let dash = format!("{}-", " ".repeat(indent));
        if !fork.base.is_some_and(Value::is_object) {
            return self.entry(path, indent, &dash, fork, own);
        }
        let start = self.out.len();
        self.line(&dash);
        self.mapping(path, indent + 2, fork, own)?;
        // Where the first key may come and go, the dash keeps a line of its own.
        let below = format!("{dash}\n{}", " ".repeat(indent + 2));
        if self.out[start..].starts_with(&below) {
            self.out
                .replace_range(start..start + below.len(), &format!("{dash} "));
        }
        Ok(())
    }

    /// The value that goes to a path.
    fn hole(&self, path: &str) -> Option<(&'static str, &'static Place)> {
        SETTINGS.iter().find_map(|setting| {
            let mut places = setting.places.iter();
            let place = places.find(|p| p.object == self.object && p.path == path)?;
            Some((setting.name, place))
        })
    }

    /// Keys of a mapping that are there only with a value.
    fn added(&mut self, path: &str, indent: usize) {
        for setting in SETTINGS {
            for place in setting.places {
                let below = place
                    .path
                    .strip_prefix(path)
                    .and_then(|rest| rest.strip_prefix('/'));
                let Some(key) = below.filter(|key| !key.contains('/')) else {
                    continue;
                };
                if place.object == self.object && matches!(place.hole, Hole::Added) {
                    self.line(&format!("{{{{- with .Values.{} }}}}", setting.name));
                    self.line(&format!("{}{key}:", " ".repeat(indent)));
                    self.line(&yaml_of(".", indent + 2));
                    self.line("{{- end }}");
                }
            }
        }
    }

    /// More items or keys. Those of the base are no components' business.
    fn more(&mut self, path: &str, indent: usize, own: bool) {
        if let Some((setting, place)) = self.hole(path)
            && matches!(place.hole, Hole::More)
            && own
        {
            self.line(&format!("{{{{- with .Values.{setting} }}}}"));
            self.line(&yaml_of(".", indent));
            self.line("{{- end }}");
        }
    }
}

fn yaml_of(value: &str, indent: usize) -> String {
    format!("{{{{- toYaml {value} | nindent {indent} }}}}")
}

/// Whether what follows is a text that holds YAML.
fn block(path: &str) -> &'static str {
    match path {
        TEXT => " |",
        _ => "",
    }
}

/// Braces of ours that are no template's.
fn spared(text: &str) -> String {
    text.replace("{{", "{{`{{`}}")
}

fn scalar(value: &Value) -> Result<String> {
    Ok(serde_yaml::to_string(value)?.trim_end().to_owned())
}

fn keys(map: &Map<String, Value>) -> Vec<&str> {
    map.keys().map(String::as_str).collect()
}

/// Items that Kubernetes tells apart by their names.
fn is_named_list(value: &Value) -> bool {
    let list = value.as_array().filter(|list| !list.is_empty());
    list.is_some_and(|list| list.iter().all(|item| item["name"].is_string()))
}

fn names(value: &Value) -> Vec<&str> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(|item| item["name"].as_str()).collect()
}
