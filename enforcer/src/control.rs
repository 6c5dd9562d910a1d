//! Orders over a Unix socket: one JSON request a line, one JSON answer a line; `monitor` answers
//! with lines until the client goes.
//!
//! Only the owner of the socket, root, may connect: its mode is 0600 from the first moment.

mod bound;
mod filter;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{
        broadcast::{self, error::RecvError},
        mpsc,
    },
};

pub use bound::{Bound, ControlError, bind};
pub use filter::Filter;

pub use crate::report::Line;
use crate::report::asked::{Asked, Waiting};
use crate::{
    agent::{Agent, Changed, Explained, PauseStatus, Status},
    apply::Generation,
    detach::Removed,
};

/// Most bytes of one request.
const REQUEST_MAX: u64 = 64 << 10;

/// What the agent may be asked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Status {},
    /// The path as the agent sees it.
    Load {
        bundle: PathBuf,
    },
    /// Back to the bundle that was active before.
    Rollback {},
    Refresh {},
    /// `namespace/name`, or null for every pod.
    Pause {
        #[serde(deserialize_with = "told")]
        pod: Option<String>,
        seconds: u64,
        reason: Option<String>,
    },
    Resume {
        #[serde(deserialize_with = "told")]
        pod: Option<String>,
    },
    ShadowLoad {
        bundle: PathBuf,
    },
    ShadowPromote {},
    ShadowDrop {},
    /// `now` is in seconds since 1970.
    Explain {
        request: Box<policyc::request::Request>,
        now: u64,
    },
    Monitor {
        #[serde(default)]
        filter: Filter,
    },
    /// Detach everything, say what was detached, and end.
    Detach {},
}

/// What the agent answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Status(Box<Status>),
    /// There is no table yet.
    Waiting(Waiting),
    Loaded(Loaded),
    Changed(Changed),
    Paused(PauseStatus),
    /// So many pauses have ended.
    Resumed(usize),
    Dropped {},
    Explained(Box<Explained>),
    /// A monitor's lines follow.
    Monitoring {},
    /// Everything is detached, and the agent goes.
    Detached(Removed),
    /// Nothing was changed.
    Error(String),
}

/// A generation that is active now, or asked beside the active one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Loaded {
    pub bundle: String,
    pub generation: u64,
    pub epoch: u32,
    pub hash: String,
    pub words: usize,
    pub link_us: u64,
    pub publish_us: u64,
}

impl Loaded {
    fn of(generation: &Generation) -> Self {
        Self {
            bundle: generation.bundle.display().to_string(),
            generation: generation.generation,
            epoch: generation.epoch,
            hash: generation.hash.to_string(),
            words: generation.words,
            link_us: generation.times.link_us,
            publish_us: generation.times.publish_us,
        }
    }
}

/// A field that is left out must not mean everything.
fn told<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(from)
}

/// Someone who waits to hear what was detached.
#[derive(Debug)]
pub struct Leaving(OwnedWriteHalf);

impl Leaving {
    /// Tells. Whoever has gone meanwhile does not want to know.
    pub async fn tell(mut self, answer: &Answer) {
        if let Err(error) = send(&mut self.0, answer).await {
            tracing::debug!(%error, "who wanted to detach has gone");
        }
    }
}

