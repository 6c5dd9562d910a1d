//! What kustomize makes of the base and components, of which only resources and JSON patches are in
//! use: any other word in a kustomization is an error. Where kubectl is on this machine, it must agree.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::{Component, Objects, named, objects, same};
use crate::paths;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kustomization {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    patches: Vec<Patch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    target: Target,
    patch: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    kind: String,
    name: String,
}

/// The base with components, in their order.
///
/// # Errors
/// What cannot be read or applied.
pub fn render(deploy: &Path, components: &[&Component]) -> Result<Objects> {
    let mut all = Objects::new();
    add(&mut all, &deploy.join("base"))?;
    for component in components {
        add(&mut all, &deploy.join("components").join(component.name))?;
    }
    Ok(all)
}

fn add(all: &mut Objects, folder: &Path) -> Result<()> {
    let file = folder.join("kustomization.yaml");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let kustomization: Kustomization =
        serde_yaml::from_str(&text).with_context(|| file.display().to_string())?;
    for name in &kustomization.resources {
        let path = folder.join(name);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for (name, object) in objects(&text).with_context(|| path.display().to_string())? {
            ensure!(
                all.insert(name.clone(), object).is_none(),
                "{}: {name} is there already",
                path.display()
            );
        }
    }
    for Patch { target, patch } in &kustomization.patches {
        let name = format!("{}/{}", target.kind, target.name);
        let object = all
            .get_mut(&name)
            .with_context(|| format!("{}: no {name}", file.display()))?;
        let operations: json_patch::Patch = serde_yaml::from_str(patch)?;
        json_patch::patch(object, &operations)
            .with_context(|| format!("{}: {name}", file.display()))?;
    }
    Ok(())
}

/// That `kubectl kustomize` renders each choice as [`render`] does. Says so where it cannot be asked.
///
/// # Errors
/// Where they differ.
pub fn compare_with_kubectl(deploy: &Path, choices: &[Vec<&Component>]) -> Result<()> {
    let Some(kubectl) = paths::program("kubectl").filter(|program| knows_components(program))
    else {
        println!("kubectl: not there, or too old for components; the base is compared by itself");
        return Ok(());
    };
    let work = paths::target().join("xtask/kustomize");
    fs::create_dir_all(&work)?;
    // Alone, and all together.
    let some: Vec<_> = choices
        .iter()
        .filter(|choice| choice.len() < 2 || choice.len() == super::COMPONENTS.len())
        .collect();
    for choice in &some {
        let mut text = String::from("resources: [../../../enforcer/deploy/base]\ncomponents:\n");
        for component in choice.iter() {
            text += &format!("- ../../../enforcer/deploy/components/{}\n", component.name);
        }
        fs::write(work.join("kustomization.yaml"), text)?;
        let output = Command::new(&kubectl)
            .arg("kustomize")
            .arg(&work)
            .output()
            .context("cannot run kubectl")?;
        if !output.status.success() {
            bail!(
                "kubectl kustomize: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let found = objects(std::str::from_utf8(&output.stdout)?)?;
        same(&render(deploy, choice)?, &found)
            .with_context(|| format!("kubectl kustomize with {}", named(choice)))?;
    }
    println!("kubectl: {} choices of components are the same", some.len());
    Ok(())
}

/// Components came with kustomize 3.7, which kubectl has from 1.21 on.
fn knows_components(kubectl: &Path) -> bool {
    let Ok(output) = Command::new(kubectl).args(["kustomize", "--help"]).output() else {
        return false;
    };
    String::from_utf8_lossy(&output.stdout).contains("KRM")
}
