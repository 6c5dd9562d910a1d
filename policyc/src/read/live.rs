//! Objects that come one by one, as an API server has them: JSON, with the fields that manifests
//! have. They are read by the same code, so that a policy means the same wherever it comes from.
//!
//! What [`Objects::load`] gives is what [`load`](super::load) would give if each were a file.

use std::{collections::BTreeMap, ops::Bound};

use super::{Loaded, input::Text, loader::Loader, objects::Object as Read, part::Part};
use crate::{
    cluster::Pod,
    diagnostic::{Diagnostic, Severity},
};

/// One object, read by itself.
#[derive(Debug, Default)]
pub struct Object(Part);

impl Object {
    /// Reads an object. `name` is the file that diagnostics show; `of` its API version and kind,
    /// where it does not say so itself: the items of a typed list do not.
    pub fn read(name: &str, json: &str, of: (&str, &str)) -> Self {
        Self(Part::object(name, json, of))
    }

    /// What is wrong with it, a line each; empty when it can be used.
    pub fn errors(&self) -> Vec<String> {
        let found = self.0.found.iter();
        let errors = found.filter(|found| found.severity == Severity::Error);
        errors
            .map(|error| line(error, self.0.sources.file_name_of(error.at.document)))
            .collect()
    }

    /// The pod, if it is one and nothing is wrong with it.
    pub fn into_pod(self) -> Option<Pod> {
        if !self.errors().is_empty() {
            return None;
        }
        self.0
            .objects
            .into_iter()
            .find_map(|(_, object)| match object {
                Read::Pod(pod) => Some(*pod),
                _ => None,
            })
    }

    /// Whether it comes to what another one does, errors included.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.0.objects == other.0.objects && self.0.found == other.0.found
    }

    /// Lets go of its text, which only the places of diagnostics need.
    pub fn forget_text(&mut self) {
        self.0.sources.forget_texts();
    }
}

/// A diagnostic on one line: the object, the way into it, what is wrong and what to do.
pub fn line(found: &Diagnostic, file: &str) -> String {
    let path = found.at.path.to_string();
    let of = match path.is_empty() {
        true => String::new(),
        false => format!(" {path}"),
    };
    format!(
        "{file}{of}: {} [{}]; {}",
        found.message,
        found.code.as_str(),
        found.help
    )
}

/// Objects that are kept, by a name that their owner gives them.
#[derive(Debug, Default)]
pub struct Objects {
    objects: BTreeMap<String, Object>,
    /// A MeshConfig in YAML, and the name that diagnostics show for it.
    mesh: Option<(String, String)>,
}

impl Objects {
    /// Takes an object in the place of the one of that name. Whether it says anything else.
    pub fn put(&mut self, name: String, mut object: Object) -> bool {
        object.0.shrink();
        let same = |before: &Object| object.says_the_same(before);
        let changed = !self.objects.get(&name).is_some_and(same);
        self.objects.insert(name, object);
        changed
    }

