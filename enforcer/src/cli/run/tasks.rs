//! What runs beside the agent's orders: tasks that go on by themselves, signals, the log.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::super::Format;
use crate::{
    agent::{ASK_EVERY, Agent},
    flows::CLEAN_EVERY,
    report::Line,
};

/// A task that should never end says so when it does.
pub(super) async fn supervise(what: &str, task: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = task.await {
        tracing::error!(%error, what, "stopped");
    }
}

/// Tells of what happens by itself: pauses that end, events that the kernel did not send.
pub(super) async fn watch(agent: Arc<Agent>) {
    let mut every = tokio::time::interval(std::time::Duration::from_secs(1));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = None;
    loop {
        every.tick().await;
        let watched = agent.clone();
        let dropped = tokio::task::spawn_blocking(move || {
            watched.end_pauses();
            // Nobody misses what nobody hears.
            watched
                .reporter
                .is_heard()
                .then(|| watched.events_dropped())
        });
        let now = match dropped.await {
            Ok(Some(Ok(now))) => Some(now),
            _ => None,
        };
        if let (Some(before), Some(now)) = (before, now)
            && now > before
        {
            agent.reporter.send(Line::Dropped {
                dropped: now - before,
            });
        }
        before = now;
    }
}

pub(super) async fn clean(agent: Arc<Agent>) {
    let mut every = tokio::time::interval(CLEAN_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut changes = agent.changes.subscribe();
    loop {
        tokio::select! {
            _ = every.tick() => {}
            // What a new table denies has sockets to be ended. The agent holds the sender.
            Ok(()) = changes.changed() => {}
        }
        let agent = agent.clone();
        match tokio::task::spawn_blocking(move || agent.clean()).await {
            Ok(Ok(0)) => {}
            Ok(Ok(forgotten)) => tracing::debug!(forgotten, "outbound connections"),
            Ok(Err(error)) => tracing::warn!(
                error = crate::chain(&error),
                "cannot clean outbound connections"
            ),
            Err(error) => tracing::error!(%error, "cleaning broke off"),
        }
    }
}

/// What ends an agent from outside, or a command that waits to be ended.
pub(in crate::cli) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(in crate::cli) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(in crate::cli) async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

pub(super) fn log_to_stderr(format: Format, bpf_log: bool) {
    use tracing_subscriber::EnvFilter;
    let fallback = if bpf_log {
        "info,enforcer_ebpf=debug"
    } else {
        "info"
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(fallback));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr);
    match format {
        Format::Human => log.init(),
        Format::Json => log.json().init(),
    }
}

/// Asks the pods' hooks whether they are on the pods' paths, again and again.
pub(super) async fn ask_hooks(agent: Arc<Agent>) {
    let mut every = tokio::time::interval(ASK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let asked = agent.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || asked.ask_hooks()).await {
            tracing::error!(%error, "asking the hooks broke off");
        }
    }
}
