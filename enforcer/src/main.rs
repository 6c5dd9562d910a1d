//! The node agent's command line.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let command = enforcer::cli::Cli::parse();
    match enforcer::cli::run(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", enforcer::chain(&*error));
            ExitCode::from(2)
        }
    }
}
