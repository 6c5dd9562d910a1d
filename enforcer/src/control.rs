//! Orders over a Unix socket: one JSON request a line, one JSON answer a line; `monitor` answers
//! with lines until the client goes.
//!
//! Only the owner of the socket, root, may connect: its mode is 0600 from the first moment.

mod bound;

use std::{io, path::PathBuf, sync::Arc};

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

use crate::{
    agent::{Agent, Status},
    detach::Removed,
    report::{Verdict, VerdictLine},
};

/// Most bytes of one request.
const REQUEST_MAX: u64 = 64 << 10;

/// What the agent may be asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    Status {},
    /// The path as the agent sees it.
    Load {
        bundle: PathBuf,
    },
    Monitor {
        #[serde(default)]
        filter: Filter,
    },
    /// Detach everything, say what was detached, and end.
    Detach {},
}

/// Which lines a monitor wants; what is empty wants all.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Namespace of the source or of the destination.
    #[serde(default)]
    pub namespace: Option<String>,
    /// `namespace/name`, or a name, of the source or of the destination.
    #[serde(default)]
    pub pod: Option<String>,
    #[serde(default)]
    pub verdict: Option<Verdict>,
    /// `namespace/name` of the deciding, auditing or dry-run policy.
    #[serde(default)]
    pub policy: Option<String>,
}

/// What the agent answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Status(Box<Status>),
    Loaded {
        generation: u64,
        epoch: u32,
        hash: String,
        words: usize,
        link_us: u64,
        publish_us: u64,
    },
    /// A monitor's lines follow.
    Monitoring {},
    /// Everything is detached, and the agent goes.
    Detached(Removed),
    /// Nothing was changed.
    Error(String),
}

/// What a monitor is sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// The monitor was too slow: so many lines, wanted or not, have passed it by.
    Lost {
        lost: u64,
    },
    Verdict(Box<VerdictLine>),
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
pub async fn serve(listener: UnixListener, agent: Arc<Agent>, detach: mpsc::Sender<Leaving>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (agent, detach) = (agent.clone(), detach.clone());
                tokio::spawn(async move {
                    if let Err(error) = client(stream, agent, detach).await {
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
    agent: Arc<Agent>,
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
        match serde_json::from_slice::<Request>(&line) {
            Ok(Request::Monitor { filter }) => {
                let verdicts = agent.reporter.listen();
                return tokio::select! {
                    ended = monitor(verdicts, &filter, write) => ended,
                    () = gone(&mut lines) => Ok(()),
                };
            }
            Ok(Request::Detach {}) => {
                // When nobody takes it, the agent is ending already, and the connection with it.
                let _ending = detach.send(Leaving(write)).await;
                return Ok(());
            }
            Ok(request) => {
                let agent = agent.clone();
                // An activation waits for a grace period: not on a thread that serves others.
                let answer = tokio::task::spawn_blocking(move || answer(&agent, &request))
                    .await
                    .unwrap_or_else(|error| Answer::Error(error.to_string()));
                send(&mut write, &answer).await?;
            }
            Err(error) => {
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

fn answer(agent: &Agent, request: &Request) -> Answer {
    let result = match request {
        Request::Status {} => agent.status().map(|s| Answer::Status(Box::new(s))),
        Request::Load { bundle } => agent.load(bundle).map(|generation| Answer::Loaded {
            generation: generation.generation,
            epoch: generation.epoch,
            hash: generation.hash.clone(),
            words: generation.words,
            link_us: generation.times.link_us,
            publish_us: generation.times.publish_us,
        }),
        Request::Monitor { .. } | Request::Detach {} => {
            return Answer::Error("not a request with one answer".into());
        }
    };
    result.unwrap_or_else(|error| Answer::Error(crate::chain(&error)))
}

async fn monitor(
    mut lines: broadcast::Receiver<Arc<VerdictLine>>,
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

impl Filter {
    /// Whether a line is wanted.
    pub fn wants(&self, line: &VerdictLine) -> bool {
        let ends = [line.src.to_string(), line.dst.to_string()];
        let any_end = |matches: &dyn Fn(&str, &str) -> bool| {
            ends.iter()
                .flat_map(|end| end.split_once('/'))
                .any(|(namespace, name)| matches(namespace, name))
        };
        let namespace = self
            .namespace
            .as_ref()
            .is_none_or(|wanted| any_end(&|namespace, _| namespace == wanted));
        let pod = self.pod.as_ref().is_none_or(|wanted| {
            any_end(&|namespace, name| match wanted.split_once('/') {
                Some(both) => both == (namespace, name),
                None => name == wanted,
            })
        });
        let policy = self.policy.as_ref().is_none_or(|wanted| {
            line.policy.as_ref() == Some(wanted)
                || line.audit.iter().any(|hit| hit.policy == *wanted)
                || line.dry_run.iter().any(|hit| hit.policy == *wanted)
        });
        namespace && pod && policy && self.verdict.is_none_or(|wanted| wanted == line.verdict)
    }
}

#[cfg(test)]
mod tests;
