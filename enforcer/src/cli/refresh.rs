//! `enforcer refresh`: the inventory as it is now.

use std::process::ExitCode;

use clap::Args;

use super::{Failure, SocketArgs, socket::Client};
use crate::control::{Answer, Request};

/// Read the inventory again, and enforce by what has changed
///
/// Pods that come, go, or change are known from the next packet on; flows of others lose nothing.
/// A file with errors changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  enforcer refresh")]
pub struct Refresh {
    #[command(flatten)]
    socket: SocketArgs,
}

impl Refresh {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let mut client = Client::connect(&self.socket.socket)?;
        let Answer::Changed(changed) = client.ask(&Request::Refresh {})? else {
            return Err(client.unexpected().into());
        };
        let how = match changed.words {
            Some(words) => format!("{words} addresses written in place"),
            None => "linked anew".into(),
        };
        println!(
            "changed: {} pods, epoch {}, {how} in {} us",
            changed.pods, changed.epoch, changed.took_us
        );
        Ok(ExitCode::SUCCESS)
    }
}
