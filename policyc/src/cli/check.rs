//! `policyc check`: errors and lints, nothing written.

mod watch;

use std::{
    io::{Write, stdout},
    path::PathBuf,
};

use anyhow::bail;
use clap::ValueEnum;
use policyc::{
    cluster::Cluster,
    diagnostic::{self, Diagnostic},
    ir::Program,
    lint,
    options::CatchAllDeny,
    read::Loaded,
    report,
};

use super::{
    Outcome,
    sources::{SourceArgs, outcome, summary, underline},
};

/// Checks manifests: errors and lints, nothing is written
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  policyc check -f manifests/
  kubectl get authorizationpolicies,pods,services -A -o yaml | policyc check -f -
  policyc check -f manifests/ --deny-warnings --format sarif > check.sarif
  policyc check -f manifests/ --watch
  policyc check -f manifests/ -f - --stdin-path manifests/a.yaml --format json < unsaved-text

What is probably wrong and yet meant is a note, and no warning, where the policy says so in its
annotations: `enforcer/accepted-warnings: \"P320\"`.")]
pub struct Args {
    #[command(flatten)]
    sources: SourceArgs,

    /// Exit with 1 on warnings as well
    #[arg(long)]
    deny_warnings: bool,

    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,

    /// Check again whenever a manifest changes, until Ctrl-C
    ///
    /// Prints what is new and what is mended. Ends with the exit code of the last outcome. With
    /// --format json, each outcome is a line.
    #[arg(long)]
    watch: bool,

    /// Take standard input (-f -) for this file, which is not read itself: an editor's unsaved text
    #[arg(long, value_name = "PATH")]
    stdin_path: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// For people, with the offending lines underlined
    Human,
    /// An array of diagnostics
    Json,
    /// SARIF 2.1.0, for code hosts
    Sarif,
    /// JUnit XML, for pipelines
    Junit,
}

/// What a check came to.
struct Checked {
    loaded: Loaded,
    found: Vec<Diagnostic>,
    /// Where there are no errors in what was read.
    program: Option<Program>,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let has_stdin = args.sources.files.iter().any(|file| file == "-");
    if args.stdin_path.is_some() && !has_stdin {
        bail!("--stdin-path says what standard input stands for: give `-f -` as well");
    }
    if args.watch {
        return watch::run(args);
    }
    let (loaded, found) = args.sources.read_as(args.stdin_path.as_deref());
    let checked = check(loaded, found, args.sources.catch_all_deny.into());
    print(args, &checked)?;
    let outcome = outcome(&checked.found, args.deny_warnings);
    // The process ends here, and its memory with it.
    std::mem::forget(checked);
    Ok(outcome)
}

/// Adds what lints have to say. With an error, that may be wrong.
fn check(loaded: Loaded, mut found: Vec<Diagnostic>, catch_all_deny: CatchAllDeny) -> Checked {
    let mut program = None;
    if !diagnostic::any_error(&found) {
        match lint::check(&loaded, catch_all_deny) {
            Ok((lints, resolved)) => {
                found.extend(lints);
                program = Some(resolved);
            }
            Err(error) => found.push(lint::unresolved(&loaded, &error)),
        }
    }
    Checked {
        loaded,
        found,
        program,
    }
}

fn print(args: &Args, checked: &Checked) -> anyhow::Result<()> {
    let Checked {
        loaded,
        found,
        program,
    } = checked;
    let mut out = stdout();
    match args.format {
        Format::Json => writeln!(out, "{}", diagnostic::json(found, &loaded.sources))?,
        Format::Sarif => writeln!(out, "{}", diagnostic::sarif(found, &loaded.sources))?,
        Format::Junit => {
            let report = diagnostic::junit(found, &loaded.sources, args.deny_warnings);
            out.write_all(report.as_bytes())?;
        }
        Format::Human => {
            underline(found, loaded);
            let labels = program.as_ref().map(report::labels).unwrap_or_default();
            if !labels.is_empty() {
                writeln!(out, "{}", report::Table(&labels))?;
            }
            writeln!(out, "{}", account(&loaded.cluster, &summary(found)))?;
        }
    }
    Ok(())
}

/// What was read, in one line.
fn account(cluster: &Cluster, problems: &str) -> String {
    let mut text = format!(
        "checked {} and {}",
        counted(cluster.policies.len(), "policy", "policies"),
        counted(
            cluster.pods.len() + cluster.workloads.len(),
            "pod or workload",
            "pods and workloads"
        ),
    );
    let skipped: u32 = cluster.skipped.values().sum();
    if skipped > 0 {
        let kinds: Vec<&str> = cluster.skipped.keys().map(String::as_str).take(5).collect();
        let more = if cluster.skipped.len() > kinds.len() {
            ", ..."
        } else {
            ""
        };
        text += &format!(
            "; {} skipped ({}{more})",
            counted(
                usize::try_from(skipped).unwrap_or(usize::MAX),
                "object of another kind",
                "objects of other kinds"
            ),
            kinds.join(", ")
        );
    }
    match problems {
        "" => text + ": no problems",
        _ => text + ": " + problems,
    }
}

fn counted(count: usize, one: &str, many: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {many}"),
    }
}
