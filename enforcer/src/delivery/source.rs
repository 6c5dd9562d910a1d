//! Where bundles come from, as `--bundle` writes it.

use std::{fmt, path::PathBuf, str::FromStr};

use oci_client::Reference;

/// A place where bundles are published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A file, or a link to one.
    File(PathBuf),
    /// A key of a ConfigMap.
    Map(MapPlace),
    /// An artifact in a registry.
    Oci(OciPlace),
}

/// A key of a ConfigMap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapPlace {
    pub namespace: String,
    pub name: String,
    pub key: String,
}

/// An artifact in a registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OciPlace {
    pub reference: Reference,
    /// Asked without TLS.
    pub plain: bool,
}

/// Text that names no place.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("a ConfigMap is named `configmap:NAMESPACE/NAME/KEY`")]
    Map,
    #[error(
        "an artifact is named `oci:REGISTRY/REPOSITORY:TAG` or `oci:REGISTRY/REPOSITORY@DIGEST`"
    )]
    Oci {
        #[source]
        source: oci_client::ParseError,
    },
    #[error(
        "`{0}` names neither tag nor digest: what `latest` is changes without anybody's saying so"
    )]
    NoTag(String),
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        if let Some(place) = text.strip_prefix("configmap:") {
            return map(place).map(Self::Map);
        }
        for (scheme, plain) in [("oci:", false), ("oci+http:", true)] {
            if let Some(place) = text.strip_prefix(scheme) {
                return oci(place, plain).map(Self::Oci);
            }
        }
        Ok(Self::File(text.into()))
    }
}

impl Source {
    /// Whether it is here on the node.
    pub fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

fn map(place: &str) -> Result<MapPlace, SourceError> {
    let parts: Vec<&str> = place.split('/').collect();
    match parts[..] {
        [namespace, name, key] if [namespace, name, key].iter().all(|p| !p.is_empty()) => {
            Ok(MapPlace {
                namespace: namespace.into(),
                name: name.into(),
                key: key.into(),
            })
        }
        _ => Err(SourceError::Map),
    }
}

fn oci(place: &str, plain: bool) -> Result<OciPlace, SourceError> {
    let place = place.trim_start_matches("//");
    let reference: Reference = place
        .parse()
        .map_err(|source| SourceError::Oci { source })?;
    // The library reads what is left out as `latest`.
    let last = place.rsplit('/').next().unwrap_or(place);
    if !last.contains([':', '@']) {
        return Err(SourceError::NoTag(place.into()));
    }
    Ok(OciPlace { reference, plain })
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Map(place) => place.fmt(f),
            Self::Oci(place) => place.fmt(f),
        }
    }
}

impl fmt::Display for MapPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "configmap:{}/{}/{}", self.namespace, self.name, self.key)
    }
}

impl fmt::Display for OciPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.plain { "oci+http" } else { "oci" };
        write!(f, "{scheme}:{}", self.reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        let digest = format!("oci:registry.example/p@sha256:{}", "0".repeat(64));
        for text in [
            "/etc/enforcer/bundle.bin",
            "configmap:enforcer-system/enforcer/bundle.bin",
            "oci:registry.example:5000/team/policies:prod",
            "oci+http:127.0.0.1:5000/policies:prod",
            &digest,
        ] {
            let source: Source = text.parse().expect("a place");
            assert_eq!(source.to_string(), text);
        }
    }

    #[test]
    fn a_place_that_is_not_whole_is_refused() {
        for text in [
            "configmap:enforcer",
            "configmap:a/b/",
            "oci:registry.example/policies",
            "oci:registry.example:5000/policies",
            "oci:",
        ] {
            let source: Result<Source, _> = text.parse();
            assert!(source.is_err(), "{text}: {source:?}");
        }
    }
}
