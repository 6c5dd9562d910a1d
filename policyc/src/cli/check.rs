//! `policyc check`: errors and lints, nothing written.

use std::io::{Write, stdout};

use clap::ValueEnum;
use policyc::{diagnostic, lint, report};

use super::{
    Outcome,
    sources::{SourceArgs, outcome, summary, underline},
};

/// Checks manifests: errors and lints, nothing is written
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  policyc check -f manifests/
  kubectl get authorizationpolicies,pods,services -A -o yaml | policyc check -f -
  policyc check -f manifests/ --deny-warnings --format json

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
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    Human,
    Json,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let (loaded, mut found) = args.sources.read();
    let mut labels = Vec::new();
    // With an error, what a lint would say may be wrong.
    if !diagnostic::any_error(&found) {
        match lint::check(&loaded, args.sources.catch_all_deny.into()) {
            Ok((lints, program)) => {
                found.extend(lints);
                labels = report::labels(&program);
            }
            Err(error) => found.push(lint::unresolved(&loaded, &error)),
        }
    }
    let outcome = outcome(&found, args.deny_warnings);
    match args.format {
        Format::Json => {
            let json = diagnostic::json(&found, &loaded.sources);
            writeln!(stdout(), "{json}")?;
        }
        Format::Human => {
            underline(&found, &loaded);
            if !labels.is_empty() {
                writeln!(stdout(), "{}", report::Table(&labels))?;
            }
            writeln!(stdout(), "{}", account(&loaded.cluster, &summary(&found)))?;
        }
    }
    // The process ends here, and its memory with it.
    std::mem::forget(loaded);
    Ok(outcome)
}

/// What was read, in one line.
fn account(cluster: &policyc::cluster::Cluster, problems: &str) -> String {
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
