//! Orders over a Unix socket: one JSON request a line, one JSON answer a line; `monitor` answers
//! with lines until the client goes.
//!
//! Only the owner of the socket, root, may connect: its mode is 0600 from the first moment.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

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

/// The socket's file, which goes away with its owner, and so does its folder, if that was made for
/// it.
#[derive(Debug, Default)]
pub struct Bound {
    file: Option<PathBuf>,
    folder: Option<PathBuf>,
}

/// What can go wrong with the socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("another agent listens on `{path}`: a node has one agent, stop that one first")]
    Busy { path: PathBuf },
    #[error("`{path}` is there and is not a socket: name another place with --socket")]
    NotASocket { path: PathBuf },
    #[error("cannot {operation} the control socket `{path}`")]
    Socket {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Binds the socket. One that an earlier agent left is replaced.
pub fn bind(path: &Path) -> Result<(UnixListener, Bound), ControlError> {
    let failed = |operation| {
        move |source| ControlError::Socket {
            operation,
            path: path.into(),
            source,
        }
    };
    let mut bound = Bound::default();
    if let Some(folder) = path.parent()
        && !folder.exists()
    {
        fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
        bound.folder = Some(folder.into());
    }
    make_room(path)?;
    // Between binding and changing the mode others could connect: the mask closes that gap.
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listening = UnixListener::bind(path);
    rustix::process::umask(mask);
    let listener = listening.map_err(failed("bind"))?;
    bound.file = Some(path.into());
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed("protect"))?;
    Ok((listener, bound))
}

/// Removes what an earlier agent left, and nothing else.
fn make_room(path: &Path) -> Result<(), ControlError> {
    let failed = |source| ControlError::Socket {
        operation: "replace",
        path: path.into(),
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ControlError::NotASocket { path: path.into() });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ControlError::Busy { path: path.into() });
    }
    fs::remove_file(path).map_err(failed)
}

impl Drop for Bound {
    fn drop(&mut self) {
        match self.file.as_ref().map(fs::remove_file) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "the control socket is left behind");
            }
            _ => {}
        }
        if let Some(folder) = &self.folder {
            // Somebody else may have put something there.
            let _left = fs::remove_dir(folder);
        }
    }
}

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
mod tests {
    use super::*;
    use crate::report::Peer;

    fn line() -> VerdictLine {
        VerdictLine {
            id: "1-1".into(),
            time: String::new(),
            src: Peer::Pod("web/frontend-1".into()),
            src_ip: [10, 0, 0, 1].into(),
            src_port: 40_000,
            dst: Peer::Ip {
                ip: [10, 0, 0, 2].into(),
            },
            dst_ip: [10, 0, 0, 2].into(),
            port: 80,
            protocol: "tcp".into(),
            verdict: Verdict::Deny,
            layer: policyc::request::Layer::L4,
            reason: "deny_rule".into(),
            datapath: "denied".into(),
            policy: Some("web/deny-all".into()),
            rule: Some(0),
            audit: Vec::new(),
            dry_run: Vec::new(),
            hook: "to_pod".into(),
            epoch: 1,
            generation: 0,
            http: None,
        }
    }

    #[test]
    fn an_empty_filter_wants_everything_and_each_field_narrows() {
        assert!(Filter::default().wants(&line()));
        let filter = |set: &dyn Fn(&mut Filter)| {
            let mut filter = Filter::default();
            set(&mut filter);
            filter.wants(&line())
        };
        assert!(filter(&|f| f.namespace = Some("web".into())));
        assert!(!filter(&|f| f.namespace = Some("other".into())));
        assert!(filter(&|f| f.pod = Some("web/frontend-1".into())));
        assert!(filter(&|f| f.pod = Some("frontend-1".into())));
        assert!(!filter(&|f| f.pod = Some("other/frontend-1".into())));
        assert!(filter(&|f| f.verdict = Some(Verdict::Deny)));
        assert!(!filter(&|f| f.verdict = Some(Verdict::Allow)));
        assert!(filter(&|f| f.policy = Some("web/deny-all".into())));
        assert!(!filter(&|f| f.policy = Some("web/other".into())));
    }

    #[tokio::test]
    async fn a_monitor_that_is_too_slow_is_told_how_much_it_missed() {
        let (sender, receiver) = broadcast::channel(2);
        for _ in 0..7 {
            sender.send(Arc::new(line())).expect("somebody listens");
        }
        drop(sender);
        let (ours, its) = UnixStream::pair().expect("a pair of sockets");
        let (_, write) = its.into_split();
        let sent = monitor(receiver, &Filter::default(), write).await;
        sent.expect("the monitor is still there");
        let mut text = String::new();
        let mut ours = ours;
        let read = ours.read_to_string(&mut text).await;
        read.expect("the agent has ended");
        let lines: Vec<Line> = text
            .lines()
            .skip(1)
            .map(|line| serde_json::from_str(line).expect("one of the two kinds"))
            .collect();
        assert!(
            matches!(
                lines[..],
                [Line::Lost { lost: 5 }, Line::Verdict(_), Line::Verdict(_)]
            ),
            "five of seven did not fit, and that is said in their place: {text}"
        );
    }

    #[test]
    fn requests_are_read_strictly() {
        let read = |text: &str| serde_json::from_str::<Request>(text);
        assert_eq!(
            read(r#"{"command":"status"}"#).expect("as the CLI sends it"),
            Request::Status {}
        );
        assert!(
            read(r#"{"command":"status","x":1}"#).is_err(),
            "an unknown field"
        );
        assert!(read(r#"{"command":"stat"}"#).is_err(), "an unknown command");
    }
}
