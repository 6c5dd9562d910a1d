//! Istio's sidecar to the letter. It differs from this project in one thing: a pattern of namespaces
//! is a regular expression over the whole identity, in which a star eats the slash.

use crate::cluster::Cluster;

/// The policies with namespaces written as the sidecar matches them.
pub(super) fn reads(cluster: &Cluster) -> Cluster {
    let mut read = cluster.clone();
    for rule in read
        .policies
        .iter_mut()
        .flat_map(|p| &mut p.rules)
        .flatten()
    {
        for source in rule.from.iter_mut().flatten() {
            widen(&mut source.namespaces);
            widen(&mut source.not_namespaces);
        }
        for condition in rule.when.iter_mut().flatten() {
            if condition.key == "source.namespace" {
                widen(&mut condition.values);
                widen(&mut condition.not_values);
            }
        }
    }
    read
}

fn widen(values: &mut Option<Vec<String>>) {
    for values in values.iter_mut() {
        let more: Vec<String> = values.iter().filter_map(|v| beyond(v)).collect();
        values.extend(more.into_iter().filter(|m| !m.is_empty()));
    }
}

/// ISTIO: `.*/ns/<value>/.*` is matched against `spiffe://<domain>/ns/<namespace>/sa/<account>`. So
/// the value may match the namespace, or the namespace and `/sa` behind it: the pattern of namespaces
/// that the latter comes to.
fn beyond(value: &str) -> Option<String> {
    const BEHIND: &str = "/sa";
    let Some((head, tail)) = value.rsplit_once('*') else {
        return value.strip_suffix(BEHIND).map(Into::into);
    };
    if BEHIND.ends_with(tail) {
        return Some(format!("{head}*"));
    }
    let tail = tail.strip_suffix(BEHIND)?;
    Some(format!("{head}*{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_eats_the_rest_of_the_identity() {
        for (value, more) in [
            ("*sa", Some("*")),
            ("*a", Some("*")),
            ("*/sa", Some("*")),
            ("prod*a", Some("prod*")),
            ("*prod/sa", Some("*prod")),
            ("prod/sa", Some("prod")),
            ("*prod", None),
            ("prod", None),
        ] {
            assert_eq!(beyond(value).as_deref(), more, "{value}");
        }
        assert_eq!(beyond("*").as_deref(), Some("*"), "as before");
    }
}
