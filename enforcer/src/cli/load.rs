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
        loaded("active", &mut client, &Request::Load { bundle })
    }
}

/// Asks for another generation and says which it is.
pub(super) fn loaded(
    what: &str,
    client: &mut Client,
    request: &Request,
) -> Result<ExitCode, Failure> {
    let Answer::Loaded(loaded) = client.ask(request)? else {
        return Err(client.unexpected().into());
    };
    println!(
        "{what}: generation {}, epoch {}, {} words, sha256 {}",
        loaded.generation, loaded.epoch, loaded.words, loaded.hash
    );
    println!("  of {}", loaded.bundle);
    println!(
        "  linked in {} us, switched in {} us",
        loaded.link_us, loaded.publish_us
    );
    Ok(ExitCode::SUCCESS)
}
