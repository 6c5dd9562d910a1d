//! `enforcer status`: what the agent is doing.

mod cluster;

use std::{fmt::Write, process::ExitCode};

use clap::Args;

use super::{
    Failure, Format, SocketArgs,
    all_nodes::{FleetArgs, status},
    socket::Client,
};
use crate::{
    agent::{HookPath, Status},
    attach::HookAt,
    control::{Answer, Request},
    report::{asked::Waiting, counters::HitName},
};

/// Show what is enforced, on which pods, and how often
///
/// With --all-nodes one row a node, for which you need the verbs list on pods and get and create on
/// pods/exec in the agents' namespace, and list on nodes. Exit status 1 where a node has no agent, its
/// agent does not answer or does not enforce what it should, or another bundle is in force there.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  enforcer status\n  enforcer status --hits\n  enforcer status --format json\n  enforcer status --all-nodes --wanted bundle.bin"
)]
pub struct StatusCommand {
    /// Only the hits of policies and rules
    #[arg(long, conflicts_with = "all_nodes")]
    hits: bool,
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    fleet: FleetArgs,
    /// The bundle that every node should enforce: a generation, or the bundle itself; default: the
    /// highest generation that is in force anywhere
    #[arg(
        long,
        value_name = "GENERATION|FILE",
        requires = "all_nodes",
        help_heading = "All nodes"
    )]
    wanted: Option<status::WantedBundle>,
}

impl StatusCommand {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        if self.fleet.all_nodes {
            let (wanted, format) = (self.wanted.as_ref(), self.format);
            return self.fleet.run(|fleet| status::run(fleet, wanted, format));
        }
        let mut client = Client::connect(&self.socket.socket)?;
        let status = match client.ask(&Request::Status {})? {
            Answer::Status(status) => status,
            Answer::Waiting(waiting) => return self.waits(&waiting),
            _ => return Err(client.unexpected().into()),
        };
        match (self.format, self.hits) {
            (Format::Human, false) => print!("{}", human(&status)?),
            (Format::Human, true) => {
                let mut out = String::new();
                hits(&status, &mut out)?;
                print!("{out}");
            }
            (Format::Json, false) => println!("{}", serde_json::to_string_pretty(&status)?),
            (Format::Json, true) => println!("{}", serde_json::to_string_pretty(&status.hits)?),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl StatusCommand {
    /// The answer to what is enforced is no: there is no table yet.
    fn waits(&self, waiting: &Waiting) -> Result<ExitCode, Failure> {
        match self.format {
            Format::Human => print!("{}", waiting_text(waiting)?),
            Format::Json => {
                println!("{}", serde_json::to_string_pretty(waiting)?);
                eprintln!(
                    "it has no table yet and waits: {}",
                    waiting.awaited.join("; ")
                );
            }
        }
        Ok(ExitCode::FAILURE)
    }
}

fn waiting_text(waiting: &Waiting) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let (version, seconds) = (&waiting.version, waiting.seconds);
    writeln!(
        out,
        "enforcer {version}  waits since {seconds} s; what an earlier agent enforced stays in force"
    )?;
    for line in &waiting.awaited {
        writeln!(out, "NOT READY {line}")?;
    }
    if let Some(followed) = &waiting.cluster {
        cluster::write(followed, &mut out)?;
    }
    Ok(out)
}

fn human(status: &Status) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let table = &status.table;
    writeln!(
        out,
        "enforcer {}  mode {}, refuse {}, attached by {}",
        status.version, status.mode, status.refuse, status.attach
    )?;
    writeln!(
        out,
        "bundle   {}\n         generation {}, epoch {}, sha256 {}\n         active since {}",
        status.bundle,
        status.generation,
        status.epoch,
        status.hash.get(..16).unwrap_or(&status.hash),
        status.since
    )?;
    writeln!(
        out,
        "         linked in {} us, switched in {} us",
        status.times.link_us, status.times.publish_us
    )?;
    let used = table.words as u64 * 100 / u64::from(table.capacity_words.max(1));
    writeln!(
        out,
        "table    {} of {} words ({used} %): {} scopes, {} source classes, {} addresses",
        table.words, table.capacity_words, table.scopes, table.source_classes, table.addresses
    )?;
    trusted(status, &mut out)?;
    if let Some(followed) = &status.cluster {
        cluster::write(followed, &mut out)?;
    }
    unusual(status, &mut out)?;
    for trouble in &status.not_ready {
        writeln!(out, "NOT READY {trouble}")?;
    }
    writeln!(out, "pods     {}", status.pods.len())?;
    for pod in &status.pods {
        let enforced = match (&pod.not_enforced, &pod.path, pod.limit(), pod.asks) {
            (Some(reason), ..) => format!("not enforced: {reason}"),
            (None, Some(HookPath::Skipped), ..) => "answers only: packets skip its hook".into(),
            (None, _, Some(limit), _) => format!("kernel; {limit}"),
            (None, _, None, _) if pod.hook == HookAt::Pod => "kernel, from inside".into(),
            (None, _, None, _) if pod.mesh.is_some() => {
                format!("kernel; {}", pod.mesh.as_deref().unwrap_or_default())
            }
            (None, _, None, false) => "kernel".into(),
            (None, _, None, true) => "kernel, some in userspace".into(),
        };
        writeln!(
            out,
            "  {:32} scope {:<4} {:16} out {:<6} {enforced}",
            pod.name,
            pod.scope,
            pod.interfaces.join(","),
            pod.outbound
        )?;
    }
    if !status.unknown.is_empty() {
        let (count, names) = (status.unknown.len(), status.unknown.join(","));
        writeln!(
            out,
            "unknown  {count} interfaces, nobody may reach them: {names}"
        )?;
    }
    if let Some(proxy) = &status.proxy {
        writeln!(
            out,
            "proxy    {} of {} connections open, {} accepted, {} over the limit; {} allowed, {} refused",
            proxy.open,
            proxy.connections_max,
            proxy.accepted,
            proxy.over_limit,
            proxy.allowed,
            proxy.refused
        )?;
    }
    writeln!(out, "packets")?;
    for (reason, count) in &status.counters {
        writeln!(out, "  {reason:32} {count:>12}")?;
    }
    hits(status, &mut out)?;
    Ok(out)
}

