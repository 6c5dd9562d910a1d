//! Named network namespaces that go away with their owner. Knows nothing of pods or policies.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use enforcer::netns::has_ipv6;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where iproute2 keeps the names of namespaces.
const NAMES: &str = "/run/netns";

/// `ip netns add` prepares `/run/netns` on first use and is not made for company while it does.
static CREATING: Mutex<()> = Mutex::new(());

/// Number of the next prefix that [`unique_prefix`] gives out.
static NEXT_PREFIX: AtomicU32 = AtomicU32::new(0);

/// A network namespace with its loopback up. Dropping it kills the processes that still run in it
/// and removes its name; its devices go with it.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes the namespace `name` and brings its loopback up.
    ///
    /// # Errors
    /// Without root, without iproute2, or when the name is taken.
    pub fn create(name: &str) -> Result<Self> {
        {
            let _alone = CREATING.lock().unwrap_or_else(PoisonError::into_inner);
            run(Command::new("ip").args(["netns", "add", name]))?;
        }
        let namespace = Self { name: name.into() };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace, for `setns` and for the annotation `enforcer/netns`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }

    /// Runs `work` on a thread of its own that has moved into the namespace, and waits for it.
    /// Sockets and processes that it makes belong to the namespace, and so does what it reads and
    /// writes below `/proc/sys/net`. A panic of `work` goes on in the caller.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.move_here();
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts `work` on a thread of its own that has moved into the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let namespace = Self::borrowed(&self.name);
        thread::spawn(move || {
            namespace.move_here();
            // The owner removes the name, not this thread.
            std::mem::forget(namespace);
            work()
        })
    }

    /// Starts a process in the namespace; it is killed when the guard is dropped.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn process(&self, command: &mut Command) -> Result<Process> {
        let what = format!("{command:?}");
        let child = self
            .enter(|| command.spawn())
            .with_context(|| format!("cannot start {what} in namespace {}", self.name))?;
        Ok(Process { child })
    }

    /// Runs a program in the namespace to its end and returns its standard output.
    ///
    /// # Errors
    /// When it cannot be started or fails; the message has its standard error.
    pub fn output(&self, command: &mut Command) -> Result<String> {
        self.enter(|| run(command))
            .with_context(|| format!("in namespace {}", self.name))
    }

    /// Runs lines of `ip` in the namespace, in one process: `ns.ip("link set eth0 up")`.
    /// Empty lines, indentation and `#` comments are fine. On a kernel without IPv6, lines with such
    /// an address (all of ours have a `::`) are left out.
    ///
    /// # Errors
    /// The first line that fails, as iproute2 words it.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]);
        let spoken: String = lines
            .lines()
            .filter(|line| has_ipv6() || !line.contains("::"))
            .flat_map(|line| [line, "\n"])
            .collect();
        self.enter(|| run_with_input(&mut command, &spoken))
            .with_context(|| format!("ip in namespace {}:\n{}", self.name, lines.trim_end()))
    }

    /// Sets network sysctls of the namespace: `ns.sysctl("net/ipv4/ip_forward", "1")`. Those of IPv6
    /// are left out where the kernel does not speak it.
    ///
    /// # Errors
    /// When this kernel has no such setting or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        if name.starts_with("net/ipv6/") && !has_ipv6() {
            return Ok(());
        }
        let path = Path::new("/proc/sys").join(name);
        self.enter(|| fs::write(&path, value))
            .with_context(|| format!("cannot set {name} to {value} in {}", self.name))
    }

    fn borrowed(name: &str) -> Self {
        Self { name: name.into() }
    }

    fn move_here(&self) {
        let moved = File::open(self.path()).and_then(|file| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(io::Error::from)
        });
        if let Err(error) = moved {
            panic!("cannot enter network namespace {}: {error}", self.name);
        }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            // A destructor can only report; the next run's `sweep` tries again.
            eprintln!("namespace {} is left behind: {error:#}", self.name);
        }
    }
}

/// A process that ends with its owner.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The process itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How the process ended, or `None` while it runs.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// SIGKILL, then waits for the end: what a crash looks like.
    ///
    /// # Errors
    /// When the process is not ours to kill.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.ended(), Ok(None))
            && let Err(error) = self.kill()
        {
            eprintln!("process {} is left behind: {error}", self.id());
        }
    }
}

/// A prefix for namespace names that no other live process uses: `<what>-<pid>-<n>`.
/// Namespaces that an earlier, dead process left under `what` are removed first.
#[must_use]
pub fn unique_prefix(what: &str) -> String {
    let number = NEXT_PREFIX.fetch_add(1, Ordering::Relaxed);
    if number == 0 {
        sweep_dead(what);
    }
    format!("{what}-{}-{number}", std::process::id())
}

/// Removes every namespace whose name begins with `prefix`, and kills what runs in them.
///
/// # Errors
/// The first that could not be removed; the others are removed all the same.
pub fn sweep(prefix: &str) -> Result<()> {
    let mut first = Ok(());
    for name in names().into_iter().filter(|n| n.starts_with(prefix)) {
        let removed = remove(&name);
        if first.is_ok() {
            first = removed;
        }
    }
    first
}

fn sweep_dead(what: &str) {
    for name in names() {
        let owner = name
            .strip_prefix(what)
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if let Some(pid) = owner
            && !Path::new("/proc").join(pid.to_string()).exists()
            && let Err(error) = remove(&name)
        {
            eprintln!("namespace {name} of an earlier run stays: {error:#}");
        }
    }
}

fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(NAMES) else {
        return Vec::new(); // no namespace was ever named on this machine
    };
    let mut names: Vec<String> = entries
        .flatten()
        // A name that is not UTF-8 is none of ours, whose prefixes are all ASCII.
        .flat_map(|entry| entry.file_name().into_string())
        .collect();
    names.sort();
    names
}

/// A namespace lives as long as a process in it does, so those go first.
fn remove(name: &str) -> Result<()> {
    let inside = run(Command::new("ip").args(["netns", "pids", name]))?;
    for pid in inside.split_whitespace() {
        let pid: i32 = pid.parse().context("`ip netns pids` prints numbers")?;
        // Our own threads inside end with their work; only other processes are killed.
        if u32::try_from(pid) != Ok(std::process::id())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => bail!("cannot kill process {pid:?}: {error}"),
            }
        }
    }
    run(Command::new("ip").args(["netns", "delete", name])).map(drop)
}

/// Runs a program to its end; what it prints.
///
/// # Errors
/// When it fails, with what it says.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn run_with_input(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let written = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(input.as_bytes()),
        None => Ok(()),
    };
    let output = child.wait_with_output()?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", message.trim_end());
    // A program that failed closes its input early, and its own message is the better one.
    written.context("the program did not take its input")
}
