//! The chart's values: for each its meaning, what it may be, and where it goes. A default is what the
//! base says at that place, so that the two cannot drift apart.

mod filled;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

pub use filled::filled;

use super::{Objects, chart::at, read_within};

/// How a value gets into a template.
#[derive(Clone, Copy)]
pub enum Hole {
    /// In place of what is there, as one text.
    Text(&'static str),
    /// In place of what is there, as YAML.
    Yaml,
    /// A key that is there only when the value is not empty.
    Added,
    /// More items of the list, or more keys of the mapping, that is there.
    More,
}

/// Where a value goes: the object, and the path in it, in which items of lists have their names.
pub struct Place {
    pub object: &'static str,
    pub path: &'static str,
    pub hole: Hole,
}

pub struct Setting {
    /// Such as `image.tag`.
    pub name: &'static str,
    about: &'static str,
    /// JSON schema.
    schema: &'static str,
    /// `None`: what is at the first place.
    default: Option<&'static str>,
    pub places: &'static [Place],
}

const DAEMON_SET: &str = "DaemonSet/enforcer";
const CONFIG: &str = "ConfigMap/enforcer";
const IMAGE: &str = "\"{{ .Values.image.repository }}{{ with .Values.image.digest }}@{{ . }}\
                     {{ else }}:{{ .Values.image.tag }}{{ end }}\"";

const fn place(object: &'static str, path: &'static str, hole: Hole) -> Place {
    Place { object, path, hole }
}

const fn setting(
    name: &'static str,
    about: &'static str,
    schema: &'static str,
    default: Option<&'static str>,
    places: &'static [Place],
) -> Setting {
    Setting {
        name,
        about,
        schema,
        default,
        places,
    }
}

const STRING: &str = r#"{"type": "string"}"#;
const BOOLEAN: &str = r#"{"type": "boolean"}"#;
const STRINGS: &str = r#"{"type": "array", "items": {"type": "string"}}"#;
const OBJECTS: &str = r#"{"type": "array", "items": {"type": "object"}}"#;
const OBJECT: &str = r#"{"type": "object"}"#;

/// All of them, in the order in which they are shown. Those without a place choose components.
pub const SETTINGS: &[Setting] = &[
    setting(
        "image.repository",
        "Where the image is",
        r#"{"type": "string", "minLength": 1}"#,
        Some("\"enforcer\""),
        &[
            place(
                DAEMON_SET,
                "/spec/template/spec/initContainers/prepare/image",
                Hole::Text(IMAGE),
            ),
            place(
                DAEMON_SET,
                "/spec/template/spec/containers/enforcer/image",
                Hole::Text(IMAGE),
            ),
        ],
    ),
    setting(
        "image.tag",
        "Its tag",
        STRING,
        Some(concat!("\"", env!("CARGO_PKG_VERSION"), "\"")),
        &[],
    ),
    setting(
        "image.digest",
        "sha256:..., which counts more than the tag",
        r#"{"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}"#,
        Some("\"\""),
        &[],
    ),
    setting(
        "image.pullPolicy",
        "Always, IfNotPresent or Never; empty: what Kubernetes makes of the tag",
        r#"{"enum": ["", "Always", "IfNotPresent", "Never"]}"#,
        Some("\"\""),
        &[
            place(
                DAEMON_SET,
                "/spec/template/spec/initContainers/prepare/imagePullPolicy",
                Hole::Added,
            ),
            place(
                DAEMON_SET,
                "/spec/template/spec/containers/enforcer/imagePullPolicy",
                Hole::Added,
            ),
        ],
    ),
    setting(
        "imagePullSecrets",
        "Names of Secrets, as {name: ...}",
        OBJECTS,
        Some("[]"),
        &[place(
            DAEMON_SET,
            "/spec/template/spec/imagePullSecrets",
            Hole::Added,
        )],
    ),
    setting(
        "mode",
        "enforce, or audit: report verdicts and refuse nothing",
        r#"{"enum": ["enforce", "audit"]}"#,
        None,
        &[place(CONFIG, "/data/config.yaml/mode", Hole::Yaml)],
    ),
    setting(
        "policySource",
        "cluster: the AuthorizationPolicies that are there; bundle: one that CI has compiled and signed",
        r#"{"enum": ["cluster", "bundle"]}"#,
        Some("\"cluster\""),
        &[],
    ),
    setting(
        "bundle.source",
        "With policySource bundle: where it is, as `enforcer run --bundle` takes it",
        r#"{"type": "string", "minLength": 1}"#,
        Some("\"/etc/enforcer-bundle/bundle.bin\""),
        &[place(CONFIG, "/data/config.yaml/bundle", Hole::Yaml)],
    ),
    setting(
        "bundle.configMap",
        "The ConfigMap that is seen as /etc/enforcer-bundle, if there is one",
        r#"{"type": "string", "minLength": 1}"#,
        Some("\"enforcer-bundle\""),
        &[place(
            DAEMON_SET,
            "/spec/template/spec/volumes/bundle/configMap/name",
            Hole::Yaml,
        )],
    ),
    setting(
        "bundle.signers",
        "The ConfigMap with the public keys that a bundle must be signed with, as signers.pub",
        r#"{"type": "string", "minLength": 1}"#,
        Some("\"enforcer-signers\""),
        &[place(
            DAEMON_SET,
            "/spec/template/spec/volumes/signers/configMap/name",
            Hole::Yaml,
        )],
    ),
    setting(
        "enrollNamespaces",
        "Only pods of these namespaces are policed: NAME or LABEL=VALUE; empty: of all but the excluded",
        STRINGS,
        Some("[]"),
        &[place(
            CONFIG,
            "/data/config.yaml/enroll-namespace",
            Hole::Added,
        )],
    ),
    setting(
        "excludeNamespaces",
        "Their pods are guarded against spoofing, and not policed",
        STRINGS,
        None,
        &[place(
            CONFIG,
            "/data/config.yaml/exclude-namespace",
            Hole::Yaml,
        )],
    ),
    setting(
        "config",
        "Any other option of `enforcer run`, by the name that it has there",
        OBJECT,
        Some("{}"),
        &[place(CONFIG, "/data/config.yaml", Hole::More)],
    ),
    setting(
        "extraArgs",
        "Arguments of `enforcer run`, which count more than its configuration",
        STRINGS,
        Some("[]"),
        &[place(
            DAEMON_SET,
            "/spec/template/spec/containers/enforcer/args",
            Hole::More,
        )],
    ),
    setting(
        "privileged",
        "false: the agent has seven capabilities instead of all, and makes no mounts",
        BOOLEAN,
        Some("true"),
        &[],
    ),
    setting(
        "status",
        "The agent may write policies' status",
        BOOLEAN,
        Some("false"),
        &[],
    ),
    setting(
        "monitoring",
        "A PodMonitor, alerts and a dashboard; metrics are then served on the node's address",
        BOOLEAN,
        Some("false"),
        &[],
    ),
    setting(
        "detach",
        "true: end enforcement on every node, before the chart is uninstalled",
        BOOLEAN,
        Some("false"),
        &[],
    ),
    setting(
        "resources",
        "Of the agent; no limit of CPU, since a late table is worse than a busy moment",
        OBJECT,
        None,
        &[
            place(
                DAEMON_SET,
                "/spec/template/spec/containers/enforcer/resources",
                Hole::Yaml,
            ),
            place(
                DAEMON_SET,
                "/spec/template/spec/initContainers/prepare/resources",
                Hole::Yaml,
            ),
        ],
    ),
    setting(
        "nodeSelector",
        "Nodes without an agent are open",
        OBJECT,
        Some("{}"),
        &[place(
            DAEMON_SET,
            "/spec/template/spec/nodeSelector",
            Hole::Added,
        )],
    ),
    setting(
        "affinity",
        "As nodeSelector",
        OBJECT,
        Some("{}"),
        &[place(
            DAEMON_SET,
            "/spec/template/spec/affinity",
            Hole::Added,
        )],
    ),
    setting(
        "tolerations",
        "All taints, so that no node is left out",
        OBJECTS,
        None,
        &[place(
            DAEMON_SET,
            "/spec/template/spec/tolerations",
            Hole::Yaml,
        )],
    ),
    setting(
        "updateStrategy",
        "Of the DaemonSet",
        OBJECT,
        None,
        &[place(DAEMON_SET, "/spec/updateStrategy", Hole::Yaml)],
    ),
];

/// `values.yaml`.
///
/// # Errors
/// Where the base has nothing at a value's place.
pub fn yaml(base: &Objects) -> Result<String> {
    let mut text = String::new();
    let mut group = "";
    for setting in SETTINGS {
        let default = setting.default(base)?;
        let (outer, name) = match setting.name.split_once('.') {
            Some((outer, name)) => (outer, name),
            None => ("", setting.name),
        };
        if outer != group {
            if !outer.is_empty() {
                text += &format!("{outer}:\n");
            }
            group = outer;
        }
        let indent = if outer.is_empty() { "" } else { "  " };
        text += &format!("{indent}# {}\n", setting.about);
        let value = serde_yaml::to_string(&default)?;
        let value = value.trim_end();
        let nested = matches!(&default, Value::Object(map) if !map.is_empty())
            || matches!(&default, Value::Array(list) if !list.is_empty());
        if nested {
            let lines: Vec<String> = value.lines().map(|l| format!("{indent}  {l}")).collect();
            text += &format!("{indent}{name}:\n{}\n", lines.join("\n"));
        } else {
            text += &format!("{indent}{name}: {value}\n");
        }
    }
    Ok(text)
}

/// `values.schema.json`, which refuses what it does not know.
///
/// # Errors
/// Where a schema of [`SETTINGS`] is no JSON.
pub fn schema() -> Result<String> {
    let mut top = Map::new();
    for setting in SETTINGS {
        let mut schema: Value = serde_json::from_str(setting.schema)
            .with_context(|| format!("schema of {}", setting.name))?;
        schema["description"] = json!(setting.about);
        match setting.name.split_once('.') {
            Some((outer, name)) => {
                let group = top.entry(outer).or_insert_with(|| object(Map::new()));
                group["properties"][name] = schema;
            }
            None => {
                top.insert(setting.name.into(), schema);
            }
        }
    }
    // What Helm itself adds for charts that contain this one.
    top.insert("global".into(), json!({"type": "object"}));
    let mut schema = object(top);
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("Values of the chart enforcer");
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

fn object(properties: Map<String, Value>) -> Value {
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

impl Setting {
    fn default(&self, base: &Objects) -> Result<Value> {
        if let Some(default) = self.default {
            return serde_json::from_str(default)
                .with_context(|| format!("default of {}", self.name));
        }
        let place = self
            .places
            .first()
            .context("a default comes from a place")?;
        let object = base.get(place.object).cloned().unwrap_or_default();
        let object = read_within(object)?;
        let found = at(&object, place.path);
        found
            .cloned()
            .with_context(|| format!("{} has no {}", place.object, place.path))
    }
}
