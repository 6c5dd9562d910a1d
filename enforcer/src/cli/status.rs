//! `enforcer status`: what the agent is doing.

use std::{fmt::Write, process::ExitCode};

use clap::Args;

use super::{Failure, Format, SocketArgs, socket::Client};
use crate::{
    agent::Status,
    control::{Answer, Request},
};

/// Show what is enforced, on which pods, and how often
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  enforcer status\n  enforcer status --format json")]
pub struct StatusCommand {
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
    #[command(flatten)]
    socket: SocketArgs,
}

impl StatusCommand {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let mut client = Client::connect(&self.socket.socket)?;
        let Answer::Status(status) = client.ask(&Request::Status {})? else {
            return Err(client.unexpected().into());
        };
        match self.format {
            Format::Human => print!("{}", human(&status)?),
            Format::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn human(status: &Status) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let table = &status.table;
    writeln!(
        out,
        "enforcer {}  mode {}, refuse {}, hook {}",
        status.version, status.mode, status.refuse, status.hook
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
    writeln!(out, "pods     {}", status.pods.len())?;
    for pod in &status.pods {
        let enforced = match (&pod.not_enforced, pod.asks) {
            (Some(reason), _) => format!("not enforced: {reason}"),
            (None, false) => "kernel".into(),
            (None, true) => "kernel, some in userspace".into(),
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
    writeln!(out, "hits{:>42}{:>13}", "opened", "packets")?;
    for hit in &status.hits {
        let policy = hit.name.policy.as_deref().unwrap_or("-");
        let rule = hit.name.rule.map(|rule| format!("[{rule}]"));
        let name = format!("{} {policy}{}", hit.name.reason, rule.unwrap_or_default());
        writeln!(
            out,
            "  {name:32} {:>11} {:>12}",
            hit.count.opened, hit.count.packets
        )?;
    }
    Ok(out)
}
