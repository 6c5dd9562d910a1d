//! `policyc explain`: why a request is let through or refused; or, with a code alone, the page of a
//! diagnostic.

use std::io::{Write, stdout};

use anyhow::bail;
use clap::ValueEnum;
use policyc::{
    compile::compile,
    diagnostic::Code,
    explain::{
        arguments::{RequestArgs, in_arguments},
        explain,
    },
};

use super::{
    Outcome,
    sources::{CatchAll, SourceArgs},
};

/// Explains a verdict, or a diagnostic by its code
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  policyc explain -f manifests/ --from default/frontend --to default/backend --port 80 \\
      --method GET --path /api/v1/data
  policyc explain -f manifests/ --from sa:default/frontend --to default/backend --port 5432
  policyc explain -f manifests/ --mesh mesh.yaml --from 192.0.2.7 --to default/backend --port 80 \\
      --header authorization=\"Bearer $TOKEN\" --ext-authz opa=deny --now 2026-01-01T00:00:00Z
  policyc explain P114")]
pub struct Args {
    /// Code of a diagnostic, such as P114
    #[arg(conflicts_with_all = ["files", "from", "to", "port"], required_unless_present = "files")]
    code: Option<String>,

    /// Manifests: a file, a folder with *.yaml, *.yml and *.json, or `-` for standard input
    #[arg(short = 'f', long = "file", value_name = "PATH", requires_all = ["from", "to", "port"])]
    files: Vec<String>,

    /// MeshConfig, plain or as Istio's ConfigMap
    #[arg(long, value_name = "FILE")]
    mesh: Option<std::path::PathBuf>,

    /// What a DENY rule without from, to and when means
    #[arg(long, value_enum, default_value_t = CatchAll::DenyAll)]
    catch_all_deny: CatchAll,

    /// Key set for a jwksUri; repeatable
    #[arg(long, value_name = "URI=FILE")]
    jwks: Vec<String>,

    #[command(flatten)]
    request: RequestArgs,

    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    Human,
    Json,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    if let Some(code) = &args.code {
        return page(code);
    }
    let request = args.request.request().map_err(anyhow::Error::msg)?;
    let sources = SourceArgs {
        files: args.files.clone(),
        mesh: args.mesh.clone(),
        catch_all_deny: args.catch_all_deny,
        jwks: args.jwks.clone(),
    };
    let loaded = match sources.load() {
        Ok(loaded) => loaded,
        Err(outcome) => return Ok(outcome),
    };
    let program = compile(&loaded, args.catch_all_deny.into(), &sources.key_sets()?)?;
    let now = args.request.now.map_or_else(super::time::clock, Ok)?;
    match explain(&program, &loaded.cluster, &request, now) {
        Ok(explanation) => {
            match args.format {
                Format::Human => write!(stdout(), "{explanation}")?,
                Format::Json => {
                    writeln!(stdout(), "{}", serde_json::to_string_pretty(&explanation)?)?;
                }
            }
            Ok(Outcome::Good)
        }
        Err(why) => {
            eprintln!("policyc: {}", in_arguments(why));
            Ok(Outcome::Bad)
        }
    }
}

fn page(code: &str) -> anyhow::Result<Outcome> {
    let Some(code) = Code::parse(code) else {
        let known: Vec<&str> = Code::all().map(Code::as_str).collect();
        bail!("there is no code `{code}`; known: {}", known.join(" "));
    };
    write!(stdout(), "{}", code.explanation())?;
    Ok(Outcome::Good)
}
