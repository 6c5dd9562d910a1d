//! `enforcer explain`: why, by what is active on this node.

use std::process::ExitCode;

use clap::Args;
use policyc::explain::arguments::{RequestArgs, in_arguments};

use super::{
    Failure, Format, SocketArgs,
    all_nodes::{FleetArgs, explain},
    socket::{Client, ClientError},
};
use crate::{
    agent::Live,
    control::{Answer, Request},
};

/// Explain a verdict by the bundle and the inventory that are active
///
/// Prints what `policyc explain` prints of the same policies, and on standard error what the table in
/// the kernel says of source, destination and port. Exit status 1 when the request cannot be judged,
/// or when the two disagree.
///
/// With --all-nodes every agent is asked, and those that say the same are named together: exit status 1
/// where one gives no account, or they differ.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  enforcer explain --from default/frontend --to default/backend --port 80 \\\n      --method GET --path /api/v1/data\n  enforcer explain --from 192.0.2.7 --to default/backend --port 5432 --format json"
)]
pub struct Explain {
    #[command(flatten)]
    arguments: RequestArgs,
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
    #[command(flatten)]
    socket: SocketArgs,
    /// The request as JSON, in the place of the arguments that describe it
    #[arg(long, hide = true, value_name = "JSON", value_parser = request)]
    request: Option<Box<policyc::request::Request>>,
    #[command(flatten)]
    fleet: FleetArgs,
}

fn request(text: &str) -> Result<Box<policyc::request::Request>, serde_json::Error> {
    serde_json::from_str(text)
}

impl Explain {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let request = match self.request {
            Some(request) => request,
            None => Box::new(self.arguments.request()?),
        };
        let now = match self.arguments.now {
            Some(now) => now,
            None => policyc::clock::clock()?,
        };
        if self.fleet.all_nodes {
            let format = self.format;
            return self
                .fleet
                .run(|fleet| async move { explain::run(fleet, &request, now, format).await });
        }
        let mut client = Client::connect(&self.socket.socket)?;
        let explained = match client.ask(&Request::Explain { request, now }) {
            Ok(Answer::Explained(explained)) => explained,
            Ok(_) => return Err(client.unexpected().into()),
            Err(ClientError::Refused(why)) => {
                eprintln!("enforcer: {}", in_arguments(why));
                return Ok(ExitCode::FAILURE);
            }
            Err(error) => return Err(error.into()),
        };
        match self.format {
            Format::Human => print!("{}", explained.text),
            Format::Json => print!("{}", explained.json),
        }
        let epoch = explained.epoch;
        match &explained.live {
            Live::Agrees { cell, verdict } => {
                eprintln!("the table in the kernel, epoch {epoch}: {verdict} (cell {cell:#010x})");
                Ok(ExitCode::SUCCESS)
            }
            Live::Disagrees { cell, verdict } => {
                eprintln!(
                    "enforcer: the table in the kernel, epoch {epoch}, says otherwise: {verdict} (cell {cell:#010x})"
                );
                Ok(ExitCode::FAILURE)
            }
            Live::Unasked { why } => {
                eprintln!("the table in the kernel was not asked: {why}");
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}
