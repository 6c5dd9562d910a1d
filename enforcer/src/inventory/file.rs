//! The inventory as Kubernetes manifests in a file or a folder.

use std::path::{Path, PathBuf};

use policyc::{
    cluster::Cluster,
    diagnostic::Severity,
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
    let errors: Vec<String> = diagnostics
        .iter()
        .filter(|d| d.severity == Severity::Error)
        .map(|d| format!("  {}\n    help: {}", d.message, d.help))
        .collect();
    if errors.is_empty() {
        Ok(loaded.cluster)
    } else {
        Err(InventoryError::Manifests(errors.join("\n")))
    }
}
