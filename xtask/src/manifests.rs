//! `cargo xtask manifests`: what is applied to a cluster, from one source.
//!
//! The source is `enforcer/deploy/base` with its `components`, as people read and patch them. From
//! these the Helm chart is written, and real Helm must render the same objects from it, whatever is
//! chosen. Nothing here knows what the manifests say.

mod chart;
mod helm;
mod kustomize;
mod monitoring;
mod values;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::paths;

/// Set: write what is out of date, instead of complaining.
const BLESS: &str = "BLESS";

/// Objects by kind and name, such as `DaemonSet/enforcer`.
pub type Objects = BTreeMap<String, Value>;

/// What can be added to the base, and the value of the chart that stands for it. Later ones win where
/// two change the same thing.
pub struct Component {
    /// Its folder.
    pub name: &'static str,
    /// When a template takes it.
    condition: &'static str,
    /// A value that makes it so, as a path and JSON.
    value: (&'static str, &'static str),
}

const fn component(
    name: &'static str,
    condition: &'static str,
    value: (&'static str, &'static str),
) -> Component {
    Component {
        name,
        condition,
        value,
    }
}

/// All of them.
pub const COMPONENTS: [Component; 5] = [
    component(
        "unprivileged",
        "not .Values.privileged",
        ("privileged", "false"),
    ),
    component(
        "bundle",
        "eq .Values.policySource \"bundle\"",
        ("policySource", "\"bundle\""),
    ),
    component("status", ".Values.status", ("status", "true")),
    component("monitoring", ".Values.monitoring", ("monitoring", "true")),
    component("detach", ".Values.detach", ("detach", "true")),
];

/// Writes what is out of date where `BLESS` is set, and complains of it elsewhere; then has Helm and,
/// where there is one, kubectl render every choice of components.
///
/// # Errors
/// What is out of date, or differs.
pub fn run() -> Result<()> {
    for (path, text) in generated()? {
        current(&path, &text)?;
    }
    let choices = choices();
    let mut values: Vec<Value> = choices
        .iter()
        .map(|choice| helm::values(choice))
        .collect::<Result<_>>()?;
    let (filled, expected) = values::filled(&without_namespace(&[])?)?;
    values.push(filled);
    let mut rendered = helm::render(&chart_folder(), &values)?;
    let from_filled = rendered.pop().unwrap_or_default();
    for (choice, from_chart) in choices.iter().zip(&rendered) {
        same(&without_namespace(choice)?, from_chart)
            .with_context(|| format!("the chart with {}", named(choice)))?;
    }
    same(&expected, &from_filled).context("the chart with values of every kind")?;
    println!(
        "helm: {} choices of components are what the chart renders",
        choices.len()
    );
    kustomize::compare_with_kubectl(&folder(), &choices)
}

/// Helm has words of its own for it: --create-namespace.
fn without_namespace(choice: &[&Component]) -> Result<Objects> {
    let mut source = kustomize::render(&folder(), choice)?;
    source.retain(|name, _| !name.starts_with("Namespace/"));
    Ok(source)
}

/// Every file that is written from others, and what it should say.
fn generated() -> Result<Vec<(PathBuf, String)>> {
    let mut files = monitoring::files(&folder())?;
    for (path, text) in &files {
        // The chart is made of them.
        current(path, text)?;
    }
    files.extend(chart::files(&folder())?);
    Ok(files)
}

fn current(path: &Path, text: &str) -> Result<()> {
    let there = fs::read_to_string(path).unwrap_or_default();
    if there == text {
        return Ok(());
    }
    let shown = path.strip_prefix(paths::root()).unwrap_or(path).display();
    if env::var_os(BLESS).is_none() {
        bail!("{shown} is out of date: {BLESS}=1 cargo xtask manifests");
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {shown}"))?;
    println!("written: {shown}");
    Ok(())
}

/// Every set of components.
fn choices() -> Vec<Vec<&'static Component>> {
    (0u32..1 << COMPONENTS.len())
        .map(|bits| {
            let all = COMPONENTS.iter().enumerate();
            all.filter(|(i, _)| bits >> i & 1 == 1)
                .map(|(_, c)| c)
                .collect()
        })
        .collect()
}

fn named(choice: &[&Component]) -> String {
    match choice {
        [] => "nothing added".into(),
        some => {
            let names: Vec<&str> = some.iter().map(|c| c.name).collect();
            names.join(", ")
        }
    }
}

