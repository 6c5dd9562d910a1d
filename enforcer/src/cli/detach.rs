//! `enforcer detach`: everything the agent made, taken away; with or without an agent.

use std::{process::ExitCode, time::Duration};

use clap::Args;

use super::{
    Failure, PlaceArgs, SocketArgs,
    socket::{Client, ClientError},
};
use crate::{
    control::Request,
    detach,
    pins::{Pins, PinsError},
};

/// How long the agent may take to go.
const LEAVING: Duration = Duration::from_secs(10);

/// Stop enforcing: remove programs, maps and the proxy's namespace
///
/// Works whether an agent is running or not. Until then enforcement goes on without an agent.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  enforcer detach\n  enforcer detach --bpffs /sys/fs/bpf/test")]
pub struct Detach {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    socket: SocketArgs,
}

impl Detach {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let pins = Pins::below(&self.place.bpffs);
        match Client::connect(&self.socket.socket) {
            Ok(mut client) => {
                client.ask(&Request::Detach {})?;
                // The agent closes the connection and then detaches; its lock goes with it.
                while client.line()?.is_some() {}
            }
            Err(ClientError::Absent { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let removed = runtime.block_on(async {
            let deadline = tokio::time::Instant::now() + LEAVING;
            loop {
                match detach::everything(&pins, &self.place.netns).await {
                    Err(detach::DetachError::Pins(PinsError::Busy { .. }))
                        if tokio::time::Instant::now() < deadline =>
                    {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    other => return other,
                }
            }
        })?;
        println!("{removed}");
        Ok(ExitCode::SUCCESS)
    }
}
