//! Which namespaces are policed: by name, or by label.

use std::{collections::BTreeSet, str::FromStr};

use crate::{apply::Settings, inventory::Inventory};

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

/// The namespaces of an inventory whose pods are guarded, and not policed.
pub fn excluded(inventory: &Inventory, settings: &Settings) -> BTreeSet<String> {
    let cluster = &inventory.cluster;
    let of_pods = inventory.pods.iter().map(|pod| &pod.name.0);
    let names: BTreeSet<&String> = cluster.namespaces.keys().chain(of_pods).collect();
    let is = |name: &String, selector: &NamespaceSelector| match selector {
        NamespaceSelector::Name(wanted) => wanted == name,
        NamespaceSelector::Label(key, value) => cluster
            .namespaces
            .get(name)
            .is_some_and(|namespace| namespace.labels.get(key) == Some(value)),
    };
    let policed = |name: &String| {
        let enrolled = &settings.enrolled_namespaces;
        let enrolled = enrolled.is_empty() || enrolled.iter().any(|selector| is(name, selector));
        let excluded = &settings.excluded_namespaces;
        enrolled && !excluded.iter().any(|selector| is(name, selector))
    };
    names
        .into_iter()
        .filter(|name| !policed(name))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory() -> Inventory {
        let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: web, labels: {team: a}}\n---\n\
                    apiVersion: v1\nkind: Namespace\nmetadata: {name: db, labels: {team: b}}\n---\n\
                    apiVersion: v1\nkind: Namespace\nmetadata: {name: kube-system}\n";
        let (loaded, problems) = policyc::read::load_str("test.yaml", text, None);
        assert!(problems.is_empty(), "{problems:?}");
        Inventory {
            cluster: std::sync::Arc::new(loaded.cluster),
            ..Inventory::default()
        }
    }

    #[test]
    fn namespaces_are_chosen_by_name_and_by_label() {
        let inventory = inventory();
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
            let found: Vec<String> = excluded(&inventory, &settings).into_iter().collect();
            assert_eq!(found, left_out, "{enrolled:?} but {excluded_:?}");
        }
        assert!("=x".parse::<NamespaceSelector>().is_err());
        assert!("".parse::<NamespaceSelector>().is_err());
    }
}
