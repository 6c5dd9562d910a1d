//! From recorded traffic to policies: the least ALLOW policies that let through what was let through.
//!
//! Nothing is admitted beyond what was seen but for what is said here and told with every suggestion:
//! a source pod stands for its service account, in the mesh's trust domain and what the mesh says are
//! other names of it; a destination pod for whatever its workload's labels select; a flow of which the request was not recorded, or on which no HTTP was spoken, for its
//! port; an address for whoever has it; hosts, headers and tokens are not asked for; paths are generalised only as [`Paths`] says.

mod group;
mod paths;
mod write;

use std::collections::{BTreeMap, BTreeSet};

pub use paths::Paths;

use crate::{
    cluster::{Cluster, Protocol},
    diagnostic::{Code, Severity},
    ir::Program,
    l7::normalize::normalize,
    link::Identity,
    lint,
    options::CatchAllDeny,
    read::{self, Loaded},
    replay::{Recorded, Recording, Verdict, flow::Said, replay},
    request::{Http, Request, SourceRef, Wire},
    resolve::resolve,
};
use group::{Group, Inventory};

/// What is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    pub paths: Paths,
    /// Sources without identity are admitted by their addresses.
    pub addresses: bool,
}

/// Policies, and what they leave out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Suggestion {
    /// YAML, a document a policy; empty where nothing is to be admitted.
    pub yaml: String,
    pub policies: usize,
    /// Recorded flows that the policies admit, repetitions included.
    pub admitted: u64,
    /// Recorded flows that they do not, by the reason.
    pub left_out: BTreeMap<String, u64>,
    /// What else is to be known.
    pub notes: Vec<String>,
}

/// Who is admitted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Source {
    Principal(String),
    Address(std::net::IpAddr),
}

/// What a source may do on a port: everything, or requests by path and method.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Access {
    pub whole: bool,
    /// Methods by path; the path `None` is any.
    pub requests: BTreeMap<Option<String>, BTreeSet<String>>,
}

/// Suggests policies for a recording.
///
/// # Errors
/// A defect: the suggestion does not do what it should.
pub fn suggest(
    cluster: &Cluster,
    recording: &Recording,
    wanted: Wanted,
) -> Result<Suggestion, String> {
    let inventory = Inventory::new(cluster);
    let mut suggestion = Suggestion::default();
    let mut groups: BTreeMap<group::Key, Group> = BTreeMap::new();
    let mut admitted = Recording::default();
    for flow in recording.flows() {
        match admit(&inventory, flow, wanted, &mut groups) {
            Ok(()) => {
                suggestion.admitted += flow.count;
                admitted.keep(flow);
            }
            Err(why) => *suggestion.left_out.entry(why).or_default() += flow.count,
        }
    }
    for (why, count) in &recording.skipped {
        *suggestion.left_out.entry(why.words().into()).or_default() += count;
    }
    if groups.is_empty() {
        return Ok(suggestion);
    }
    inventory.name(&mut groups);
    for (key, group) in &groups {
        suggestion.notes.extend(inventory.also_selected(key, group));
    }
    let accepted = warnings(cluster, &write::policies(&groups, &BTreeMap::new()))?;
    suggestion.yaml = write::policies(&groups, &accepted);
    for (policy, codes) in &accepted {
        let codes: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
        suggestion.notes.push(format!(
            "{policy} accepts the warnings {}: ports that nobody used are closed, and ports that no container declares are named",
            codes.join(", ")
        ));
    }
    suggestion.policies = suggestion
        .yaml
        .matches("\nkind: AuthorizationPolicy\n")
        .count();
    prove(cluster, &suggestion.yaml, &admitted)?;
    Ok(suggestion)
}

/// Adds a flow to its group; an error says why it is left out.
fn admit(
    inventory: &Inventory<'_>,
    flow: Recorded<'_>,
    wanted: Wanted,
    groups: &mut BTreeMap<group::Key, Group>,
) -> Result<(), String> {
    let request = flow.request;
    let said = match flow.verdict {
        Some((Verdict::Deny, _)) => return Err("denied, and so not wanted".into()),
        Some((Verdict::Allow, said)) => said,
        None => Said::Everything,
    };
    let source = source(inventory, request, wanted)?;
    let destination = inventory.destination(&request.dst)?;
    let declared = destination.protocol(request.port);
    let http = request.http.as_ref().filter(|_| {
        said != Said::Nothing && request.protocol == Wire::Http && declared != Protocol::Tcp
    });
    let asked = http
        .map(|http| asked(inventory, http, wanted))
        .transpose()?;
    let group = groups.entry(destination.key.clone()).or_default();
    group.add(&destination);
    let access = group.access(source, request.port);
    match asked {
        Some((path, method)) => {
            access.requests.entry(path).or_default().insert(method);
        }
        None => access.whole = true,
    }
    Ok(())
}

