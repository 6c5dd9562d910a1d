//! The agent as a process of its own, in the node's namespace.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::{
    netns::{Netns, Process},
    ready::until,
};

/// How long the agent may take to be ready, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// The files of one agent: bundle, inventory, socket, pins. Dropping it detaches everything.
#[derive(Debug)]
pub struct Home {
    /// The program to run: `enforcer`.
    program: PathBuf,
    node: String,
    folder: PathBuf,
    bpffs: PathBuf,
    netns: String,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    /// What it said when it was started, for messages.
    log: PathBuf,
}

impl Home {
    /// Places for an agent of the node, none of which another test has.
    ///
    /// # Errors
    /// When a folder cannot be made.
    pub fn new(program: &str, node: &Netns, manifests: &str) -> Result<Self> {
        let node = node.name().to_owned();
        let home = Self {
            program: program.into(),
            folder: std::env::temp_dir().join(&node),
            bpffs: std::env::temp_dir().join(&node).join("bpf"),
            netns: format!("{node}-l7"),
            node,
        };
        fs::create_dir_all(&home.bpffs)?;
        mount("bpf", &home.bpffs, "bpf", MountFlags::empty(), None)
            .with_context(|| format!("cannot mount a BPF file system on {:?}", home.bpffs))?;
        fs::write(home.file("inventory.yaml"), manifests)?;
        Ok(home)
    }

    /// Runs another program in place of the agent from now on. Returns the one so far.
    pub fn replace_program(&mut self, program: &str) -> String {
        let before = std::mem::replace(&mut self.program, program.into());
        before.to_string_lossy().into_owned()
    }

