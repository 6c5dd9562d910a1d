//! `--all-nodes`: a command asked of every agent of a cluster, through the API server, under the
//! user's own rights. How that is done is [`crate::fleet`]'s.

pub(super) mod explain;
pub(super) mod monitor;
pub(super) mod status;

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use futures_util::{StreamExt as _, stream};

use super::Failure;
use crate::fleet::{
    Fleet, Reach,
    agents::{Agent, Nodes},
    ask::{AskError, Said},
};

/// The agent's program, as its container finds it.
const PROGRAM: &str = "enforcer";

/// Which agents are asked, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "All nodes")]
pub(super) struct FleetArgs {
    /// Ask the agents of all nodes, as `kubectl exec` would: with your own rights in the cluster
    #[arg(long)]
    pub all_nodes: bool,
    /// Only this node; repeatable
    #[arg(long, value_name = "NAME", requires = "all_nodes")]
    node: Vec<String>,
    /// Nodes that should have an agent, by label; default: all
    #[arg(
        long,
        value_name = "LABELS",
        requires = "all_nodes",
        default_value = ""
    )]
    node_selector: String,
    /// Default: as kubectl finds it
    #[arg(long, value_name = "FILE", requires = "all_nodes")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME", requires = "all_nodes")]
    context: Option<String>,
    /// Namespace of the agents
    #[arg(
        long,
        value_name = "NAMESPACE",
        requires = "all_nodes",
        default_value = "enforcer-system"
    )]
    agent_namespace: String,
    /// Labels of the agents' pods
    #[arg(
        long,
        value_name = "LABELS",
        requires = "all_nodes",
        default_value = "app.kubernetes.io/name=enforcer"
    )]
    agent_selector: String,
    /// The container of those pods in which the agent runs
    #[arg(
        long,
        value_name = "NAME",
        requires = "all_nodes",
        default_value = "enforcer"
    )]
    agent_container: String,
    /// Seconds that one node may take to answer
    #[arg(
        long,
        value_name = "SECONDS",
        requires = "all_nodes",
        default_value = "10",
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    node_timeout: u64,
    /// Nodes that are asked at the same time
    #[arg(
        long,
        value_name = "N",
        requires = "all_nodes",
        default_value = "16",
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    at_once: u16,
}

impl FleetArgs {
    /// Runs what asks the agents.
    pub fn run<F>(&self, ask: impl FnOnce(Fleet) -> F) -> Result<ExitCode, Failure>
    where
        F: Future<Output = Result<ExitCode, Failure>>,
    {
        let reach = Reach {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            namespace: self.agent_namespace.clone(),
            agents: self.agent_selector.clone(),
            container: self.agent_container.clone(),
            nodes: self.node_selector.clone(),
            named: self.node.clone(),
            patience: Duration::from_secs(self.node_timeout),
            at_once: self.at_once.into(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async { ask(Fleet::reach(reach).await?).await })
    }
}

/// A command that runs in the agents' containers.
fn command(arguments: &[&str]) -> Vec<String> {
    let words = std::iter::once(PROGRAM).chain(arguments.iter().copied());
    words.map(str::to_owned).collect()
}

/// What became of the question to one node.
struct Heard {
    node: String,
    /// The agent's pod.
    agent: Option<String>,
    said: Result<Said, String>,
}

/// Asks every node the same, several at a time, and returns their answers by node.
async fn ask_all(fleet: &Fleet, nodes: &Nodes, command: &[String]) -> Vec<Heard> {
    let mut progress = Progress::of(nodes.agents.len());
    let ask = |(node, agent): (&String, &Agent)| {
        let (node, agent) = (node.clone(), agent.clone());
        async move {
            let (pod, said) = match agent {
                Agent::In { pod, .. } => {
                    let said = fleet.ask(&pod, command).await;
                    (Some(pod), said.map_err(|error| why(&error)))
                }
                Agent::Down { pod, why } => (Some(pod), Err(why)),
                Agent::Missing => (None, Err("no agent runs on it".into())),
            };
            Heard {
                node,
                agent: pod,
                said,
            }
        }
    };
    let mut asked = stream::iter(&nodes.agents)
        .map(ask)
        .buffer_unordered(fleet.reach.at_once);
    let mut heard = Vec::with_capacity(nodes.agents.len());
    while let Some(one) = asked.next().await {
        heard.push(one);
        progress.show(heard.len());
    }
    heard.sort_by(|a, b| a.node.cmp(&b.node));
    heard
}

/// Why a node does not answer, on one line.
fn why(error: &AskError) -> String {
    crate::chain(error)
}

/// What a failed command has said, on one line.
fn aside(said: &Said) -> String {
    let text: Vec<&str> = said.aside.lines().map(str::trim).collect();
    match text.join("; ") {
        text if text.is_empty() => format!("exit status {}", said.code),
        text => text,
    }
}

/// How many nodes have answered, for whoever waits at a terminal.
struct Progress {
    of: usize,
    shown: bool,
}

impl Progress {
    fn of(nodes: usize) -> Self {
        Self {
            of: nodes,
            shown: nodes > 1 && std::io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, done: usize) {
        if !self.shown {
            return;
        }
        let mut err = std::io::stderr().lock();
        let end = if done == self.of { "\r\x1b[K" } else { "" };
        let _nobody_looks = write!(err, "\r{done} of {} nodes{end}", self.of);
        let _nobody_looks = err.flush();
    }
}