/// What is applied lies there.
fn folder() -> PathBuf {
    paths::root().join("enforcer/deploy")
}

fn chart_folder() -> PathBuf {
    folder().join("chart")
}

/// Reads documents of YAML as objects.
///
/// # Errors
/// Where a document is no object of Kubernetes, or there are two of one name.
pub fn objects(text: &str) -> Result<Objects> {
    let mut objects = Objects::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value: Value = serde::Deserialize::deserialize(document)?;
        if value.is_null() {
            continue; // comments alone
        }
        let name = match (value["kind"].as_str(), value["metadata"]["name"].as_str()) {
            (Some(kind), Some(name)) => format!("{kind}/{name}"),
            _ => bail!("a document without kind or name: {value}"),
        };
        ensure!(
            objects.insert(name.clone(), value).is_none(),
            "two objects {name}"
        );
    }
    Ok(objects)
}

/// The agent's configuration is YAML within YAML: what counts is what it says. Read once, it is no text
/// any more.
fn read_within(mut object: Value) -> Result<Value> {
    if let Some(text) = object.pointer_mut(chart::TEXT)
        && let Some(within) = text.as_str()
    {
        *text = serde_yaml::from_str(within).context("the agent's configuration")?;
    }
    Ok(object)
}

/// That both are the same objects.
fn same(expected: &Objects, found: &Objects) -> Result<()> {
    let names: Vec<&String> = expected.keys().collect();
    let others: Vec<&String> = found.keys().collect();
    ensure!(names == others, "{others:?} instead of {names:?}");
    for (name, expected) in expected {
        let (expected, found) = (
            read_within(expected.clone())?,
            read_within(found[name].clone())?,
        );
        if let Some(place) = difference("", &expected, &found) {
            bail!("{name}: {place}");
        }
    }
    Ok(())
}

/// The first place where two values differ.
fn difference(path: &str, expected: &Value, found: &Value) -> Option<String> {
    match (expected, found) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            keys.flat_map(|key| {
                let [a, b] = [a, b].map(|map| map.get(key).unwrap_or(&Value::Null));
                difference(&format!("{path}/{key}"), a, b)
            })
            .next()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .flat_map(|(i, (a, b))| difference(&format!("{path}/{i}"), a, b))
            .next(),
        (a, b) if a == b => None,
        (a, b) => Some(format!("{path} is {b} instead of {a}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_from_the_base_is_up_to_date() {
        for (path, text) in generated().expect("the base can be read") {
            let there = fs::read_to_string(&path).expect("it is part of the repository");
            assert_eq!(
                there,
                text,
                "{}: BLESS=1 cargo xtask manifests",
                path.display()
            );
        }
    }

    #[test]
    fn no_template_is_left_from_an_object_that_is_gone() {
        let files = generated().expect("the base can be read");
        let templates = fs::read_dir(chart_folder().join("templates")).expect("the chart");
        for template in templates {
            let path = template.expect("a file").path();
            assert!(
                files.iter().any(|(file, _)| *file == path),
                "{} is written from nothing: remove it",
                path.display()
            );
        }
    }

    #[test]
    fn differences_are_found_wherever_they_are() {
        let a = serde_json::json!({"a": [1, {"b": 2}], "c": null});
        assert_eq!(difference("", &a, &a), None);
        for (b, place) in [
            (
                serde_json::json!({"a": [1, {"b": 3}], "c": null}),
                "/a/1/b is 3",
            ),
            (serde_json::json!({"a": [1], "c": null}), "/a is [1]"),
            (serde_json::json!({"a": [1, {"b": 2}], "c": 1}), "/c is 1"),
            (
                serde_json::json!({"a": [1, {"b": 2}], "c": null, "d": true}),
                "/d is true",
            ),
        ] {
            let found = difference("", &a, &b).expect("they differ");
            assert!(found.starts_with(place), "{found}");
        }
    }

    #[test]
    fn the_images_tag_is_the_projects_version() {
        let base = kustomize::render(&folder(), &[]).expect("the base can be read");
        let pods = &base["DaemonSet/enforcer"]["spec"]["template"]["spec"];
        let containers = ["initContainers", "containers"].map(|kind| &pods[kind][0]["image"]);
        let expected = concat!("enforcer:", env!("CARGO_PKG_VERSION"));
        assert_eq!(containers, [expected, expected]);
    }
}
