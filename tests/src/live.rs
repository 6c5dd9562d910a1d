//! A node that is enforced for real: namespaces, the agent as a process, servers and clients.
//!
//! Everything has names of its own, so that tests run side by side, and goes away with its owner.

pub mod agent;
pub mod traffic;

use std::{collections::BTreeMap, fmt::Write};

use anyhow::{Context, Result, ensure};
use policyc::{bundle, diagnostic::Severity, inventory::Inventory, read, resolve};

use crate::{
    ready::skipped,
    topology::{Layout, Topology},
};

/// Whether live tests can run here; says why not where they cannot.
#[must_use]
pub fn possible() -> bool {
    if !crate::ready::is_root() {
        return false;
    }
    if !enforcer::object::is_built() {
        skipped("the agent was built without its BPF programs: run `cargo xtask build`");
        return false;
    }
    true
}

/// Three pods: `frontend` and `backend`, each with a service account of its name, and `other`.
///
/// # Errors
/// When the kernel refuses a namespace or a link.
pub fn three_pods(what: &str) -> Result<Topology> {
    three_pods_on(what, Layout::Routed)
}

/// The same pods in another layout.
///
/// # Errors
/// When the kernel refuses a namespace or a link.
pub fn three_pods_on(what: &str, layout: Layout) -> Result<Topology> {
    let mut net = Topology::laid_out(what, layout)?;
    for (name, last) in [("frontend", 2), ("backend", 3), ("other", 4)] {
        net.pod(
            name,
            [10, 88, 0, last].into(),
            format!("fd88::{last}").parse()?,
        )?;
    }
    Ok(net)
}

/// The manifests of a topology's pods, all in namespace `default`.
#[must_use]
pub fn manifests(net: &Topology) -> String {
    let mut text = String::from("apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n");
    for pod in &net.pods {
        let name = &pod.name;
        let written = write!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: default\n  \
             labels: {{app: {name}}}\n  annotations:\n    enforcer/interface: {}\n    \
             enforcer/netns: {}\nspec:\n  serviceAccountName: {name}\n  containers:\n  - name: main\n    \
             image: none\nstatus:\n  phase: Running\n  podIP: {}\n  podIPs: [{{ip: {}}}, {{ip: \"{}\"}}]\n",
            pod.interface,
            pod.netns_path().display(),
            pod.v4,
            pod.v4,
            pod.v6,
        );
        assert!(written.is_ok(), "a string takes whatever is written to it");
    }
    text
}

/// Compiles policies with the inventory that they speak about, as `policyc compile` does.
///
/// # Errors
/// The first problem in the policies.
pub fn compile(manifests: &str, policies: &str, generation: u64) -> Result<Vec<u8>> {
    let text = format!("{manifests}---\n{policies}");
    let (loaded, diagnostics) = read::load_str("live.yaml", &text, None);
    let error = diagnostics.iter().find(|d| d.severity == Severity::Error);
    ensure!(
        error.is_none(),
        "the test's own policies are wrong: {error:?}"
    );
    let program = resolve::resolve(
        &loaded.cluster,
        policyc::options::CatchAllDeny::DenyAll,
        &BTreeMap::new(),
        &|_| ("live.yaml".into(), 1),
    )?;
    let inventory = Inventory::of(&loaded.cluster);
    bundle::write(&program, &inventory, generation).context("write the bundle")
}
