//! The cluster's policies, compiled: by policyc, as `policyc compile` would. One error, and the
//! policies before stay in force.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use policyc::{
    bundle::{self, Bundle},
    cluster::{Cluster, ProviderKind},
    compile::{self, compile},
    diagnostic::{Code, Diagnostic, Severity},
    inventory::Inventory,
    lint,
    options::CatchAllDeny,
    read::{Loaded, live},
    report::labels,
    resolve::Amendable,
};

use super::health::Compiled;
use crate::{
    conditions::{desired, writer::Conditions},
    inventory::PodName,
};

/// What compiling came to.
#[derive(Debug)]
pub struct Outcome {
    /// `None`: the errors say why.
    pub bundle: Option<Bundle>,
    pub report: Compiled,
    /// What is to be said at the policies themselves.
    pub conditions: Conditions,
    /// The cluster that was compiled, without its AuthorizationPolicies: those are in the bundle.
    pub cluster: Cluster,
    /// The bundle's policies, to be changed one by one.
    pub amendable: Option<Amendable>,
}

/// Compiles the policies of these names, which is all that `loaded` has, among those that have not
/// changed. The bundle's hash is empty: that takes compiling all of them. `None`: something is wrong
/// with them or is about more than them, so that all policies must be looked at. Then nothing has
/// changed.
pub fn amend(
    amendable: &mut Amendable,
    loaded: &Loaded,
    errors: &[Diagnostic],
    names: &BTreeSet<PodName>,
    catch_all_deny: CatchAllDeny,
) -> Option<Bundle> {
    let found = lint::faithful(loaded, catch_all_deny).ok()?;
    let wrong = |found: &Diagnostic| found.severity == Severity::Error;
    if !errors.is_empty() || found.iter().any(wrong) {
        return None;
    }
    let amended = compile::amend(amendable, loaded, names).ok()?;
    amended.then(|| Bundle {
        generation: 0,
        compiler: env!("CARGO_PKG_VERSION").into(),
        hash: String::new(),
        signer: None,
        program: amendable.program().clone(),
    })
}

/// Compiles what was read. `errors` were found in reading it.
pub fn run(mut loaded: Loaded, errors: Vec<Diagnostic>, catch_all_deny: CatchAllDeny) -> Outcome {
    let began = Instant::now();
    let mut report = Compiled {
        policies: loaded.cluster.policies.len() + loaded.cluster.request_authentications.len(),
        errors: errors.iter().map(|error| line(&loaded, error)).collect(),
        ..Compiled::default()
    };
    let mut found = errors;
    if report.errors.is_empty() {
        found = look(&loaded, catch_all_deny, &mut report);
    }
    let mut bundle = None;
    if report.errors.is_empty() {
        match sealed(&loaded, catch_all_deny) {
            Ok(sealed) => bundle = Some(sealed),
            Err(error) => report.errors.push(error),
        }
    }
    loaded.cluster.policies = Vec::new();
    let labels = bundle.as_ref().map(|bundle| labels(&bundle.program));
    let conditions = Arc::new(desired(&found, &labels.unwrap_or_default()));
    report.took = began.elapsed();
    Outcome {
        report,
        conditions,
        cluster: loaded.cluster,
        amendable: bundle
            .as_ref()
            .map(|bundle| Amendable::new(bundle.program.clone())),
        bundle,
    }
}

/// What would not do here what it does under Istio, and the probes that policies close.
fn look(loaded: &Loaded, catch_all_deny: CatchAllDeny, report: &mut Compiled) -> Vec<Diagnostic> {
    let found = match lint::of_node(loaded, catch_all_deny) {
        Ok(found) => found,
        Err(error) => vec![lint::unresolved(loaded, &error)],
    };
    for found in &found {
        let line = line(loaded, found);
        match found.severity {
            Severity::Error => report.errors.push(line),
            _ if found.code == Code::ProbesBlocked => report.notes.push(line),
            // Whoever writes policies asks `policyc check`.
            Severity::Warning | Severity::Note => {}
        }
    }
    found
}

fn line(loaded: &Loaded, found: &Diagnostic) -> String {
    live::line(found, loaded.sources.file_name_of(found.at.document))
}

/// As bytes and back, so that it has the hash that a bundle of these policies has.
fn sealed(loaded: &Loaded, catch_all_deny: CatchAllDeny) -> Result<Bundle, String> {
    let program = compile(loaded, catch_all_deny, &BTreeMap::new())
        .map_err(|error| live::line(&lint::unresolved(loaded, &error), ""))?;
    let bytes = bundle::write(&program, &Inventory::default(), 0);
    drop(program);
    bytes
        .and_then(|bytes| bundle::read(&bytes))
        .map_err(|error| error.to_string())
}

/// Namespaces of the Services that the agent itself asks: authorizers, and sources of keys.
pub fn asked(cluster: &Cluster) -> BTreeSet<String> {
    let providers = cluster.mesh.extension_providers.iter();
    let authorizers = providers.filter_map(|provider| match &provider.kind {
        ProviderKind::ExtAuthzGrpc(authorizer) | ProviderKind::ExtAuthzHttp(authorizer) => {
            Some(authorizer.service.as_str())
        }
        ProviderKind::Other => None,
    });
    let rules = cluster.request_authentications.iter();
    let sources = rules
        .flat_map(|written| &written.jwt_rules)
        .filter_map(|rule| rule.jwks_uri.as_deref());
    let hosts = sources.filter_map(|uri| {
        let (_, rest) = uri.split_once("://")?;
        rest.split(['/', ':', '?']).next()
    });
    // `NAMESPACE/HOST` is another way to name a provider's service.
    let namespace = |host: &str| {
        let host = host.rsplit('/').next().unwrap_or(host);
        host.split('.').nth(1).map(str::to_owned)
    };
    authorizers.chain(hosts).filter_map(namespace).collect()
}
