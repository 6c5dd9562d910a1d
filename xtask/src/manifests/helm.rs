//! Real Helm, as it is published for Python, which is the handiest way to have it: in an environment of
//! its own that outlives a clone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::{Component, Objects, objects};
use crate::{build, paths, step};

const HELM: &str = "helm-python-sdk==0.2.2";

/// Renders the chart once for each set of values, and lints it once. Values that the schema does not
/// know must be refused.
const PROGRAM: &str = r#"
import json, sys
import helm_python as helm
chart, choices = json.load(sys.stdin)
report = helm.lint(chart, {}, strict=True)
found = [m for m in report["messages"] if m["severity"] > 1] + report["errors"]
if found:
    sys.exit(f"helm lint: {found}")
for wrong in ({"mdoe": "audit"}, {"mode": "off"}, {"image": {"digest": "sha256:0"}}):
    try:
        with helm.Chart.load(chart) as loaded:
            loaded.validate_schema(wrong)
    except helm.HelmError:
        continue
    sys.exit(f"{wrong} is accepted")
rendered = []
for values in choices:
    with helm.Chart.load(chart) as loaded:
        loaded.validate_schema(values)
        out = loaded.render(values, name="enforcer", namespace="enforcer-system")
        rendered.append("\n---\n".join(out[name] for name in sorted(out)))
json.dump(rendered, sys.stdout)
"#;

/// What the chart renders, for each set of values.
///
/// # Errors
/// Without Python, or what Helm has against the chart.
pub fn render(chart: &Path, choices: &[Value]) -> Result<Vec<Objects>> {
    let input = serde_json::to_vec(&json!([chart, choices]))?;
    let work = paths::target().join("xtask");
    fs::create_dir_all(&work)?;
    let question = work.join("helm.json");
    fs::write(&question, input)?;
    let output = Command::new(python()?)
        .args(["-c", PROGRAM])
        .stdin(fs::File::open(&question)?)
        .output()
        .context("cannot run Helm")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    let rendered: Vec<String> =
        serde_json::from_slice(&output.stdout).context("Helm's answer is JSON")?;
    ensure!(
        rendered.len() == choices.len(),
        "Helm answers each question"
    );
    rendered.iter().map(|text| objects(text)).collect()
}

/// The values that choose components.
///
/// # Errors
/// Where a component's value is no JSON.
pub fn values(choice: &[&Component]) -> Result<Value> {
    let mut values = Map::new();
    for component in choice {
        let (name, value) = component.value;
        values.insert(name.into(), serde_json::from_str(value)?);
    }
    Ok(values.into())
}

/// The environment's interpreter.
fn python() -> Result<PathBuf> {
    let folder = paths::cache()?.join("helm");
    let python = folder.join("bin/python");
    let there = Command::new(&python)
        .args(["-c", "import helm_python"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !there {
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).arg(&folder);
        let title = "make a Python environment (Debian's package is python3-venv)";
        step::must(title, &mut make, build::LIMIT)?;
        let mut install = Command::new(folder.join("bin/pip"));
        install.args(["install", "--quiet", "--only-binary", ":all:", HELM]);
        step::must("install Helm", &mut install, build::LIMIT)?;
    }
    Ok(python)
}
