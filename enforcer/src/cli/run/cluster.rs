//! Where pods and policies come from: files, or the API server.

use std::{path::PathBuf, sync::Arc};

use clap::{Args, ValueEnum};
use policyc::options;

use crate::{
    cli::Failure,
    kube::{Health, MeshPlace, Source, connect, follow::Pace, source::Settings},
};

#[derive(Debug, Args)]
pub(super) struct ClusterArgs {
    /// Follow the pods, namespaces, services and nodes of the API server, in the place of
    /// --inventory. It is the one of the agent's service account, or of the kubeconfig that KUBECONFIG
    /// names. While it cannot be reached, what is known stays in force
    #[arg(long, env = "ENFORCER_KUBE")]
    kube: bool,
    /// Where policies come from: --bundle, which can be signed, or the AuthorizationPolicies,
    /// RequestAuthentications and the MeshConfig of the API server, compiled by the agent itself
    #[arg(
        long,
        value_enum,
        env = "ENFORCER_POLICY_SOURCE",
        default_value = "bundle"
    )]
    policy_source: PolicySource,
    /// The ConfigMap that Istio keeps its MeshConfig in, under the key `mesh`
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        env = "ENFORCER_MESH_CONFIG_MAP",
        default_value = "istio-system/istio"
    )]
    mesh_config_map: MeshPlace,
    /// Write into the status of the cluster's policies which of them are not enforced, or otherwise than
    /// they are written (condition `EnforcerAccepted`). One agent of the cluster does, which holds a
    /// lease; it needs the rights of enforcer/deploy/components/status
    #[arg(long, env = "ENFORCER_WRITE_CONDITIONS")]
    write_conditions: bool,
    /// What a DENY rule without from, to and when means in the cluster's policies: it denies
    /// everything, as in Istio, or what no ALLOW rule allows
    #[arg(
        long,
        value_enum,
        env = "ENFORCER_CATCH_ALL_DENY",
        default_value = "deny-all"
    )]
    catch_all_deny: CatchAllDeny,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum PolicySource {
    Bundle,
    Cluster,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum CatchAllDeny {
    DenyAll,
    DefaultDeny,
}

impl ClusterArgs {
    /// Refuses what does not go together.
    pub(super) fn check(
        &self,
        bundle: bool,
        inventory: &[PathBuf],
        keys: &[PathBuf],
    ) -> Result<(), Failure> {
        let cluster = self.policy_source == PolicySource::Cluster;
        let wrong = match (self.kube, cluster) {
            (false, true) => "--policy-source=cluster needs --kube",
            (true, true) if bundle => {
                "--bundle and --policy-source=cluster exclude each other: policies have one source"
            }
            (true, true) if !keys.is_empty() => {
                "--require-signature needs --policy-source=bundle: nobody signs policies of a cluster"
            }
            (_, false) if self.write_conditions => {
                "--write-conditions needs --policy-source=cluster: a bundle has no policies to write at"
            }
            (true, _) if !inventory.is_empty() => {
                "--inventory and --kube exclude each other: pods have one source"
            }
            (false, _) if inventory.is_empty() => {
                "say where the pods are known from: --inventory PATH or --kube"
            }
            (_, false) if !bundle => {
                "say where policies come from: --bundle FILE, or --kube with --policy-source=cluster"
            }
            _ => return Ok(()),
        };
        Err(wrong.into())
    }

    /// The API server tells of the pods.
    pub(super) fn is_followed(&self) -> bool {
        self.kube
    }

    /// The name of the node that the agent runs on.
    pub(super) fn node(&self, given: Option<&str>) -> Result<Option<String>, Failure> {
        if let Some(given) = given {
            return Ok(Some(given.into()));
        }
        if !self.kube {
            return Ok(None);
        }
        if let Some(name) = std::env::var_os("NODE_NAME").filter(|name| !name.is_empty()) {
            let name = name.into_string();
            return name.map(Some).map_err(|_| "NODE_NAME is not a name".into());
        }
        let name = rustix::system::uname();
        let name = name.nodename().to_str()?.to_lowercase();
        tracing::info!(
            name,
            "this node, by its host name: --node-name says otherwise"
        );
        Ok(Some(name))
    }

    /// The API server, followed from now on.
    pub(super) async fn source(
        &self,
        node: Option<&str>,
    ) -> Result<Option<(Source, Arc<Health>)>, Failure> {
        if !self.kube {
            return Ok(None);
        }
        let policies = self.policy_source == PolicySource::Cluster;
        let pace = Pace::default();
        let client = connect::client(&pace).await?;
        let health = Arc::new(Health::new(policies));
        let settings = Settings {
            node: node.unwrap_or_default().into(),
            policies,
            write_conditions: self.write_conditions,
            mesh: self.mesh_config_map.clone(),
            catch_all_deny: match self.catch_all_deny {
                CatchAllDeny::DenyAll => options::CatchAllDeny::DenyAll,
                CatchAllDeny::DefaultDeny => options::CatchAllDeny::DefaultDeny,
            },
            pace,
        };
        tracing::info!(
            node = settings.node,
            "waiting for the API server's first lists"
        );
        let source = Source::start(&client, settings, health.clone());
        Ok(Some((source, health)))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[arg(long)]
        bundle: Option<PathBuf>,
        #[arg(long)]
        inventory: Vec<PathBuf>,
        #[arg(long)]
        require_signature: Vec<PathBuf>,
        #[command(flatten)]
        cluster: ClusterArgs,
    }

    /// What is wrong with these options, if anything.
    fn check(options: &str) -> Option<String> {
        let words = std::iter::once("run").chain(options.split_whitespace());
        let line = Line::try_parse_from(words).expect("options that there are");
        let keys = &line.require_signature;
        let checked = line
            .cluster
            .check(line.bundle.is_some(), &line.inventory, keys);
        checked.err().map(|error| error.to_string())
    }

    #[test]
    fn pods_and_policies_have_one_source_each() {
        for fine in [
            "--bundle b --inventory i",
            "--bundle b --kube",
            "--bundle b --kube --policy-source bundle --require-signature k",
            "--kube --policy-source cluster",
        ] {
            assert_eq!(check(fine), None, "{fine}");
        }
        for (wrong, says) in [
            ("--bundle b", "--inventory PATH or --kube"),
            ("--inventory i", "--bundle FILE"),
            ("--kube", "--bundle FILE"),
            ("--inventory i --policy-source cluster", "needs --kube"),
            (
                "--kube --bundle b --write-conditions",
                "--write-conditions needs --policy-source=cluster",
            ),
            (
                "--kube --policy-source cluster --bundle b",
                "policies have one source",
            ),
            ("--kube --bundle b --inventory i", "pods have one source"),
            (
                "--kube --policy-source cluster --require-signature k",
                "--require-signature needs --policy-source=bundle",
            ),
        ] {
            let said = check(wrong).unwrap_or_default();
            assert!(said.contains(says), "{wrong}: {said}");
        }
    }

    #[test]
    fn a_mesh_config_map_is_named_with_its_namespace() {
        for wrong in ["istio", "a/b/c", "/istio", "a/B", "../x/y"] {
            let place: Result<MeshPlace, _> = wrong.parse();
            assert!(place.is_err(), "{wrong}");
        }
        let place: MeshPlace = "istio-system/istio".parse().expect("a place");
        assert_eq!(place.to_string(), "istio-system/istio");
    }
}
