//! `enforcer monitor --all-nodes`: the verdicts of all nodes as one stream, by time and node.
//!
//! Lines of different nodes are on their way for different times, so each is held back for a moment
//! and leaves in its place. The nodes are looked for again and again: an agent that was replaced, a
//! node that was added and one whose stream broke off are listened to when they are found.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    sync::{Semaphore, mpsc},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    super::{Failure, Format},
    command, why,
};
use crate::{
    control::{Filter, Line},
    fleet::{Fleet, agents::Agent},
};

/// How long a line is held back for lines of other nodes.
const HELD: Duration = Duration::from_millis(500);
/// How often lines leave.
const EVERY: Duration = Duration::from_millis(100);
/// How often nodes are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Lines that are on their way; a node that sends more waits, and then says what passed unseen.
const QUEUE: usize = 4096;
/// Most bytes of a line.
const LINE_MAX: u64 = 1 << 20;

/// What a node's stream brings.
enum News {
    Line(String),
    /// It has ended. An agent that has just gone is no trouble.
    Ended(Option<String>),
}

/// Shows the verdicts of all nodes until somebody has seen enough.
pub async fn run(fleet: Fleet, filter: &Filter, format: Format) -> Result<ExitCode, Failure> {
    let words = words(filter)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut streams = Streams {
        seats: Arc::new(Semaphore::new(fleet.reach.at_once)),
        fleet: Arc::new(fleet),
        command: command(&words).into(),
        heard: BTreeMap::new(),
        troubles: BTreeMap::new(),
    };
    let (sender, mut news) = mpsc::channel(QUEUE);
    let mut held = Held::default();
    let (mut leave, mut look) = (interval(EVERY), interval(LOOK_EVERY));
    leave.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A cluster that cannot be asked at all is an error now, and only then.
    streams.look(&sender).await?;
    look.reset();
    loop {
        tokio::select! {
            Some((node, pod, what)) = news.recv() => match what {
                News::Line(text) => match held.take(&node, text, Instant::now()) {
                    Ok(()) => {}
                    Err(error) => streams.trouble(&node, format!("it sent a line that is none: {error}")),
                },
                News::Ended(why) => streams.ended(&node, &pod, why),
            },
            _ = leave.tick() => match print(&held.due(Instant::now()), format) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
                other => other?,
            },
            _ = look.tick() => if let Err(error) = streams.look(&sender).await {
                streams.trouble("-", crate::chain(&*error));
            },
        }
    }
}

/// The arguments that make an agent's own monitor send these lines.
fn words(filter: &Filter) -> Result<Vec<String>, Failure> {
    let mut words: Vec<String> = ["monitor", "--format", "json", "--while-stdin"]
        .map(str::to_owned)
        .into();
    let verdict = filter.verdict.map(|verdict| verdict.to_string());
    for (option, value) in [
        ("--namespace", &filter.namespace),
        ("--pod", &filter.pod),
        ("--verdict", &verdict),
        ("--policy", &filter.policy),
        ("--reason", &filter.reason),
        ("--source", &filter.source),
    ] {
        if let Some(value) = value {
            words.push(format!("{option}={value}"));
        }
    }
    Ok(words)
}

/// The streams of the nodes.
struct Streams {
    fleet: Arc<Fleet>,
    seats: Arc<Semaphore>,
    command: Arc<[String]>,
    /// The pod on each node that is listened to.
    heard: BTreeMap<String, String>,
    /// What was said last of each node that is not heard.
    troubles: BTreeMap<String, String>,
}

type Sender = mpsc::Sender<(String, String, News)>;

impl Streams {
    /// Listens to agents that are not listened to yet.
    async fn look(&mut self, sender: &Sender) -> Result<(), Failure> {
        let nodes = self.fleet.nodes().await?;
        if let Some(unlisted) = &nodes.unlisted {
            self.trouble("-", unlisted.clone());
        }
        let names: BTreeSet<&String> = nodes.agents.keys().collect();
        self.troubles
            .retain(|node, _| node == "-" || names.contains(node));
        for (node, agent) in nodes.agents {
            match agent {
                Agent::In { pod, .. } if self.heard.get(&node) != Some(&pod) => {
                    self.heard.insert(node.clone(), pod.clone());
                    self.begin(node, pod, sender.clone());
                }
                Agent::In { .. } => {}
                Agent::Down { why, .. } => self.trouble(&node, why),
                Agent::Missing => self.trouble(&node, "no agent runs on it".into()),
            }
        }
        Ok(())
    }

    fn begin(&self, node: String, pod: String, sender: Sender) {
        let (fleet, seats) = (Arc::clone(&self.fleet), Arc::clone(&self.seats));
        let command = Arc::clone(&self.command);
        tokio::spawn(async move {
            let why = listen(&fleet, &seats, &command, &node, &pod, &sender).await;
            // Nobody listens when the command has ended.
            let _ended = sender.send((node, pod, News::Ended(why))).await;
        });
    }

    fn ended(&mut self, node: &str, pod: &str, why: Option<String>) {
        // Meanwhile another pod may have taken its place.
        if self.heard.get(node).is_some_and(|heard| heard == pod) {
            self.heard.remove(node);
        }
        let why = why.unwrap_or_else(|| "its verdicts broke off".into());
        self.trouble(node, why);
    }

    /// Says what is wrong with a node, unless that was said last.
    fn trouble(&mut self, node: &str, why: String) {
        if self.troubles.get(node) != Some(&why) {
            eprintln!("enforcer: not heard: {node}: {why}");
            self.troubles.insert(node.into(), why);
        }
    }
}

