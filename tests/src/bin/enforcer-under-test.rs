//! The agent's command line, built with the tests so that they always run the agent that they were
//! compiled against.

use std::process::ExitCode;

fn main() -> ExitCode {
    match enforcer::cli::parse().and_then(enforcer::cli::run) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", enforcer::chain(&*error));
            ExitCode::from(2)
        }
    }
}
