//! `policyc schema`: what editors complete and check policies by while they are written.

use std::io::{Write, stdout};

use policyc::ast::schema;

use super::Outcome;

/// Prints a JSON Schema of AuthorizationPolicy and RequestAuthentication, for editors
///
/// It is made from the tables that the parser reads by. Objects of other kinds pass. It knows forms
/// only: `policyc check` knows what they mean.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  policyc schema > istio-policies.schema.json
  # the first line of a manifest, for editors with yaml-language-server
  # yaml-language-server: $schema=istio-policies.schema.json")]
pub struct Args {}

pub fn run(_: &Args) -> anyhow::Result<Outcome> {
    writeln!(stdout(), "{}", serde_json::to_string_pretty(&schema())?)?;
    Ok(Outcome::Good)
}
