//! The node agent's command line.

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
