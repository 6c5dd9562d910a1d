//! What is inside the programs: every crate that is linked into them, its licence and its text; and the
//! authorities whose certificates they believe.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use serde_json::json;

use super::{PROGRAMS, VERSION, layout::sha256};
use crate::paths;

/// How the names of files with licences begin.
const TEXTS: [&str; 4] = ["LICEN", "COPYING", "NOTICE", "UNLICENSE"];

pub struct Inside {
    /// Of others, by name and version.
    packages: Vec<Package>,
}

impl Inside {
    /// Asks cargo.
    ///
    /// # Errors
    /// What cargo says.
    pub fn read() -> Result<Self> {
        let metadata = MetadataCommand::new()
            .manifest_path(paths::root().join("Cargo.toml"))
            .features(CargoOpt::SomeFeatures(Vec::new()))
            .other_options([
                "--locked".to_owned(),
                format!("--filter-platform={}", paths::STATIC_TARGET),
            ])
            .exec()
            .context("cargo metadata")?;
        let linked = linked(&metadata)?;
        let mut packages: Vec<Package> = metadata
            .packages
            .into_iter()
            .filter(|package| linked.contains(&package.id) && package.source.is_some())
            .collect();
        packages.sort_by_key(|package| (package.name.to_string(), package.version.clone()));
        Ok(Self { packages })
    }

    pub fn count(&self) -> usize {
        self.packages.len()
    }

    /// Every text once, below the crates that it is of.
    ///
    /// # Errors
    /// When a crate's folder cannot be read.
    pub fn licences(&self) -> Result<String> {
        let mut by_text: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut text =
            String::from("What is linked into enforcer and policyc, and its licences.\n\n");
        for package in &self.packages {
            let name = format!("{} {}", package.name, package.version);
            let licence = licence(package);
            text += &format!("{name}: {licence}\n");
            let folder = package.manifest_path.parent().context("a crate's folder")?;
            for found in texts(folder.as_std_path())? {
                by_text.entry(found).or_default().insert(name.clone());
            }
        }
        for (words, packages) in by_text {
            let packages: Vec<String> = packages.into_iter().collect();
            text += &format!("\n{}\n{}\n\n", "=".repeat(80), packages.join(", "));
            text += words.trim_end();
            text.push('\n');
        }
        Ok(text)
    }

    /// A bill of materials, CycloneDX 1.5.
    ///
    /// # Errors
    /// None that a machine shows.
    pub fn list(&self, programs: &[(&'static str, Vec<u8>)]) -> Result<String> {
        let linked = self.packages.iter().map(|package| {
            let (name, version) = (package.name.as_str(), package.version.to_string());
            json!({
                "type": "library",
                "name": name,
                "version": version,
                "bom-ref": format!("pkg:cargo/{name}@{version}"),
                "purl": format!("pkg:cargo/{name}@{version}"),
                "licenses": [{"expression": licence(package)}],
            })
        });
        let own = programs.iter().map(|(name, bytes)| {
            json!({
                "type": "application",
                "name": name,
                "version": VERSION,
                "bom-ref": *name,
                "licenses": [{"expression": "Apache-2.0 OR MIT"}],
                "hashes": [{"alg": "SHA-256", "content": sha256(bytes)}],
            })
        });
        let list = json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {"component": {
                "type": "container", "name": "enforcer", "version": VERSION, "bom-ref": "image",
            }},
            "components": own.chain(linked).collect::<Vec<_>>(),
        });
        Ok(serde_json::to_string_pretty(&list)? + "\n")
    }
}

/// Packages that end up in the programs: build scripts and macros do not.
fn linked(metadata: &Metadata) -> Result<BTreeSet<PackageId>> {
    let resolve = metadata.resolve.as_ref().context("cargo resolves")?;
    let nodes: BTreeMap<&PackageId, _> = resolve.nodes.iter().map(|n| (&n.id, n)).collect();
    let macros: BTreeSet<&PackageId> = metadata
        .packages
        .iter()
        .filter(|package| package.targets.iter().any(|target| target.is_proc_macro()))
        .map(|package| &package.id)
        .collect();
    let mut found = BTreeSet::new();
    let roots = metadata
        .packages
        .iter()
        .filter(|package| package.source.is_none() && PROGRAMS.contains(&package.name.as_str()));
    let mut todo: Vec<&PackageId> = roots.map(|package| &package.id).collect();
    while let Some(id) = todo.pop() {
        if macros.contains(id) || !found.insert(id.clone()) {
            continue;
        }
        let node = nodes.get(id).context("every package has a node")?;
        let normal = node.deps.iter().filter(|dep| {
            let mut kinds = dep.dep_kinds.iter();
            kinds.any(|kind| kind.kind == DependencyKind::Normal)
        });
        todo.extend(normal.map(|dep| &dep.pkg));
    }
    Ok(found)
}

/// As SPDX writes it: older crates have a slash for OR.
fn licence(package: &Package) -> String {
    match &package.license {
        Some(licence) => licence.replace('/', " OR ").replace("  ", " "),
        None => "LicenseRef-see-texts".into(),
    }
}

fn texts(folder: &Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        if TEXTS.iter().any(|begin| name.starts_with(begin)) && entry.file_type()?.is_file() {
            let bytes = fs::read(entry.path())?;
            // An author's name may be in another encoding.
            texts.push(String::from_utf8_lossy(&bytes).replace('\r', ""));
        }
    }
    Ok(texts)
}

/// Mozilla's list, as PEM.
pub fn authorities() -> String {
    let mut text = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        let encoded = STANDARD.encode(certificate);
        text += "-----BEGIN CERTIFICATE-----\n";
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(64));
            text += line;
            text.push('\n');
            rest = after;
        }
        text += "-----END CERTIFICATE-----\n";
    }
    text
}
