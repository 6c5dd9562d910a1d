//! A case's files, read as what they are: YAML.

use std::{fs, path::Path};

use serde::Deserialize;
use serde_json::Value;

/// What Envoy's configuration is written from.
pub struct Cluster {
    policies: Vec<Value>,
    pods: Vec<Value>,
    pub mesh: Value,
    root: String,
    /// The mesh's own trust domain, and those that count as its own.
    pub domains: Vec<String>,
}

/// A pod of a case.
pub struct Pod {
    pub namespace: String,
    pub labels: Value,
    pub account: String,
    pub ips: Vec<String>,
    /// Ports and the names that say what is spoken on them.
    pub ports: Vec<(u64, String)>,
    pub on_host: bool,
}

fn documents(text: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(text);
    let values = documents.map(|document| Value::deserialize(document).expect("YAML"));
    let lists = values.flat_map(|value| match value["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![value],
    });
    lists.filter(|value| !value.is_null()).collect()
}

fn word(value: &Value, otherwise: &str) -> String {
    value.as_str().unwrap_or(otherwise).to_owned()
}

impl Cluster {
    pub fn read(folder: &Path) -> Self {
        let text = |name: &str| fs::read_to_string(folder.join(name));
        let mut policies = documents(&text("policies.yaml").expect("the case's policies"));
        for policy in &mut policies {
            whole_accounts(policy);
        }
        let cluster = documents(&text("cluster.yaml").expect("the case's cluster"));
        let mesh = text("mesh.yaml").map_or(Value::Null, |text| {
            documents(&text).pop().unwrap_or(Value::Null)
        });
        let aliases = mesh["trustDomainAliases"].as_array();
        let aliases = aliases.into_iter().flatten().map(|alias| word(alias, ""));
        let domains = std::iter::once(word(&mesh["trustDomain"], "cluster.local"));
        Self {
            policies,
            pods: cluster.into_iter().filter(|d| d["kind"] == "Pod").collect(),
            root: word(&mesh["rootNamespace"], "istio-system"),
            domains: domains.chain(aliases).collect(),
            mesh,
        }
    }

    /// `namespace/name`.
    pub fn pod(&self, name: &str) -> Option<Pod> {
        let mut pods = self.pods.iter();
        let found = pods.find(|pod| {
            let metadata = &pod["metadata"];
            let (ns, own) = (
                word(&metadata["namespace"], "default"),
                word(&metadata["name"], ""),
            );
            format!("{ns}/{own}") == name
        })?;
        let (spec, status) = (&found["spec"], &found["status"]);
        let mut ips: Vec<String> = status["podIP"]
            .as_str()
            .into_iter()
            .map(Into::into)
            .collect();
        for ip in status["podIPs"].as_array().into_iter().flatten() {
            ips.push(word(&ip["ip"], ""));
        }
        let containers = spec["containers"].as_array().into_iter().flatten();
        let ports = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
        Some(Pod {
            namespace: word(&found["metadata"]["namespace"], "default"),
            labels: found["metadata"]["labels"].clone(),
            account: word(&spec["serviceAccountName"], "default"),
            ips,
            ports: ports
                .map(|port| {
                    let number = port["containerPort"].as_u64().unwrap_or_default();
                    (number, word(&port["name"], ""))
                })
                .collect(),
            on_host: spec["hostNetwork"] == true,
        })
    }

    /// The policies of a kind that apply to a pod: of its namespace or the mesh's root, and selecting
    /// it.
    pub fn of(&self, pod: &Pod, kind: &str) -> Result<Vec<&Value>, &'static str> {
        let mut found = Vec::new();
        for policy in self.policies.iter().filter(|policy| policy["kind"] == kind) {
            let namespace = word(&policy["metadata"]["namespace"], "default");
            if namespace != pod.namespace && namespace != self.root {
                continue;
            }
            if !policy["spec"]["targetRefs"].is_null() || !policy["spec"]["targetRef"].is_null() {
                return Err("a policy that names its target is a waypoint's, not the sidecar's");
            }
            let wanted = policy["spec"]["selector"]["matchLabels"].as_object();
            let mut wanted = wanted.into_iter().flatten();
            if wanted.all(|(key, value)| pod.labels[key] == *value) {
                found.push(policy);
            }
        }
        Ok(found)
    }
}

/// Writes an account's namespace before it, which is the policy's where none is given.
fn whole_accounts(policy: &mut Value) {
    let namespace = word(&policy["metadata"]["namespace"], "default");
    let rules = policy["spec"]["rules"].as_array_mut();
    for from in rules
        .into_iter()
        .flatten()
        .flat_map(|rule| rule["from"].as_array_mut().into_iter().flatten())
    {
        for field in ["serviceAccounts", "notServiceAccounts"] {
            let Some(accounts) = from["source"].get_mut(field).and_then(Value::as_array_mut) else {
                continue;
            };
            for account in accounts {
                if let Some(name) = account.as_str().filter(|name| !name.contains('/')) {
                    *account = format!("{namespace}/{name}").into();
                }
            }
        }
    }
}
