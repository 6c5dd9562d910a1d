//! The same manifests under two data planes: what Istio's sidecar, Istio's ambient mode (ztunnel) and
//! this project make of them, and every connection and request on which two of them disagree.
//!
//! Each meaning is written as a change of the policies ([`sidecar`], [`ambient`]) and compiled as
//! ever; then the two programs are compared by [`crate::diff`], whose JSON form this is, too: `old`
//! and `new` are the profiles' names.

mod ambient;
mod sidecar;

use std::{borrow::Cow, collections::BTreeMap};

use crate::{
    attach::is_gateway,
    cluster::Cluster,
    diff::{self, Diff},
    options::CatchAllDeny,
    resolve::{self, Locate, TrustDomains},
};

/// Whose meaning policies have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// This project's own: the sidecar's, but for patterns of namespaces.
    Enforcer,
    /// Istio's sidecar.
    Sidecar,
    /// Istio's ambient mode without waypoints.
    Ambient,
}

impl Profile {
    /// The profile's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enforcer => "enforcer",
            Self::Sidecar => "sidecar",
            Self::Ambient => "ambient",
        }
    }

    /// The policies as the profile reads them.
    fn reads(self, cluster: &Cluster) -> Cow<'_, Cluster> {
        match self {
            Self::Enforcer => Cow::Borrowed(cluster),
            Self::Sidecar => Cow::Owned(sidecar::reads(cluster)),
            Self::Ambient => Cow::Owned(ambient::reads(cluster)),
        }
    }

    fn trust_domains(self) -> TrustDomains {
        match self {
            Self::Enforcer | Self::Sidecar => TrustDomains::Expanded,
            // ISTIO: ambient compares a principal as it is written; aliases are still to be done.
            Self::Ambient => TrustDomains::AsWritten,
        }
    }
}

/// Compares what two profiles make of the same manifests. `now` is in seconds since 1970.
///
/// # Errors
/// A value that does not parse, or more than can be compared.
pub fn compare(
    cluster: &Cluster,
    profiles: [Profile; 2],
    catch_all_deny: CatchAllDeny,
    key_sets: &BTreeMap<String, String>,
    locate: Locate<'_>,
    now: u64,
) -> Result<Diff, String> {
    let (world, gateways) = without_gateways(cluster);
    let mut programs = Vec::new();
    for profile in profiles {
        let read = profile.reads(&world);
        let domains = profile.trust_domains();
        let program = resolve::resolve_with(&read, catch_all_deny, key_sets, locate, domains);
        programs.push(program.map_err(|e| e.to_string())?);
    }
    let [first, second] = programs.as_slice() else {
        return Err("there are two profiles".into());
    };
    let [one, other] = profiles.map(Profile::name);
    let side = |name, program| diff::Side {
        name,
        program,
        cluster: &world,
    };
    let mut diff = diff::diff(&side(one, first), &side(other, second), now)?;
    diff.profiles = true;
    if gateways > 0 && profiles.contains(&Profile::Ambient) {
        diff.notes.push(format!(
            "left out as destinations: {gateways} gateways, which judge for themselves in ambient mode, too"
        ));
    }
    Ok(diff)
}

/// A gateway is a proxy of its own in either mode: it is a source here, and no destination.
fn without_gateways(cluster: &Cluster) -> (Cluster, usize) {
    let mut world = cluster.clone();
    let mut accounts = Vec::new();
    let mut count = 0;
    world.pods.retain(|pod| {
        let gateway = is_gateway(&pod.template);
        if gateway {
            count += 1;
            accounts.push((pod.namespace.clone(), pod.template.service_account.clone()));
        }
        !gateway
    });
    world.workloads.retain(|workload| {
        let gateway = is_gateway(&workload.template);
        if gateway {
            count += 1;
            let account = workload.template.service_account.clone();
            accounts.push((workload.namespace.clone(), account));
        }
        !gateway
    });
    world.service_accounts.extend(accounts);
    (world, count)
}