/// Serves clients until the agent ends. `detach` is given those who want that.
pub async fn serve(listener: UnixListener, asked: Arc<Asked>, detach: mpsc::Sender<Leaving>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (asked, detach) = (asked.clone(), detach.clone());
                tokio::spawn(async move {
                    if let Err(error) = client(stream, asked, detach).await {
                        tracing::debug!(%error, "a control client went away");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control client");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn client(
    stream: UnixStream,
    asked: Arc<Asked>,
    detach: mpsc::Sender<Leaving>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let read = (&mut lines)
            .take(REQUEST_MAX)
            .read_until(b'\n', &mut line)
            .await?;
        if read == 0 {
            return Ok(());
        }
        let agent = asked.agent().cloned();
        match (serde_json::from_slice::<Request>(&line), agent) {
            (Ok(Request::Detach {}), _) => {
                // When nobody takes it, the agent is ending already, and the connection with it.
                let _ending = detach.send(Leaving(write)).await;
                return Ok(());
            }
            (Ok(request), None) => send(&mut write, &early(&asked, &request)).await?,
            (Ok(Request::Monitor { filter }), Some(agent)) => {
                let verdicts = agent.reporter.listen();
                return tokio::select! {
                    ended = monitor(verdicts, &filter, write) => ended,
                    () = gone(&mut lines) => Ok(()),
                };
            }
            (Ok(request), Some(agent)) => {
                // An activation waits for a grace period: not on a thread that serves others.
                let answer = tokio::task::spawn_blocking(move || answer(&agent, &request))
                    .await
                    .unwrap_or_else(|error| Answer::Error(error.to_string()));
                send(&mut write, &answer).await?;
            }
            (Err(error), _) => {
                send(
                    &mut write,
                    &Answer::Error(format!("not a request: {error}")),
                )
                .await?;
                if !line.ends_with(b"\n") {
                    return Ok(()); // too long, or cut off
                }
            }
        }
    }
}

/// The answer of an agent that has no table yet.
fn early(asked: &Asked, request: &Request) -> Answer {
    let waiting = asked.waiting();
    match request {
        Request::Status {} => Answer::Waiting(waiting),
        _ => Answer::Error(format!(
            "the agent has no table yet, and takes no orders: it waits for {}",
            waiting.awaited.join("; ")
        )),
    }
}

fn answer(agent: &Agent, request: &Request) -> Answer {
    let loaded = |generation: Arc<Generation>| Answer::Loaded(Loaded::of(&generation));
    let result = match request {
        Request::Status {} => agent.status().map(|s| Answer::Status(Box::new(s))),
        Request::Load { bundle } => agent.load(bundle).map(loaded),
        Request::Rollback {} => agent.rollback().map(loaded),
        Request::Refresh {} => agent.refresh().map(Answer::Changed),
        Request::Pause {
            pod,
            seconds,
            reason,
        } => {
            let time = Duration::from_secs(*seconds);
            let paused = agent.pause(pod.as_deref(), time, reason.clone());
            paused.map(Answer::Paused)
        }
        Request::Resume { pod } => agent.resume(pod.as_deref()).map(Answer::Resumed),
        Request::ShadowLoad { bundle } => agent.load_shadow(bundle).map(loaded),
        Request::ShadowPromote {} => agent.promote_shadow().map(loaded),
        Request::ShadowDrop {} => agent.drop_shadow().map(|()| Answer::Dropped {}),
        Request::Explain { request, now } => agent
            .explain(request, *now)
            .map(|explained| Answer::Explained(Box::new(explained))),
        Request::Monitor { .. } | Request::Detach {} => {
            return Answer::Error("not a request with one answer".into());
        }
    };
    result.unwrap_or_else(|error| Answer::Error(crate::chain(&error)))
}

async fn monitor(
    mut lines: broadcast::Receiver<Arc<Line>>,
    filter: &Filter,
    mut write: OwnedWriteHalf,
) -> io::Result<()> {
    send(&mut write, &Answer::Monitoring {}).await?;
    loop {
        match lines.recv().await {
            Ok(line) if filter.wants(&line) => send(&mut write, &*line).await?,
            Ok(_) => {}
            Err(RecvError::Lagged(lost)) => send(&mut write, &Line::Lost { lost }).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

/// Returns when the client has closed its end. What it still says is not asked for.
async fn gone(lines: &mut BufReader<OwnedReadHalf>) {
    loop {
        match lines.fill_buf().await {
            Ok([]) | Err(_) => return,
            Ok(said) => {
                let said = said.len();
                lines.consume(said);
            }
        }
    }
}

async fn send(write: &mut OwnedWriteHalf, answer: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer).map_err(io::Error::other)?;
    line.push(b'\n');
    write.write_all(&line).await
}

#[cfg(test)]
mod tests;
