//! `enforcer rollback`: the bundle before this one, now.

use std::process::ExitCode;

use clap::Args;

use super::{Failure, SocketArgs, load::loaded, socket::Client};
use crate::control::Request;

/// Make the bundle active again that was so before
///
/// Done again, it goes further back. The order of generations is not asked for, a signature is where
/// one is required. `status` lists what is kept.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  enforcer rollback")]
pub struct Rollback {
    #[command(flatten)]
    socket: SocketArgs,
}

impl Rollback {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let mut client = Client::connect(&self.socket.socket)?;
        loaded("active", &mut client, &Request::Rollback {})
    }
}
