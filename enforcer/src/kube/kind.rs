//! The kinds of objects that are asked for, and where the API server has them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What is watched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Pods,
    Namespaces,
    Services,
    Nodes,
    ServiceAccounts,
    AuthorizationPolicies,
    RequestAuthentications,
    /// The ConfigMap that Istio keeps its MeshConfig in.
    Mesh,
}

/// What a pod's identity and its policies are made of, wherever the policies come from.
const PLACES: [Kind; 5] = [
    Kind::Pods,
    Kind::Namespaces,
    Kind::Services,
    Kind::Nodes,
    Kind::ServiceAccounts,
];
/// What policies are compiled from.
const POLICIES: [Kind; 3] = [
    Kind::AuthorizationPolicies,
    Kind::RequestAuthentications,
    Kind::Mesh,
];

impl Kind {
    /// What has to be known; with the policies where they come from the cluster, too.
    pub fn wanted(policies: bool) -> impl Iterator<Item = Self> {
        PLACES
            .into_iter()
            .chain(POLICIES.into_iter().filter(move |_| policies))
    }

    /// As the API server calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
            Self::Services => "services",
            Self::Nodes => "nodes",
            Self::ServiceAccounts => "serviceaccounts",
            Self::AuthorizationPolicies => "authorizationpolicies",
            Self::RequestAuthentications => "requestauthentications",
            Self::Mesh => "configmaps",
        }
    }

    pub fn group(self) -> &'static str {
        match self {
            Self::AuthorizationPolicies | Self::RequestAuthentications => "security.istio.io",
            _ => "",
        }
    }

    /// The versions that are read, the one to be asked for first. Istio has had v1 since 1.22.
    pub fn versions(self) -> &'static [&'static str] {
        match self.group() {
            "" => &["v1"],
            _ => &["v1", "v1beta1"],
        }
    }

    /// What one of them is called in its manifest.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Pods => "Pod",
            Self::Namespaces => "Namespace",
            Self::Services => "Service",
            Self::Nodes => "Node",
            Self::ServiceAccounts => "ServiceAccount",
            Self::AuthorizationPolicies => "AuthorizationPolicy",
            Self::RequestAuthentications => "RequestAuthentication",
            Self::Mesh => "ConfigMap",
        }
    }

    /// Whether policies are made of it.
    pub fn is_policy(self) -> bool {
        POLICIES.contains(&self)
    }

    /// Whether a cluster need not have it: Istio brings it.
    pub fn is_optional(self) -> bool {
        !self.group().is_empty()
    }

    /// API version and kind of its objects.
    pub fn type_of(self, version: &str) -> (String, &'static str) {
        let version = match self.group() {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        };
        (version, self.singular())
    }

    /// Where it is listed and watched.
    pub fn path(self, version: &str, mesh: &MeshPlace) -> String {
        match (self, self.group()) {
            (Self::Mesh, _) => format!("/api/v1/namespaces/{}/configmaps", mesh.namespace),
            (_, "") => format!("/api/{version}/{}", self.name()),
            (_, group) => format!("/apis/{group}/{version}/{}", self.name()),
        }
    }

    /// Which of them are meant, if not all.
    pub fn fields(self, mesh: &MeshPlace) -> Option<String> {
        (self == Self::Mesh).then(|| format!("metadata.name={}", mesh.name))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mesh => "mesh",
            other => other.name(),
        })
    }
}

/// The ConfigMap that holds the MeshConfig, under the key `mesh`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshPlace {
    pub namespace: String,
    pub name: String,
}

impl FromStr for MeshPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Both become parts of a URL.
        let is_name = |name: &str| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
        };
        match text.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => Ok(Self {
                namespace: namespace.into(),
                name: name.into(),
            }),
            _ => Err("write NAMESPACE/NAME, such as istio-system/istio".into()),
        }
    }
}

impl fmt::Display for MeshPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