    /// A file of this agent.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where its pins are.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.bpffs.join("enforcer")
    }

    /// The BPF file system that they lie on.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Name of the proxy's namespace.
    #[must_use]
    pub fn netns(&self) -> &str {
        &self.netns
    }

    /// Writes a bundle file and returns its path.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn bundle(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.file(name);
        fs::write(&path, bytes)?;
        Ok(path)
    }

    /// Starts an agent and waits until it is ready.
    ///
    /// # Errors
    /// What the agent said when it did not get ready.
    pub fn start(&self, node: &Netns, bundle: &Path, options: &[&str]) -> Result<Agent> {
        self.ready(self.spawn(node, bundle, options)?)
    }

    /// Starts an agent and does not wait.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, node: &Netns, bundle: &Path, options: &[&str]) -> Result<Agent> {
        self.spawn_at(&self.file("socket"), node, bundle, options)
    }

    /// As [`Home::spawn`], with another control socket.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn_at(
        &self,
        socket: &Path,
        node: &Netns,
        bundle: &Path,
        options: &[&str],
    ) -> Result<Agent> {
        self.spawn_in(&self.bpffs, socket, node, bundle, options)
    }

    /// As [`Home::spawn_at`], with another directory for pins.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn_in(
        &self,
        bpffs: &Path,
        socket: &Path,
        node: &Netns,
        bundle: &Path,
        options: &[&str],
    ) -> Result<Agent> {
        let mut command = self.command(bpffs, socket);
        command
            .arg("--bundle")
            .arg(bundle)
            .arg("--inventory")
            .arg(self.file("inventory.yaml"))
            .args(options);
        self.process(node, &mut command)
    }

    /// Starts an agent that follows the cluster of a kubeconfig as node `n1`, and does not wait.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn follow(&self, node: &Netns, kubeconfig: &Path, options: &[&str]) -> Result<Agent> {
        let mut command = self.command(&self.bpffs, &self.file("socket"));
        command
            .env("KUBECONFIG", kubeconfig)
            .args(["--kube", "--policy-source", "cluster", "--node-name", "n1"])
            .args(options);
        self.process(node, &mut command)
    }

    /// Waits until an agent is ready.
    ///
    /// # Errors
    /// What it said when it did not get ready.
    pub fn ready(&self, agent: Agent) -> Result<Agent> {
        self.ready_within(START, agent)
    }

    /// The same, with more patience.
    ///
    /// # Errors
    /// What it said when it did not get ready.
    pub fn ready_within(&self, limit: Duration, mut agent: Agent) -> Result<Agent> {
        let mut ended = None;
        let ready = until(limit, || {
            ended = agent.process.ended().ok().flatten();
            ended.is_some() || self.call(&["status"]).is_ok_and(|o| o.status.success())
        });
        let log = agent.log();
        ensure!(ended.is_none(), "the agent ended: {ended:?}\n{log}");
        ensure!(ready, "the agent did not get ready\n{log}");
        Ok(agent)
    }

    fn command(&self, bpffs: &Path, socket: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("run")
            .arg("--socket")
            .arg(socket)
            .arg("--bpffs")
            .arg(bpffs)
            .args(["--netns", &self.netns]);
        command
    }

    fn process(&self, node: &Netns, command: &mut Command) -> Result<Agent> {
        let log = self.file("agent.log");
        let to_log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(to_log);
        let process = node.process(command)?;
        Ok(Agent { process, log })
    }

    /// Runs `enforcer COMMAND --socket ...`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn call(&self, arguments: &[&str]) -> Result<Output> {
        let output = Command::new(&self.program)
            .args(arguments)
            .arg("--socket")
            .arg(self.file("socket"))
            .stdin(Stdio::null())
            .output();
        output.context("cannot run the command")
    }

    /// `enforcer load`; an error is what the command said.
    ///
    /// # Errors
    /// What the agent has against the bundle.
    pub fn load(&self, bundle: &Path) -> Result<()> {
        let path = bundle.to_str().context("paths of tests are plain text")?;
        let output = self.call(&["load", path])?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// `enforcer status --format json`.
    ///
    /// # Errors
    /// When no agent answers.
    pub fn status(&self) -> Result<serde_json::Value> {
        let output = self.call(&["status", "--format", "json"])?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).context("status is JSON")
    }

    /// The packets counted for a reason.
    ///
    /// # Errors
    /// When no agent answers.
    pub fn counter(&self, reason: &str) -> Result<u64> {
        Ok(self.status()?["counters"][reason].as_u64().unwrap_or(0))
    }

    /// `enforcer detach`, in the node's namespace.
    ///
    /// # Errors
    /// What could not be taken away.
    pub fn detach(&self, node: &Netns) -> Result<String> {
        let mut command = Command::new(&self.program);
        command
            .arg("detach")
            .arg("--socket")
            .arg(self.file("socket"))
            .arg("--bpffs")
            .arg(&self.bpffs)
            .args(["--netns", &self.netns]);
        node.output(&mut command)
    }
}

impl Agent {
    /// SIGKILL: what a crash looks like.
    ///
    /// # Errors
    /// When the process is not ours.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()?;
        Ok(())
    }

    /// SIGINT: what Ctrl-C sends.
    ///
    /// # Errors
    /// When the process is not ours.
    pub fn interrupt(&self) -> Result<()> {
        let id = i32::try_from(self.id()).context("process ids are positive")?;
        let id = rustix::process::Pid::from_raw(id).context("process ids are not 0")?;
        rustix::process::kill_process(id, rustix::process::Signal::INT)?;
        Ok(())
    }

    /// Id of its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it has ended, within a time.
    #[must_use]
    pub fn ends_within(&mut self, limit: Duration) -> bool {
        until(limit, || self.process.ended().is_ok_and(|e| e.is_some()))
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let pins = enforcer::pins::Pins::below(&self.bpffs);
        let left = [
            pins.remove_all().err().map(|e| e.to_string()),
            enforcer::netns::remove(&self.netns)
                .err()
                .map(|e| e.to_string()),
            unmount(&self.bpffs, UnmountFlags::DETACH)
                .err()
                .map(|e| e.to_string()),
            fs::remove_dir_all(&self.folder)
                .err()
                .map(|e| e.to_string()),
        ];
        for error in left.iter().flatten() {
            // A destructor can only report.
            eprintln!("left behind by {}: {error}", self.node);
        }
    }
}
