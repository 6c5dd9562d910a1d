//! Values of every kind, and what they must make of the base.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{CONFIG, DAEMON_SET};
use crate::manifests::{Objects, read_within};

/// Values that are not the defaults, as operators set them.
const FILLED: &str = r#"{
  "image": {"repository": "registry.example/enforcer", "pullPolicy": "Always",
    "digest": "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
  "imagePullSecrets": [{"name": "registry"}],
  "mode": "audit",
  "enrollNamespaces": ["shop", "enforced=yes"],
  "excludeNamespaces": ["kube-system", "istio-system"],
  "config": {"non-tcp": "enforce", "trusted-uplink": ["wg0"]},
  "extraArgs": ["--refuse=drop"],
  "resources": {"limits": {"memory": "4Gi"}},
  "nodeSelector": {"pool": "apps"},
  "affinity": {"podAffinity": {}},
  "tolerations": [{"key": "apps", "operator": "Exists"}],
  "updateStrategy": {"type": "OnDelete", "rollingUpdate": null}
}"#;

/// What they make of the base: the DaemonSet, and the ConfigMap.
const FILLED_DAEMON_SET: &str = r#"[
  {"op": "replace", "path": "/spec/template/spec/containers/0/image", "value":
    "registry.example/enforcer@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
  {"op": "copy", "from": "/spec/template/spec/containers/0/image",
    "path": "/spec/template/spec/initContainers/0/image"},
  {"op": "add", "path": "/spec/template/spec/containers/0/imagePullPolicy", "value": "Always"},
  {"op": "add", "path": "/spec/template/spec/initContainers/0/imagePullPolicy", "value": "Always"},
  {"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--refuse=drop"},
  {"op": "replace", "path": "/spec/template/spec/containers/0/resources/limits/memory",
    "value": "4Gi"},
  {"op": "replace", "path": "/spec/template/spec/initContainers/0/resources/limits/memory",
    "value": "4Gi"},
  {"op": "add", "path": "/spec/template/spec/imagePullSecrets", "value": [{"name": "registry"}]},
  {"op": "add", "path": "/spec/template/spec/nodeSelector", "value": {"pool": "apps"}},
  {"op": "add", "path": "/spec/template/spec/affinity", "value": {"podAffinity": {}}},
  {"op": "replace", "path": "/spec/template/spec/tolerations",
    "value": [{"key": "apps", "operator": "Exists"}]},
  {"op": "replace", "path": "/spec/updateStrategy", "value": {"type": "OnDelete"}}
]"#;
const FILLED_CONFIG: &str = r#"[
  {"op": "replace", "path": "/data/config.yaml/mode", "value": "audit"},
  {"op": "add", "path": "/data/config.yaml/enroll-namespace", "value": ["shop", "enforced=yes"]},
  {"op": "replace", "path": "/data/config.yaml/exclude-namespace",
    "value": ["kube-system", "istio-system"]},
  {"op": "add", "path": "/data/config.yaml/non-tcp", "value": "enforce"},
  {"op": "add", "path": "/data/config.yaml/trusted-uplink", "value": ["wg0"]}
]"#;

/// Values of every kind, and what the chart must make of them.
///
/// # Errors
/// Where the base is not what the patches above are for.
pub fn filled(base: &Objects) -> Result<(Value, Objects)> {
    let mut expected = base.clone();
    for (name, patch) in [(DAEMON_SET, FILLED_DAEMON_SET), (CONFIG, FILLED_CONFIG)] {
        let object = base.get(name).cloned().context("the base has it")?;
        let mut object = read_within(object)?;
        let patch: json_patch::Patch = serde_json::from_str(patch)?;
        json_patch::patch(&mut object, &patch).with_context(|| name.to_owned())?;
        expected.insert(name.into(), object);
    }
    Ok((serde_json::from_str(FILLED)?, expected))
}
