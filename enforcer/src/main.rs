//! The node agent's command line.

mod allocator;

use std::process::ExitCode;

fn main() -> ExitCode {
    allocator::give_back_at_once();
    match enforcer::cli::parse().and_then(enforcer::cli::run) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", enforcer::chain(&*error));
            ExitCode::from(2)
        }
    }
}