fn source(inventory: &Inventory<'_>, request: &Request, wanted: Wanted) -> Result<Source, String> {
    let own = &inventory.cluster.mesh.trust_domain;
    if request
        .src_trust_domain
        .as_ref()
        .is_some_and(|domain| domain != own)
    {
        return Err("from another trust domain".into());
    }
    let identity = match &request.src {
        SourceRef::Pod(name) => inventory.account_of(name)?,
        SourceRef::ServiceAccount(account) => inventory.account(&account.sa)?,
        SourceRef::Ip(source) if inventory.is_pods(source.ip) => {
            return Err("from addresses of pods, of which it was not known who held them".into());
        }
        SourceRef::Ip(source) if wanted.addresses => return Ok(Source::Address(source.ip)),
        SourceRef::Ip(_) => {
            return Err("from addresses without identity: --addresses admits them".into());
        }
    };
    let identity = Identity {
        trust_domain: own.clone(),
        namespace: identity.0,
        service_account: identity.1,
    };
    Ok(Source::Principal(identity.principal()))
}

/// Path and method as a policy names them.
fn asked(
    inventory: &Inventory<'_>,
    http: &Http,
    wanted: Wanted,
) -> Result<(Option<String>, String), String> {
    if http.method.is_empty() || http.method.contains('*') {
        return Err("with a method that no policy can name".into());
    }
    let target = normalize(&http.path, inventory.cluster.mesh.path_normalization)
        .map_err(|_| "malformed requests".to_owned())?;
    let path = wanted
        .paths
        .of(&target.path)
        .ok_or("with a path that no policy can name: it ends in a star or holds `{*}`")?;
    Ok((path, http.method.clone()))
}

/// The warnings that come of what was recorded, by policy: nothing that can be written otherwise.
fn warnings(cluster: &Cluster, yaml: &str) -> Result<BTreeMap<String, BTreeSet<Code>>, String> {
    let mut loaded = suggested(cluster, yaml)?;
    // With the pods and services of the inventory; only the policies' own places are looked at.
    loaded
        .cluster
        .policies
        .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let found = lint::lint(&loaded, CatchAllDeny::DenyAll).map_err(|why| why.to_string())?;
    let mut accepted: BTreeMap<String, BTreeSet<Code>> = BTreeMap::new();
    for one in found
        .into_iter()
        .filter(|one| one.severity == Severity::Warning)
    {
        let of_traffic = [Code::UndeclaredPort, Code::ServicePort, Code::ClosedPort];
        if let Some(policy) = one.policy.filter(|_| of_traffic.contains(&one.code)) {
            accepted.entry(policy).or_default().insert(one.code);
        }
    }
    Ok(accepted)
}

/// The inventory with the suggested policies alone.
fn suggested(cluster: &Cluster, yaml: &str) -> Result<Loaded, String> {
    let (mut loaded, found) = read::load_str("suggested.yaml", yaml, None);
    if let Some(error) = found.first() {
        return Err(format!(
            "this is a defect: the suggestion is not valid: {}",
            error.message
        ));
    }
    let policies = std::mem::take(&mut loaded.cluster.policies);
    loaded.cluster = Cluster {
        policies,
        ..cluster.clone()
    };
    Ok(loaded)
}

/// What was admitted must not be denied.
fn prove(cluster: &Cluster, yaml: &str, admitted: &Recording) -> Result<(), String> {
    let loaded = suggested(cluster, yaml)?;
    let nowhere = |_: &crate::diagnostic::At| (String::new(), 0);
    let program: Program = resolve(
        &loaded.cluster,
        CatchAllDeny::DenyAll,
        &BTreeMap::new(),
        &nowhere,
    )
    .map_err(|why| why.to_string())?;
    let replayed = replay(&program, &loaded.cluster, admitted, 0);
    match replayed.narrowed.first() {
        None => Ok(()),
        Some(denied) => Err(format!(
            "this is a defect: the suggestion denies what was recorded: {:?}",
            denied.flow
        )),
    }
}