/// Hands on the lines of one agent, for as long as it sends some. Returns why it does not.
async fn listen(
    fleet: &Fleet,
    seats: &Semaphore,
    command: &[String],
    node: &str,
    pod: &str,
    sender: &Sender,
) -> Option<String> {
    let seat = seats.acquire().await;
    let mut process = match fleet.begin(pod, command).await {
        Ok(process) => process,
        Err(error) => return Some(why(&error)),
    };
    drop(seat);
    // Held open: where it ends, the agent's command ends.
    let _stdin = process.stdin();
    let ended = process.take_status();
    let mut aside = process.stderr();
    let mut out = BufReader::new(process.stdout()?);
    loop {
        let mut line = String::new();
        let read = (&mut out).take(LINE_MAX).read_line(&mut line).await;
        match read {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Some(format!("its verdicts cannot be read: {error}")),
        }
        let news = (node.to_owned(), pod.to_owned(), News::Line(line));
        sender.send(news).await.ok()?;
    }
    let status = match ended {
        Some(ended) => ended.await,
        None => None,
    };
    let mut text = String::new();
    if let Some(aside) = &mut aside {
        // What it cannot say is not said.
        let _said = aside.take(LINE_MAX).read_to_string(&mut text).await;
    }
    let text = text.trim();
    match (status, text) {
        (_, text) if !text.is_empty() => Some(text.replace('\n', "; ")),
        (Some(status), _) => Some(format!("it ended: {}", status.message.unwrap_or_default())),
        (None, _) => None,
    }
}

/// Lines that are held back, in their order.
#[derive(Default)]
struct Held {
    lines: BTreeMap<(i128, String, u64), (Instant, String)>,
    last: BTreeMap<String, i128>,
    count: u64,
}

impl Held {
    /// Puts a line in its place.
    fn take(&mut self, node: &str, text: String, now: Instant) -> Result<(), serde_json::Error> {
        let line: Line = serde_json::from_str(&text)?;
        let time = match &line {
            Line::Verdict(verdict) => Some(verdict.time.as_str()),
            Line::Notice(notice) => Some(notice.time.as_str()),
            Line::Lost { .. } | Line::Dropped { .. } => None,
        };
        let time = time.and_then(crate::report::line::nanoseconds);
        // What has no time of its own belongs to what came before it.
        let time = time.unwrap_or_else(|| self.last.get(node).copied().unwrap_or(i128::MIN));
        self.last.insert(node.into(), time);
        self.count += 1;
        let key = (time, node.to_owned(), self.count);
        self.lines.insert(key, (now, text));
        Ok(())
    }

    /// Lines that have waited long enough, with all that come before them.
    fn due(&mut self, now: Instant) -> Vec<(String, String)> {
        let waited = |(_, (came, _)): &(&_, &(Instant, String))| now.duration_since(*came) >= HELD;
        let last = self.lines.iter().rev().find(waited);
        let Some(last) = last.map(|(key, _)| key.clone()) else {
            return Vec::new();
        };
        let mut later = self.lines.split_off(&last);
        let due = later.remove(&last).map(|line| (last, line));
        let first = std::mem::replace(&mut self.lines, later);
        let lines = first.into_iter().chain(due);
        lines
            .map(|((_, node, _), (_, text))| (node, text))
            .collect()
    }
}

fn print(lines: &[(String, String)], format: Format) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (node, text) in lines {
        match format {
            // The line as the agent wrote it, with one field more.
            Format::Json => {
                let node = serde_json::to_string(node)?;
                let rest = text.trim_end().strip_prefix('{').unwrap_or_default();
                writeln!(out, "{{\"node\":{node},{rest}")?;
            }
            Format::Human => {
                let line: Line = serde_json::from_str(text)?;
                writeln!(out, "{node}  {line}")?;
            }
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(time: &str) -> String {
        format!("{{\"time\":\"{time}\",\"notice\":\"active\",\"about\":\"x\"}}\n")
    }

    #[test]
    fn lines_leave_by_time_and_node_and_not_before_they_have_waited() {
        let mut held = Held::default();
        let start = Instant::now();
        let take = |held: &mut Held, now: Instant, node: &str, text: &str| {
            held.take(node, text.into(), now).expect("a line");
        };
        take(&mut held, start, "two", &notice("2026-01-01T00:00:00.5Z"));
        take(&mut held, start, "two", "{\"lost\":3}");
        take(&mut held, start, "one", &notice("2026-01-01T00:00:00.49Z"));
        take(&mut held, start, "one", &notice("2026-01-01T00:00:00.5Z"));
        assert!(held.due(start).is_empty());
        let later = start + HELD;
        // It has just come, and its time is earlier: it need not wait.
        take(&mut held, later, "three", &notice("2026-01-01T00:00:00.1Z"));
        take(&mut held, later, "three", &notice("2026-01-01T00:00:09Z"));
        let due = held.due(later);
        let nodes: Vec<&str> = due.iter().map(|(node, _)| node.as_str()).collect();
        assert_eq!(nodes, ["three", "one", "one", "two", "two"]);
        assert_eq!(due[4].1, "{\"lost\":3}");
        assert_eq!(held.lines.len(), 1, "the last one waits");
    }

    #[test]
    fn a_filter_goes_to_every_agent() {
        let filter = Filter {
            pod: Some("shop/cart".into()),
            verdict: Some(crate::report::Verdict::Deny),
            ..Filter::default()
        };
        assert_eq!(
            words(&filter).expect("words"),
            [
                "monitor",
                "--format",
                "json",
                "--while-stdin",
                "--pod=shop/cart",
                "--verdict=deny"
            ]
        );
    }
}
