//! `enforcer detach`: everything the agent made, taken away; with or without an agent.

use std::{process::ExitCode, time::Duration};

use clap::Args;

use super::{
    Failure, PlaceArgs, SocketArgs, StateArgs,
    run::tasks::Signals,
    socket::{Client, ClientError},
};
use crate::{
    control::{Answer, Request},
    detach,
    pins::{Pins, PinsError},
    rights,
    state::Keeper,
};

/// How long somebody else who is detaching may take.
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
    #[command(flatten)]
    state: StateArgs,
    /// When done, stay until told to end: a DaemonSet's containers must not end
    #[arg(long)]
    stay: bool,
}

impl Detach {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let stay = self.stay;
        self.detach()?;
        if stay {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let mut signals = Signals::listen()?;
                signals.wait().await;
                Ok::<_, Failure>(())
            })?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn detach(self) -> Result<(), Failure> {
        let pins = Pins::below(&self.place.bpffs);
        match Client::connect(&self.socket.socket) {
            Ok(mut client) => match client.ask(&Request::Detach {}) {
                Ok(Answer::Detached(removed)) => {
                    println!("{removed}");
                    return Ok(());
                }
                Ok(_) => return Err(client.unexpected().into()),
                // It was ending already: what it has left is ours to take away.
                Err(ClientError::Broken { .. }) => {}
                Err(error) => return Err(error.into()),
            },
            Err(ClientError::Absent { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        rights::check()?;
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
        Keeper::remove(&self.state.folder(&self.socket))?;
        println!("{removed}");
        Ok(())
    }
}