    /// Forgets the object of that name, and says whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        self.objects.remove(name).is_some()
    }

    /// Takes a MeshConfig, or none. Whether it is another one.
    pub fn set_mesh(&mut self, name: &str, text: Option<String>) -> bool {
        let mesh = text.map(|text| (name.to_owned(), text));
        let changed = mesh != self.mesh;
        self.mesh = mesh;
        changed
    }

    /// The cluster of these objects, and everything that is wrong.
    pub fn load(&self) -> (Loaded, Vec<Diagnostic>) {
        self.load_these(self.objects.values())
    }

    /// As [`Objects::load`], of the objects whose names begin with one of these, and of no others.
    pub fn load_under<'a>(
        &self,
        prefixes: impl Iterator<Item = &'a str>,
    ) -> (Loaded, Vec<Diagnostic>) {
        let under = |prefix: &'a str| {
            let from = (Bound::Included(prefix), Bound::Unbounded);
            let from = self.objects.range::<str, _>(from);
            from.take_while(move |(name, _)| name.starts_with(prefix))
        };
        let named: BTreeMap<&String, &Object> = prefixes.flat_map(under).collect();
        self.load_these(named.into_values())
    }

    fn load_these<'a>(
        &self,
        objects: impl Iterator<Item = &'a Object>,
    ) -> (Loaded, Vec<Diagnostic>) {
        let mut loader = Loader::default();
        for object in objects {
            loader.part(&object.0);
        }
        if let Some((name, text)) = &self.mesh {
            loader.mesh(Text {
                name: name.clone(),
                content: Ok(text.clone()),
                json: false,
            });
        }
        loader.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"{"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "p", "namespace": "shop", "resourceVersion": "7", "uid": "u",
          "managedFields": [{"manager": "kubectl"}]},
        "spec": {"action": "DENY", "rules": [{"from": [{"source": {"namespaces": ["a"]}}]}]}}"#;

    #[test]
    fn an_object_of_the_api_server_is_what_the_same_manifest_is() {
        let mut objects = Objects::default();
        let put = |objects: &mut Objects, text: &str| {
            objects.put("p".into(), Object::read("kube:shop/p", text, ("", "")))
        };
        assert!(put(&mut objects, &POLICY.replace("DENY", "ALLOW")));
        assert!(put(&mut objects, POLICY), "it says something else");
        let later = POLICY.replace("\"7\"", "\"8\"");
        assert!(!put(&mut objects, &later), "what only the server counts");
        let (loaded, found) = objects.load();
        let (file, also) = super::super::load_str("p.json", POLICY, None);
        assert_eq!(loaded.cluster, file.cluster);
        assert_eq!((found.len(), also.len()), (0, 0), "{found:?} {also:?}");
        assert!(objects.remove("p") && !objects.remove("p"));
        assert!(objects.load().0.cluster.policies.is_empty());
    }

    #[test]
    fn an_unknown_field_of_a_policy_is_an_error_that_names_the_object_and_the_way() {
        let text = POLICY.replace("namespaces", "namespace");
        let object = Object::read("kube:shop/p", &text, ("", ""));
        let errors = object.errors().join("\n");
        assert!(
            errors.starts_with("kube:shop/p spec.rules[0].from[0].source.namespace: "),
            "{errors}"
        );
    }

    #[test]
    fn an_item_of_a_list_says_nothing_of_its_kind() {
        let text = r#"{"metadata": {"name": "a", "namespace": "shop"},
            "spec": {"nodeName": "n"}, "status": {"phase": "Running", "podIP": "10.0.0.1"}}"#;
        let pod = Object::read("kube:shop/a", text, ("v1", "Pod")).into_pod();
        let pod = pod.expect("a pod");
        assert_eq!((pod.name.as_str(), pod.ips.len()), ("a", 1));
        let wrong = text.replace("10.0.0.1", "10.0.0");
        let object = Object::read("kube:shop/a", &wrong, ("v1", "Pod"));
        assert_eq!(object.errors().len(), 1);
        assert!(object.into_pod().is_none(), "half a pod is none");
        let garbage = Object::read("kube:shop/a", "{\"metadata\": ", ("v1", "Pod"));
        assert_eq!(garbage.errors().len(), 1);
    }

    #[test]
    fn what_has_let_go_of_its_text_is_the_same_object() {
        let mut object = Object::read("kube:shop/p", POLICY, ("", ""));
        object.forget_text();
        let mut objects = Objects::default();
        objects.put("p".into(), object);
        assert_eq!(objects.load().0.cluster.policies.len(), 1);
    }

    #[test]
    fn objects_are_loaded_by_the_beginnings_of_their_names() {
        let mut objects = Objects::default();
        objects.set_mesh("kube:istio-system/istio", Some("trustDomain: td".into()));
        for name in ["shop/a", "shop/b", "shopping/a", "web/a"] {
            let (namespace, own) = name.split_once('/').unwrap();
            let text = POLICY.replace("\"p\"", &format!("{own:?}"));
            let text = text.replace("shop", namespace);
            objects.put(name.into(), Object::read(name, &text, ("", "")));
        }
        let (loaded, found) = objects.load_under(["shop/", "shop/a", "web/a", "x"].into_iter());
        let names: Vec<_> = loaded
            .cluster
            .policies
            .iter()
            .map(|p| (&*p.namespace, &*p.name))
            .collect();
        assert_eq!(names, [("shop", "a"), ("shop", "b"), ("web", "a")]);
        assert_eq!(
            (loaded.cluster.mesh.trust_domain.as_str(), found.len()),
            ("td", 0)
        );
    }

    #[test]
    fn a_mesh_config_joins_the_objects() {
        let mut objects = Objects::default();
        objects.set_mesh("kube:istio-system/istio", Some("trustDomain: td".into()));
        assert_eq!(objects.load().0.cluster.mesh.trust_domain, "td");
        objects.set_mesh("kube:istio-system/istio", Some("trustDomain: [".into()));
        assert!(crate::diagnostic::any_error(&objects.load().1));
        objects.set_mesh("kube:istio-system/istio", None);
        assert_eq!(
            objects.load().0.cluster.mesh,
            crate::cluster::Mesh::default()
        );
    }
}
