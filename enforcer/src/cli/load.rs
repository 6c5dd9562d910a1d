//! `enforcer load`: another bundle, now.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{Failure, SocketArgs, socket::Client};
use crate::control::{Answer, Request};

/// Make another bundle the active one
///
/// The switch is one store: no packet is judged by a mixture. A bundle that is damaged, of another
/// version, too large or older than the active one changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  enforcer load /etc/enforcer/bundle.bin")]
pub struct Load {
    /// Made by `policyc compile`
    bundle: PathBuf,
    #[command(flatten)]
    socket: SocketArgs,
}

impl Load {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        // The agent's working directory is another one.
        let bundle = std::path::absolute(&self.bundle)?;
        let mut client = Client::connect(&self.socket.socket)?;
        match client.ask(&Request::Load { bundle })? {
            Answer::Loaded {
                generation,
                epoch,
                hash,
                words,
                link_us,
                publish_us,
            } => {
                println!(
                    "active: generation {generation}, epoch {epoch}, {words} words, sha256 {hash}"
                );
                println!("  linked in {link_us} us, switched in {publish_us} us");
                Ok(ExitCode::SUCCESS)
            }
            _ => Err(client.unexpected().into()),
        }
    }
}
