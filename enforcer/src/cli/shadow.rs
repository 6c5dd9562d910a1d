//! `enforcer shadow`: a generation that is asked, and decides nothing.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::{Failure, SocketArgs, load::loaded, socket::Client};
use crate::control::{Answer, Request};

/// Try a bundle beside the active one, in the kernel, with real traffic
///
/// Opening segments are judged by both; the active one decides. `status` shows by rule how often the
/// other would have decided otherwise, `monitor` each such verdict with both. What userspace must
/// judge is a verdict of its own: requests are not judged twice. A shadow ends with its agent.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  enforcer shadow load candidate.bin\n  enforcer status\n  enforcer shadow promote"
)]
pub struct Shadow {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Begin to ask a bundle, in the place of any other
    Load {
        /// Made by `policyc compile`
        bundle: PathBuf,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Make it the active one: one store
    Promote {
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// End it
    Drop {
        #[command(flatten)]
        socket: SocketArgs,
    },
}

impl Shadow {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self.order {
            Order::Load { bundle, socket } => {
                // The agent's working directory is another one.
                let bundle = std::path::absolute(&bundle)?;
                let mut client = Client::connect(&socket.socket)?;
                loaded("shadow", &mut client, &Request::ShadowLoad { bundle })
            }
            Order::Promote { socket } => {
                let mut client = Client::connect(&socket.socket)?;
                loaded("active", &mut client, &Request::ShadowPromote {})
            }
            Order::Drop { socket } => {
                let mut client = Client::connect(&socket.socket)?;
                match client.ask(&Request::ShadowDrop {})? {
                    Answer::Dropped {} => {
                        println!("dropped");
                        Ok(ExitCode::SUCCESS)
                    }
                    _ => Err(client.unexpected().into()),
                }
            }
        }
    }
}
