//! `policyc explain CODE`: the page of a diagnostic.

use std::io::{Write, stdout};

use anyhow::bail;
use policyc::diagnostic::Code;

use super::Outcome;

/// Explains a diagnostic by its code
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  policyc explain P114")]
pub struct Args {
    /// Code of a diagnostic, such as P114
    code: String,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let Some(code) = Code::parse(&args.code) else {
        let known: Vec<&str> = Code::all().map(Code::as_str).collect();
        bail!(
            "there is no code `{}`; known: {}",
            args.code,
            known.join(" ")
        );
    };
    write!(stdout(), "{code}: {}", code.page())?;
    Ok(Outcome::Good)
}
