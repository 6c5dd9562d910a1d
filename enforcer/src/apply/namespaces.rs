//! Which namespaces are policed: by name, or by label.

use std::str::FromStr;

use policyc::cluster::Cluster;

use crate::apply::Settings;

/// `NAME`, or `KEY=VALUE` for every namespace with that label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NamespaceSelector {
    Name(String),
    Label(String, String),
}

/// Text that is neither.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is neither the name of a namespace nor a label as KEY=VALUE")]
pub struct SelectorError(String);

impl FromStr for NamespaceSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let selector = match text.split_once('=') {
            None => Self::Name(text.into()),
            Some((key, value)) => Self::Label(key.into(), value.into()),
        };
        match &selector {
            Self::Name(name) | Self::Label(name, _) if name.is_empty() => {
                Err(SelectorError(text.into()))
            }
            _ => Ok(selector),
        }
    }
}

impl std::fmt::Display for NamespaceSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Label(key, value) => write!(f, "{key}={value}"),
        }
    }
}

/// Whether the pods of a namespace are to be policed, as far as it is for the namespace to say.
pub fn policed(namespace: &str, cluster: &Cluster, settings: &Settings) -> bool {
    let is = |selector: &NamespaceSelector| match selector {
        NamespaceSelector::Name(wanted) => wanted == namespace,
        NamespaceSelector::Label(key, value) => cluster
            .namespaces
            .get(namespace)
            .is_some_and(|namespace| namespace.labels.get(key) == Some(value)),
    };
    let enrolled = &settings.enrolled_namespaces;
    let enrolled = enrolled.is_empty() || enrolled.iter().any(is);
    enrolled && !settings.excluded_namespaces.iter().any(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: web, labels: {team: a}}\n---\n\
                    apiVersion: v1\nkind: Namespace\nmetadata: {name: db, labels: {team: b}}\n---\n\
                    apiVersion: v1\nkind: Namespace\nmetadata: {name: kube-system}\n";
        let (loaded, problems) = policyc::read::load_str("test.yaml", text, None);
        assert!(problems.is_empty(), "{problems:?}");
        loaded.cluster
    }

    #[test]
    fn namespaces_are_chosen_by_name_and_by_label() {
        let cluster = cluster();
        let chosen = |text: &[&str]| -> Vec<NamespaceSelector> {
            text.iter()
                .map(|t| t.parse().expect("a selector"))
                .collect()
        };
        for (enrolled, excluded_, left_out) in [
            (&[][..], &[][..], &[][..]),
            (&[], &["kube-system"], &["kube-system"]),
            (&["web"], &[], &["db", "kube-system"]),
            (&["team=b"], &[], &["kube-system", "web"]),
            (&["team=b", "web"], &["team=b"], &["db", "kube-system"]),
            (&["team=c"], &[], &["db", "kube-system", "web"]),
        ] {
            let settings = Settings {
                enrolled_namespaces: chosen(enrolled),
                excluded_namespaces: chosen(excluded_),
                ..Settings::default()
            };
            let names = cluster.namespaces.keys();
            let found: Vec<&String> = names
                .filter(|name| !policed(name, &cluster, &settings))
                .collect();
            assert_eq!(found, left_out, "{enrolled:?} but {excluded_:?}");
        }
        assert!("=x".parse::<NamespaceSelector>().is_err());
        assert!("".parse::<NamespaceSelector>().is_err());
    }
}
