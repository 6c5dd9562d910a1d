//! The inventory as Kubernetes manifests in a file or a folder.

use std::path::{Path, PathBuf};

use policyc::{
    cluster::Cluster,
    diagnostic::{Diagnostic, Severity, human},
    read::{Input, load},
};

use super::InventoryError;

/// Reads the manifests. Anything that the compiler would refuse is an error here, too.
pub fn read(paths: &[PathBuf], mesh: Option<&Path>) -> Result<Cluster, InventoryError> {
    for path in paths {
        // The reader's diagnostics are about documents; a path that is not there is an error here.
        std::fs::metadata(path).map_err(|source| InventoryError::Read {
            path: path.clone(),
            source,
        })?;
    }
    let inputs: Vec<Input> = paths.iter().cloned().map(Input::Path).collect();
    let (loaded, diagnostics) = load(&inputs, mesh);
    let errors: Vec<Diagnostic> = diagnostics
        .into_iter()
        .filter(|d| d.severity == Severity::Error)
        .collect();
    if errors.is_empty() {
        Ok(loaded.cluster)
    } else {
        let text = human(&errors, &loaded.sources, false);
        Err(InventoryError::Manifests(text.trim_end().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_the_inventory_names_file_and_line() {
        let name = format!("enforcer-inventory-{}.yaml", std::process::id());
        let path = std::env::temp_dir().join(name);
        let text = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: [\n";
        std::fs::write(&path, text).expect("a file of its own");
        let read = read(std::slice::from_ref(&path), None);
        std::fs::remove_file(&path).expect("it is still there");
        let error = read.expect_err("a list has no end").to_string();
        let place = format!("{}:", path.display());
        assert!(error.contains(&place), "it says where:\n{error}");
    }
}
