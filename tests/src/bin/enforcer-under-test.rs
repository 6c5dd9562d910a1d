//! The agent's command line, built with the tests so that they always run the agent that they were
//! compiled against.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match enforcer::cli::run(enforcer::cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", enforcer::chain(&*error));
            ExitCode::from(2)
        }
    }
}
