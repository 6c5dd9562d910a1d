//! One file a command; this one knows their names and turns outcomes into exit codes.

mod check;
mod compare;
mod compile;
mod completions;
mod diff;
#[cfg(test)]
mod docs;
mod eval;
mod explain;
mod files;
mod flows;
mod graph;
mod inspect;
mod keygen;
mod man;
mod percent;
mod replay;
mod schema;
mod sides;
mod sign;
mod sources;
mod suggest;
mod test;
mod time;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// What a command came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Exit code 0.
    Good,
    /// The policy has errors, or the answer is no: exit code 1.
    Bad,
    /// Wrong use, or something that could not be read or written: exit code 2.
    Failed,
}

#[derive(Parser)]
#[command(
    name = "policyc",
    version,
    about = "Compiles Istio AuthorizationPolicy to a flat decision table",
    after_help = "Exit codes: 0 good, 1 the policy has errors or the answer is no, 2 usage or I/O."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(check::Args),
    Compare(compare::Args),
    Compile(compile::Args),
    Completions(completions::Args),
    Diff(diff::Args),
    Eval(eval::Args),
    Explain(Box<explain::Args>),
    Graph(graph::Args),
    Inspect(inspect::Args),
    Keygen(keygen::Args),
    Replay(replay::Args),
    Sign(sign::Args),
    Suggest(suggest::Args),
    Test(test::Args),
    Man(man::Args),
    Schema(schema::Args),
    Verify(verify::Args),
}

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Check(args) => check::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Compile(args) => compile::run(&args),
        Command::Completions(args) => Ok(completions::run(&args, Cli::command())),
        Command::Diff(args) => diff::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Graph(args) => graph::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Keygen(args) => keygen::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Sign(args) => sign::run(&args),
        Command::Suggest(args) => suggest::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Man(args) => man::run(&args, Cli::command()),
        Command::Schema(args) => schema::run(&args),
        Command::Verify(args) => verify::run(&args),
    };
    match outcome {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Bad) => ExitCode::from(1),
        Ok(Outcome::Failed) => ExitCode::from(2),
        Err(error) => {
            eprintln!("policyc: {error:#}");
            ExitCode::from(2)
        }
    }
}
