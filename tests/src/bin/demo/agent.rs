//! The programs under demonstration, run as anybody would run them: `policyc` and `enforcer`.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use enforcer::{
    control::{Answer, Filter, Line, Request},
    report::{Verdict, VerdictLine},
};
use serde_json::Value;
use tests::{
    netns::{Netns, Process, run},
    ready,
};

use crate::scenario::Stage;

/// A node is ready in well under a second; an emulated one is not.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Between a verdict and its event.
const EVENT_LIMIT: Duration = Duration::from_secs(5);

/// Where everything of a run lies.
#[derive(Clone, Debug)]
pub struct Place {
    /// Folder of the programs.
    pub programs: PathBuf,
    /// Folder of the manifests.
    pub examples: PathBuf,
    /// Folder for bundles, the socket and the log.
    pub state: PathBuf,
    /// BPF file system of this run's own.
    pub bpffs: PathBuf,
    /// Name of the proxy's namespace.
    pub proxy_netns: String,
}

/// A running agent, and its verdicts.
#[derive(Debug)]
pub struct Agent {
    inventory: &'static str,
    verdicts: Receiver<VerdictLine>,
    _agent: Process,
}

impl Place {
    /// Compiles a stage's manifests.
    ///
    /// # Errors
    /// What `policyc` says.
    pub fn compile(&self, stage: &Stage) -> Result<PathBuf> {
        let bundle = self.state.join("bundle.bin");
        let mut policyc = self.policyc("compile", stage);
        run(policyc.arg("-o").arg(&bundle))?;
        Ok(bundle)
    }

    /// What `policyc check` has to say about a stage's manifests.
    ///
    /// # Errors
    /// When it cannot read them.
    pub fn check(&self, stage: &Stage) -> Result<Vec<Value>> {
        let text = run(self.policyc("check", stage).args(["--format", "json"]))?;
        serde_json::from_str(&text).context("`policyc check --format json` prints an array")
    }

    /// Starts the agent on the node, or, where it runs with this inventory already, gives it the
    /// new bundle.
    ///
    /// # Errors
    /// What the agent says.
    pub fn enforce(
        &self,
        running: Option<Agent>,
        node: &Netns,
        stage: &Stage,
        bundle: &Path,
    ) -> Result<Agent> {
        match running {
            Some(agent) if agent.inventory == stage.inventory => {
                let mut load = self.enforcer("load");
                run(load.arg(bundle).arg("--socket").arg(self.socket()))?;
                Ok(agent)
            }
            before => {
                // The old one's rules are enforced until the new one takes over.
                drop(before);
                self.start(node, stage, bundle)
            }
        }
    }

    /// Ends enforcement.
    ///
    /// # Errors
    /// What the agent says.
    pub fn detach(&self, node: &Netns) -> Result<()> {
        let mut detach = self.enforcer("detach");
        detach.arg("--socket").arg(self.socket());
        node.enter(|| run(self.placed(&mut detach))).map(drop)
    }

    fn start(&self, node: &Netns, stage: &Stage, bundle: &Path) -> Result<Agent> {
        let log = self.state.join("agent.log");
        let mut run = self.enforcer("run");
        run.arg("--bundle")
            .arg(bundle)
            .arg("--inventory")
            .arg(self.examples.join(stage.inventory))
            .arg("--socket")
            .arg(self.socket())
            .args(["--events", "all"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).context("cannot write the agent's log")?);
        // A killed agent leaves its socket behind; the new one's is to be waited for.
        if self.socket().exists() {
            std::fs::remove_file(self.socket())?;
        }
        let mut agent = node.process(self.placed(&mut run))?;
        // It answers before it has a table, and lets nobody listen until then.
        let (mut ended, mut verdicts) = (None, None);
        let told = ready::until(START_LIMIT, || {
            ended = agent.ended().ok().flatten();
            verdicts = self.monitor().ok();
            ended.is_some() || verdicts.is_some()
        });
        let (true, None, Some(verdicts)) = (told, ended, verdicts) else {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("the agent did not start:\n{}", said.trim_end());
        };
        Ok(Agent {
            inventory: stage.inventory,
            verdicts,
            _agent: agent,
        })
    }

    /// Listens to the verdicts, as `enforcer monitor --format json` does; from here on none is
    /// missed.
    fn monitor(&self) -> Result<Receiver<VerdictLine>> {
        let mut stream = BufReader::new(UnixStream::connect(self.socket())?);
        let request = Request::Monitor {
            filter: Filter::default(),
        };
        writeln!(stream.get_mut(), "{}", serde_json::to_string(&request)?)?;
        let mut answer = String::new();
        stream.read_line(&mut answer)?;
        let answer: Answer = serde_json::from_str(&answer).context("the agent's answer")?;
        ensure!(
            matches!(answer, Answer::Monitoring {}),
            "the agent lets nobody listen"
        );
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            // Ends with the agent.
            for line in stream.lines().map_while(Result::ok) {
                let sent = match serde_json::from_str(&line) {
                    Ok(Line::Verdict(verdict)) => sender.send(*verdict),
                    Ok(_) => continue, // what was loaded, by the demo itself
                    Err(error) => {
                        eprintln!("the agent told of a verdict as `{line}`: {error}");
                        continue;
                    }
                };
                if sent.is_err() {
                    break; // nobody listens any more
                }
            }
        });
        Ok(receiver)
    }

    fn policyc(&self, command: &str, stage: &Stage) -> Command {
        let mut policyc = Command::new(self.programs.join("policyc"));
        policyc.arg(command);
        for source in stage.sources {
            policyc.arg("-f").arg(self.examples.join(source));
        }
        if stage.default_deny {
            policyc.arg("--catch-all-deny=default-deny");
        }
        policyc
    }

    fn enforcer(&self, command: &str) -> Command {
        let mut enforcer = Command::new(self.programs.join("enforcer"));
        enforcer.arg(command);
        enforcer
    }

    fn placed<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .arg("--bpffs")
            .arg(&self.bpffs)
            .args(["--netns", &self.proxy_netns])
    }

    fn socket(&self) -> PathBuf {
        self.state.join("enforcer.sock")
    }
}

impl Agent {
    /// The verdict about the connection that `client` opened: the last word on it, which is
    /// userspace's where the kernel asked.
    ///
    /// # Errors
    /// When no event tells of it in time.
    pub fn verdict(&self, client: SocketAddr) -> Result<VerdictLine> {
        let deadline = Instant::now() + EVENT_LIMIT;
        let mut steered = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self
                .verdicts
                .recv_timeout(left)
                .map_err(|_| anyhow!("no event tells who decided about {client}"))?;
            if SocketAddr::new(line.src_ip, line.src_port) != client {
                continue;
            }
            match line.hook.as_str() {
                "proxy" => return Ok(line),
                "to_pod" if line.verdict == Verdict::Ask => steered = true,
                // On its way to the pod, a steered connection passes the hook once more.
                "to_pod" if !steered => return Ok(line),
                // The client's own pod, which may open connections.
                _ => {}
            }
        }
    }
}
