//! Arguments that name manifests, and the one function that loads them and says what is wrong.

use std::{
    collections::BTreeMap,
    fs,
    io::{IsTerminal, Write, stderr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::ValueEnum;
use policyc::{
    diagnostic::{self, Code, Diagnostic, Severity},
    options::CatchAllDeny,
    read::{self, Input, Loaded},
};

use super::Outcome;

/// What every command that reads policies has in common.
#[derive(clap::Args, Debug)]
pub struct SourceArgs {
    /// Manifests: a file, a folder with *.yaml, *.yml and *.json, or `-` for standard input
    #[arg(short = 'f', long = "file", value_name = "PATH", required = true)]
    pub files: Vec<String>,

    /// MeshConfig, plain or as Istio's ConfigMap
    #[arg(long, value_name = "FILE")]
    pub mesh: Option<PathBuf>,

    /// What a DENY rule without from, to and when means
    #[arg(long, value_enum, default_value_t = CatchAll::DenyAll)]
    pub catch_all_deny: CatchAll,

    /// Key set for a jwksUri; repeatable
    #[arg(long, value_name = "URI=FILE")]
    pub jwks: Vec<String>,
}

/// What a catch-all DENY means, as an argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum CatchAll {
    /// Istio's meaning: everything is denied, whatever ALLOW says
    DenyAll,
    /// The workload's default; ALLOW rules are its exceptions
    DefaultDeny,
}

impl From<CatchAll> for CatchAllDeny {
    fn from(choice: CatchAll) -> Self {
        match choice {
            CatchAll::DenyAll => Self::DenyAll,
            CatchAll::DefaultDeny => Self::DefaultDeny,
        }
    }
}

/// The same, where a command does something without manifests, too.
#[derive(clap::Args, Debug)]
pub struct MaybeSourceArgs {
    /// Manifests: a file, a folder with *.yaml, *.yml and *.json, or `-` for standard input
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    files: Vec<String>,

    /// MeshConfig, plain or as Istio's ConfigMap
    #[arg(long, value_name = "FILE", requires = "files")]
    mesh: Option<PathBuf>,

    /// What a DENY rule without from, to and when is expected to mean in the bundle
    #[arg(long, value_enum, requires = "files")]
    pub catch_all_deny: Option<CatchAll>,

    /// Key set for a jwksUri; repeatable
    #[arg(long, value_name = "URI=FILE", requires = "files")]
    jwks: Vec<String>,
}

impl MaybeSourceArgs {
    /// The sources, where manifests were given. What a catch-all DENY means is not theirs to say.
    pub fn given(&self) -> Option<SourceArgs> {
        (!self.files.is_empty()).then(|| SourceArgs {
            files: self.files.clone(),
            mesh: self.mesh.clone(),
            catch_all_deny: CatchAll::DenyAll,
            jwks: self.jwks.clone(),
        })
    }
}

/// Manifests that say who is where, beside a bundle that holds the policies.
#[derive(clap::Args, Debug)]
pub struct InventoryArgs {
    /// Manifests of pods, services and nodes: a file, a folder, or `-` for standard input
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    pub files: Vec<String>,
}

/// Reads an inventory and prints what is wrong to standard error.
pub fn load(inventory: &InventoryArgs) -> Result<Loaded, Outcome> {
    let inputs: Vec<Input> = inventory
        .files
        .iter()
        .map(|arg| Input::from_arg(arg))
        .collect();
    let (loaded, found) = read::load(&inputs, None);
    print(&found, &loaded);
    match outcome(&found, false) {
        Outcome::Good => Ok(loaded),
        outcome => Err(outcome),
    }
}

impl SourceArgs {
    pub fn inputs(&self) -> Vec<Input> {
        self.files.iter().map(|arg| Input::from_arg(arg)).collect()
    }

    /// Reads all manifests. Diagnostics are returned, not printed.
    pub fn read(&self) -> (Loaded, Vec<Diagnostic>) {
        self.read_as(None)
    }

    /// As [`Self::read`]; standard input stands for the file of that name.
    pub fn read_as(&self, stdin: Option<&Path>) -> (Loaded, Vec<Diagnostic>) {
        let inputs: Vec<Input> = self
            .inputs()
            .into_iter()
            .map(|input| match (input, stdin) {
                (Input::Stdin, Some(path)) => Input::StdinAs(path.into()),
                (input, _) => input,
            })
            .collect();
        let mut progress = Progress::new();
        let mut watch = |file: &str, done: usize, all: usize| progress.tell(file, done, all);
        let read = read::load_watched(&inputs, self.mesh.as_deref(), Some(&mut watch));
        progress.end();
        read
    }

    /// Reads all manifests and prints what is wrong to standard error. An outcome in place of the
    /// result means that the command ends with it.
    pub fn load(&self) -> Result<Loaded, Outcome> {
        let (loaded, found) = self.read();
        print(&found, &loaded);
        match outcome(&found, false) {
            Outcome::Good => Ok(loaded),
            outcome => Err(outcome),
        }
    }

    /// The key sets, by their URI.
    pub fn key_sets(&self) -> anyhow::Result<BTreeMap<String, String>> {
        key_sets(&self.jwks)
    }
}

/// The key sets of `--jwks URI=FILE`, by their URI.
pub fn key_sets(pairs: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut sets = BTreeMap::new();
    for pair in pairs {
        // A URI may have `=` in its query; a file name seldom does.
        let Some((uri, file)) = pair.rsplit_once('=') else {
            bail!("--jwks wants URI=FILE, and `{pair}` has no `=`");
        };
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        sets.insert(uri.to_owned(), text);
    }
    Ok(sets)
}

/// Prints diagnostics to standard error, underlined, and how many there are.
pub fn print(found: &[Diagnostic], loaded: &Loaded) {
    if found.is_empty() {
        return;
    }
    underline(found, loaded);
    // A closed standard error is no reason to change the outcome.
    let _ = writeln!(stderr(), "{}", summary(found));
}

/// Prints diagnostics to standard error, underlined, in colour where that is a terminal.
pub fn underline(found: &[Diagnostic], loaded: &Loaded) {
    let color = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let text = diagnostic::human(found, &loaded.sources, color);
    let _ = write!(stderr(), "{text}");
}

/// `2 errors, 1 warning`
pub fn summary(found: &[Diagnostic]) -> String {
    let count = |severity, word: &str| {
        let count = found.iter().filter(|d| d.severity == severity).count();
        match count {
            0 => None,
            1 => Some(format!("1 {word}")),
            _ => Some(format!("{count} {word}s")),
        }
    };
    let counts: Vec<String> = [
        count(Severity::Error, "error"),
        count(Severity::Warning, "warning"),
        count(Severity::Note, "note"),
    ]
    .into_iter()
    .flatten()
    .collect();
    counts.join(", ")
}

/// What diagnostics mean for the command that met them.
pub fn outcome(found: &[Diagnostic], deny_warnings: bool) -> Outcome {
    let bad = |d: &Diagnostic| {
        d.severity == Severity::Error || deny_warnings && d.severity == Severity::Warning
    };
    if found.iter().any(|d| d.code == Code::CannotRead) {
        Outcome::Failed
    } else if found.iter().any(bad) {
        Outcome::Bad
    } else {
        Outcome::Good
    }
}

/// How far the reading of a large file is, on standard error where that is a terminal.
struct Progress {
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// Smaller files are read before anybody wonders.
    const FILE_BYTES_MIN: usize = 16 << 20;

    fn new() -> Self {
        Self {
            shown: None,
            terminal: stderr().is_terminal(),
        }
    }

    fn tell(&mut self, file: &str, done: usize, all: usize) {
        let soon = |at: Instant| at.elapsed() < Duration::from_millis(200);
        if !self.terminal || all < Self::FILE_BYTES_MIN || self.shown.is_some_and(soon) {
            return;
        }
        self.shown = Some(Instant::now());
        let _ = write!(
            stderr(),
            "\r\x1b[Kreading {file}: {} of {} MiB",
            done >> 20,
            all >> 20
        );
    }

    fn end(&self) {
        if self.shown.is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