/// Where bundles come from, and whose signature they need.
fn trusted(status: &Status, out: &mut String) -> std::fmt::Result {
    if let Some(delivery) = &status.delivery {
        let looked = delivery.looked.as_deref().unwrap_or("never");
        writeln!(
            out,
            "from     {}\n         looked at {looked}; {} put in force, {} refused, {} not to be had",
            delivery.source, delivery.applied, delivery.refused, delivery.failed
        )?;
        if let Some(came) = delivery
            .came
            .as_ref()
            .filter(|came| **came != delivery.source)
        {
            writeln!(out, "         came last {came}")?;
        }
        if let Some(trouble) = &delivery.trouble {
            writeln!(out, "FAILING  no new bundle: {trouble}")?;
        }
    }
    let signatures = &status.signatures;
    if !signatures.required {
        return writeln!(out, "signed   not required");
    }
    writeln!(out, "signed   by one of {}", signatures.keys.join(", "))?;
    if let Some(accepted) = &signatures.accepted {
        let hash = accepted.hash.get(..16).unwrap_or(&accepted.hash);
        writeln!(
            out,
            "         newest accepted: generation {}, sha256 {hash}",
            accepted.generation
        )?;
    }
    Ok(())
}

/// What stands out: pauses, a shadow generation, a folder that cannot be written.
fn unusual(status: &Status, out: &mut String) -> std::fmt::Result {
    for pause in &status.pauses {
        let pod = pause.pod.as_deref().unwrap_or("all");
        let reason = pause.reason.as_deref().unwrap_or("no reason given");
        let left = pause.left_seconds;
        writeln!(out, "PAUSED   {pod} for {left} s more: {reason}")?;
    }
    if let Some(error) = &status.interfaces_error {
        writeln!(out, "FAILING  new interfaces are not guarded: {error}")?;
    }
    if let Some(shadow) = &status.shadow {
        writeln!(
            out,
            "shadow   {}\n         generation {}, epoch {}, sha256 {}\n         asked {}, disagreed {}",
            shadow.bundle,
            shadow.generation,
            shadow.epoch,
            shadow.hash.get(..16).unwrap_or(&shadow.hash),
            shadow.asked,
            shadow.disagreed
        )?;
        for rule in shadow.rules.iter().filter(|rule| rule.disagreed > 0) {
            let name = named(&rule.name);
            let (disagreed, asked) = (rule.disagreed, rule.asked);
            writeln!(
                out,
                "  would {} {name}: {disagreed} of {asked}",
                rule.verdict
            )?;
        }
    }
    if let [.., past, _] = &status.history[..] {
        let (kept, hash) = (status.history.len() - 1, past.hash.get(..16));
        writeln!(
            out,
            "kept     {kept} earlier; rollback goes to {}, generation {}, sha256 {}",
            past.bundle.display(),
            past.generation,
            hash.unwrap_or(&past.hash)
        )?;
    }
    if let Some(trouble) = &status.state.trouble {
        writeln!(out, "state    {trouble}")?;
    }
    Ok(())
}

fn hits(status: &Status, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "hits{:>48}{:>13}{:>13}",
        "opened", "packets", "requests"
    )?;
    for hit in &status.hits {
        let count = hit.count;
        writeln!(
            out,
            "  {:38} {:>11} {:>12} {:>12}",
            named(&hit.name),
            count.opened,
            count.packets,
            count.requests
        )?;
    }
    Ok(())
}

fn named(name: &HitName) -> String {
    let policy = name.policy.as_deref().unwrap_or("-");
    let rule = name.rule.map(|rule| format!("[{rule}]"));
    format!("{} {policy}{}", name.reason, rule.unwrap_or_default())
}
