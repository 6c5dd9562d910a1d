//! Alerts and dashboard, as Prometheus and Grafana read them, wrapped as objects of a cluster.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

const HEADER: &str = "# Written from ../../monitoring: BLESS=1 cargo xtask manifests\n";

/// The objects' files, and what they should say.
///
/// # Errors
/// Where the sources cannot be read.
pub fn files(deploy: &Path) -> Result<Vec<(PathBuf, String)>> {
    let source = |name: &str| {
        let path = deploy.join("monitoring").join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let rules: Value = serde_yaml::from_str(&source("alerts.yaml")?).context("alerts.yaml")?;
    let dashboard = source("dashboard.json")?;
    let _whole: Value = serde_json::from_str(&dashboard).context("dashboard.json")?;
    let object = |group: &str, kind: &str, name: &str| {
        json!({
            "apiVersion": group,
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": "enforcer-system",
                "labels": {"app.kubernetes.io/name": "enforcer"},
            },
        })
    };
    let mut alerts = object("monitoring.coreos.com/v1", "PrometheusRule", "enforcer");
    alerts["spec"] = rules;
    let mut board = object("v1", "ConfigMap", "enforcer-dashboard");
    // What Grafana's sidecar looks for.
    board["metadata"]["labels"]["grafana_dashboard"] = json!("1");
    board["data"] = json!({"enforcer.json": dashboard});
    let folder = deploy.join("components/monitoring");
    [("alerts.yaml", alerts), ("dashboard.yaml", board)]
        .into_iter()
        .map(|(name, object)| {
            let text = format!("{HEADER}{}", serde_yaml::to_string(&object)?);
            Ok((folder.join(name), text))
        })
        .collect()
}
