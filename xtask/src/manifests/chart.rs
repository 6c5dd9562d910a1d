//! Writes the chart: the base, with an `if` wherever a component says something else, and a value
//! wherever [`values`] has a hole. Nothing in it is written by hand.

mod fork;
mod writer;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use fork::Fork;
use writer::Writer;

use super::{
    COMPONENTS, Objects, kustomize, read_within,
    values::{self, SETTINGS},
};

/// Where an object holds YAML as a text.
pub const TEXT: &str = "/data/config.yaml";
/// The namespace that the base is written for; a release has one of its own.
const NAMESPACE: &str = "enforcer-system";
const HEADER: &str =
    "{{- /* Written from ../../base and ../../components: BLESS=1 cargo xtask manifests */ -}}\n";

/// Every file of the chart, and its text.
///
/// # Errors
/// Where the base cannot be read, or a value has no place in it.
pub fn files(deploy: &Path) -> Result<Vec<(PathBuf, String)>> {
    let base = kustomize::render(deploy, &[])?;
    let others: Vec<Objects> = COMPONENTS
        .iter()
        .map(|component| kustomize::render(deploy, &[component]))
        .collect::<Result<_>>()?;
    let chart = deploy.join("chart");
    let mut files = vec![
        (chart.join("Chart.yaml"), chart_yaml()),
        (chart.join("values.yaml"), values::yaml(&base)?),
        (chart.join("values.schema.json"), values::schema()?),
    ];
    let mut names: Vec<&String> = base
        .keys()
        .chain(others.iter().flat_map(|o| o.keys()))
        .collect();
    names.sort();
    names.dedup();
    for setting in SETTINGS {
        for place in setting.places {
            let known = names.iter().any(|name| *name == place.object);
            ensure!(known, "{}: there is no {}", setting.name, place.object);
        }
    }
    for name in names {
        if name.starts_with("Namespace/") {
            continue; // Helm makes it
        }
        let file = name.to_lowercase().replace('/', "-") + ".yaml";
        let text = template(name, &base, &others).with_context(|| name.clone())?;
        files.push((chart.join("templates").join(file), text));
    }
    Ok(files)
}

fn chart_yaml() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "# Written by `BLESS=1 cargo xtask manifests`.\napiVersion: v2\nname: enforcer\n\
         description: Enforces Istio's AuthorizationPolicy in the kernel of every node\n\
         type: application\nversion: {version}\nappVersion: \"{version}\"\n"
    )
}

fn template(name: &str, base: &Objects, others: &[Objects]) -> Result<String> {
    let read = |objects: &Objects| objects.get(name).cloned().map(read_within).transpose();
    let own = read(base)?;
    let mut of_components: Vec<Option<Value>> = others.iter().map(read).collect::<Result<_>>()?;
    let mut writer = Writer {
        object: name,
        out: HEADER.into(),
    };
    // Of one component alone.
    let only = of_components.iter().position(Option::is_some);
    let (own, condition) = match (own, only) {
        (Some(own), _) => (own, None),
        (None, Some(i)) => {
            let alone = of_components.iter().filter(|o| o.is_some()).count() == 1;
            ensure!(alone, "two components have it");
            let own = of_components[i].take().context("it was just there")?;
            of_components.fill(Some(own.clone()));
            (own, Some(COMPONENTS[i].condition))
        }
        (None, None) => bail!("nobody has it"),
    };
    if let Some(condition) = condition {
        writer.line(&format!("{{{{- if {condition} }}}}"));
    }
    let fork = Fork::new(Some(&own), of_components.iter().map(Option::as_ref));
    writer.mapping("", 0, &fork, true)?;
    if condition.is_some() {
        writer.line("{{- end }}");
    }
    Ok(writer.out)
}

fn named<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.as_array()?.iter().find(|item| item["name"] == name)
}

/// What is at a path, in which items of lists have their names.
pub fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let mut steps = path.split('/').skip(1);
    steps.try_fold(value, |value, step| match value {
        Value::Array(_) => named(value, step),
        other => other.get(step),
    })
}
