//! One step of a task: a program that runs with its output in a log, a line that says how far it
//! is, and the end of the log when it fails. Knows nothing of what the steps are for.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, IsTerminal, Write, pipe, stderr},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::paths;

/// How many lines of a failed step are shown.
const TAIL: usize = 30;

/// Where no terminal shows a moving line, a word this often.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// How long the output of a program that was ended is still read.
const GRACE: Duration = Duration::from_secs(5);

/// Number of the next log, so that the folder lists in the order of running.
static NEXT_LOG: AtomicU32 = AtomicU32::new(1);

/// How a step ended.
pub struct Done {
    pub success: bool,
    /// Why it failed, for one line: `exit status: 1` or `no end within 300 s`.
    pub how: String,
    pub time: Duration,
    pub log: PathBuf,
    /// Standard output and standard error, as they came.
    pub output: String,
}

impl Done {
    /// Both, one after the other, as one step.
    pub fn then(self, second: Self) -> Self {
        let (success, how, log) = match self.success {
            true => (second.success, second.how, second.log),
            false => (false, self.how, self.log),
        };
        Self {
            success,
            how,
            time: self.time + second.time,
            log,
            output: self.output + &second.output,
        }
    }
}

/// Runs a program to its end and prints one line about it. A program that fails is not an error
/// here: `Done::success` tells.
///
/// # Errors
/// When the program cannot be started or its log cannot be written.
pub fn run(title: &str, command: &mut Command, limit: Duration) -> Result<Done> {
    follow(title, command, limit, |_| None)
}

/// Like [`run`], and prints what `show` makes of each line of the output as it comes.
///
/// # Errors
/// When the program cannot be started or its log cannot be written.
pub fn follow(
    title: &str,
    command: &mut Command,
    limit: Duration,
    mut show: impl FnMut(&str) -> Option<String>,
) -> Result<Done> {
    let log = log_path(title)?;
    let mut file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    writeln!(file, "$ {}", shown(command))?;
    let start = Instant::now();
    let (reader, writer) = pipe().context("no pipe")?;
    let mut child = command
        .current_dir(
            command
                .get_current_dir()
                .map_or_else(|| paths::root().into(), PathBuf::from),
        )
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    // The command keeps its ends of the pipe, and the reader would wait for them for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let lines = lines_of(reader);
    let progress = Progress::new(title);
    let mut output = String::new();
    let mut late = false;
    loop {
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                file.write_all(line.as_bytes())?;
                progress.says(&line, show(line.trim_end()));
                output.push_str(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if !late && start.elapsed() > limit {
            late = true;
            end_family(child.id());
        }
        if start.elapsed() > limit + GRACE {
            break; // something that we could not end holds the pipe
        }
        progress.beat(start.elapsed());
    }
    let status = child.wait()?;
    progress.end();
    let how = if late {
        format!("no end within {} s", limit.as_secs())
    } else {
        status.to_string()
    };
    Ok(Done {
        success: status.success() && !late,
        how,
        time: start.elapsed(),
        log,
        output,
    })
}

/// Runs a step that must succeed; prints its title and time, or the end of its output.
///
/// # Errors
/// When it fails.
pub fn must(title: &str, command: &mut Command, limit: Duration) -> Result<String> {
    let done = run(title, command, limit)?;
    if done.success {
        report("ok", title, done.time, "");
        return Ok(done.output);
    }
    report("FAILED", title, done.time, &done.how);
    eprint!("{}", tail(&done.output));
    bail!("{title}: {} (all of it: {})", done.how, done.log.display());
}

/// One line about a finished step.
pub fn report(result: &str, title: &str, time: Duration, note: &str) {
    let seconds = time.as_secs_f64();
    println!(
        "{}",
        format!("{result:<7} {title:<48} {seconds:>7.1} s  {note}").trim_end()
    );
}

/// The last lines of a step's output.
pub fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let from = lines.len().saturating_sub(TAIL);
    lines[from..]
        .iter()
        .fold(String::new(), |all, line| all + "  | " + line + "\n")
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let mut words: Vec<String> = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!(
                "{}={}",
                name.display(),
                quoted(&value.to_string_lossy())
            ));
        }
    }
    words.push(command.get_program().to_string_lossy().into_owned());
    words.extend(
        command
            .get_args()
            .map(|word| quoted(&word.to_string_lossy())),
    );
    words.join(" ")
}

fn quoted(word: &str) -> String {
    if word.contains([' ', '"', '*', '$', '(']) {
        format!("'{word}'")
    } else {
        word.into()
    }
}

fn log_path(title: &str) -> Result<PathBuf> {
    let dir = paths::logs();
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let number = NEXT_LOG.fetch_add(1, Ordering::Relaxed);
    let name: String = title
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
    Ok(dir.join(format!("{number:02}-{name}.log")))
}

/// Reads lines on a thread, so that the step's clock goes on while the program is silent. Bytes
/// that are not UTF-8 are replaced: this is for reading by people.
fn lines_of(reader: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(length) if length > 0) {
            if sender
                .send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                break;
            }
            line.clear();
        }
    });
    receiver
}

/// Ends a process and all that it started. Children that lost their parent are not found; none of
/// the programs here makes daemons.
pub fn end_family(pid: u32) {
    // Found first: once the parent has ended, its children are another's.
    let children = children_of(pid);
    if let Ok(raw) = i32::try_from(pid)
        && let Some(process) = rustix::process::Pid::from_raw(raw)
        && let Err(error) = rustix::process::kill_process(process, rustix::process::Signal::KILL)
    {
        eprintln!("cannot end process {pid}: {error}");
    }
    for child in children {
        end_family(child);
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes
        .flatten()
        .flat_map(|entry| entry.file_name().to_string_lossy().parse());
    pids.filter(|pid: &u32| {
        // `pid (name) state parent ...`, where the name may hold anything but ends last.
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            stat.rsplit(") ")
                .next()
                .and_then(|rest| rest.split(' ').nth(1))
                == Some(parent.to_string().as_str())
        })
    })
    .collect()
}

/// A moving line on a terminal, a word now and then elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    title: String,
    last: std::cell::Cell<Duration>,
}

impl Progress {
    fn new(title: &str) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            // The template is a constant: a wrong one fails at the first run.
            if let Ok(style) =
                ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(title.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self {
            bar,
            title: title.into(),
            last: std::cell::Cell::new(Duration::ZERO),
        }
    }

    /// A new line of output, and what of it is for the reader.
    fn says(&self, line: &str, shown: Option<String>) {
        match (&self.bar, shown) {
            (Some(bar), Some(text)) => bar.suspend(|| println!("{text}")),
            // A program that speaks JSON does not speak to people.
            (Some(bar), None) if !line.starts_with('{') => {
                bar.set_message(line.trim().to_owned());
            }
            (Some(_), None) => {}
            (None, Some(text)) => println!("{text}"),
            (None, None) => {}
        }
    }

    fn beat(&self, elapsed: Duration) {
        if self.bar.is_none() && elapsed - self.last.get() >= HEARTBEAT {
            self.last.set(elapsed);
            eprintln!("...     {}, {} s", self.title, elapsed.as_secs());
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
