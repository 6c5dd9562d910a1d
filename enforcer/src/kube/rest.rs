//! Everything but the pods: few objects, of which each change is looked at as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use policyc::{
    ast::AuthorizationPolicy,
    cluster::{Cluster, Mesh, Pod},
    diagnostic::{Diagnostic, Severity},
    read::{Loaded, live},
};

use super::{follow::Seen, health::Health, kind::Kind, wire};
use crate::inventory::PodName;

/// The objects of all kinds but pods.
#[derive(Debug)]
pub struct Rest {
    objects: live::Objects,
    /// Names by kind, with the number of the list that each was last seen in.
    known: BTreeMap<Kind, Names>,
    health: Arc<Health>,
    changed: Changed,
}

/// What has changed since this was last asked.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Changed {
    /// AuthorizationPolicies, by namespace and name.
    pub policies: BTreeSet<PodName>,
    /// What else is compiled: RequestAuthentications, the mesh.
    pub rules: bool,
    /// What counts without being compiled: namespaces, Services, nodes, ServiceAccounts.
    pub places: bool,
}

impl Changed {
    pub fn any(&self) -> bool {
        self.is_compiled() || self.places
    }

    /// Whether it is known only once it is compiled.
    pub fn is_compiled(&self) -> bool {
        self.rules || !self.policies.is_empty()
    }
}

#[derive(Default, Debug)]
struct Names {
    list: u32,
    names: BTreeMap<PodName, u32>,
}

impl Rest {
    pub fn new(health: Arc<Health>) -> Self {
        Self {
            objects: live::Objects::default(),
            known: BTreeMap::new(),
            health,
            changed: Changed::default(),
        }
    }

    pub fn begin(&mut self, kind: Kind) {
        self.known.entry(kind).or_default().list += 1;
    }

    pub fn now(&mut self, kind: Kind, seen: &Seen) {
        let names = self.known.entry(kind).or_default();
        names.names.insert(seen.name.clone(), names.list);
        let key = key(kind, &seen.name);
        let file = file(&seen.name);
        if kind == Kind::Mesh {
            return self.mesh(&file, &seen.json);
        }
        let mut object = live::Object::read(&file, &seen.json, (&seen.of.0, seen.of.1));
        let errors = object.errors();
        // A policy that is wrong must be known to be there: it keeps the ones before in force. Of
        // others what was known of it before is better than nothing.
        let usable = errors.is_empty() || kind.is_policy();
        self.health
            .wrong(&key, if kind.is_policy() { Vec::new() } else { errors });
        if !kind.is_policy() {
            // Nodes alone would be hundreds of megabytes.
            object.forget_text();
        }
        if usable && self.objects.put(key, object) {
            self.note(kind, &seen.name);
        }
    }

    pub fn gone(&mut self, kind: Kind, name: &PodName) {
        let names = self.known.entry(kind).or_default();
        if names.names.remove(name).is_none() {
            return;
        }
        let key = key(kind, name);
        self.health.wrong(&key, Vec::new());
        match kind {
            Kind::Mesh => self.objects.set_mesh("", None),
            _ => self.objects.remove(&key),
        };
        self.note(kind, name);
    }

    /// What the list has not named is gone.
    pub fn end(&mut self, kind: Kind) {
        let names = self.known.entry(kind).or_default();
        let unnamed = names.names.iter().filter(|(_, list)| **list != names.list);
        let gone: Vec<PodName> = unnamed.map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.gone(kind, &name);
        }
    }

    pub fn count(&self, kind: Kind) -> usize {
        self.known.get(&kind).map_or(0, |names| names.names.len())
    }

    pub fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    pub fn is_changed(&self) -> bool {
        self.changed.any()
    }

    /// The cluster, with these pods and no others, and the errors in it.
    pub fn load<'a>(&self, pods: impl Iterator<Item = &'a Pod>) -> (Loaded, Vec<Diagnostic>) {
        finish(self.objects.load(), pods)
    }

    /// The cluster without pods and policies, and with no mesh but the default.
    pub fn places(&self) -> Cluster {
        let kinds = self.known.keys().filter(|kind| !kind.is_policy());
        let kinds: Vec<String> = kinds.map(|kind| format!("{}/", kind.singular())).collect();
        let (loaded, _) = self.objects.load_under(kinds.iter().map(String::as_str));
        Cluster {
            mesh: Mesh::default(),
            ..loaded.cluster
        }
    }

    /// As [`Rest::load`], of no policies but these, and of no Services but those of their namespaces.
    pub fn load_policies<'a>(
        &self,
        policies: &BTreeSet<PodName>,
        pods: impl Iterator<Item = &'a Pod>,
    ) -> (Loaded, Vec<Diagnostic>) {
        let own = policies.iter();
        let own = own.map(|name| key(Kind::AuthorizationPolicies, name));
        let services = policies.iter();
        let services = services.map(|(namespace, _)| {
            let nameless = (namespace.clone(), String::new());
            key(Kind::Services, &nameless)
        });
        let prefixes: Vec<String> = own.chain(services).collect();
        let (mut loaded, errors) = finish(
            self.objects.load_under(prefixes.iter().map(String::as_str)),
            pods,
        );
        // A name may be the beginning of another.
        let named = |policy: &AuthorizationPolicy| {
            policies.contains(&(policy.namespace.clone(), policy.name.clone()))
        };
        loaded.cluster.policies.retain(named);
        (loaded, errors)
    }

    /// The ConfigMap's text. Without one, Istio's own defaults hold.
    fn mesh(&mut self, file: &str, json: &str) {
        let text = match wire::mesh(json) {
            Ok(text) => text,
            // Not a MeshConfig: it is found to be wrong with the policies.
            Err(error) => Some(format!("the ConfigMap cannot be read: {error}")),
        };
        if self.objects.set_mesh(file, text) {
            self.note(Kind::Mesh, &PodName::default());
        }
    }

    fn note(&mut self, kind: Kind, name: &PodName) {
        match kind {
            Kind::AuthorizationPolicies => drop(self.changed.policies.insert(name.clone())),
            kind if kind.is_policy() => self.changed.rules = true,
            _ => self.changed.places = true,
        }
    }
}

fn finish<'a>(
    (mut loaded, mut errors): (Loaded, Vec<Diagnostic>),
    pods: impl Iterator<Item = &'a Pod>,
) -> (Loaded, Vec<Diagnostic>) {
    loaded.cluster.pods = pods.cloned().map(Arc::new).collect();
    errors.retain(|found| found.severity == Severity::Error);
    (loaded, errors)
}

fn key(kind: Kind, name: &PodName) -> String {
    format!("{}/{}/{}", kind.singular(), name.0, name.1)
}

/// What diagnostics call an object's file.
pub fn file(name: &PodName) -> String {
    match name.0.as_str() {
        "" => format!("kube:{}", name.1),
        namespace => format!("kube:{namespace}/{}", name.1),
    }
}
