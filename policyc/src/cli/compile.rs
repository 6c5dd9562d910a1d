//! `policyc compile`: manifests to a bundle, and what it came to.

use std::{
    io::{Write, stdout},
    path::PathBuf,
};

use anyhow::Context;
use clap::ValueEnum;
use policyc::{
    bundle,
    capacity::RuleCost,
    compile::compile,
    diagnostic,
    inventory::Inventory,
    lint,
    report::{self, Report},
};

use super::{
    Outcome,
    files::replace,
    percent,
    sources::{SourceArgs, print},
};

/// Compiles policies to a bundle
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  policyc compile -f manifests/ -o bundle.bin
  policyc compile -f manifests/ -o bundle.bin --generation 42 --format json
  policyc compile -f manifests/ -o bundle.bin --max-table-bytes 16000000 --min-kernel-share 90%

The same manifests give the same bytes. On an error nothing is written. Sizes are of the table of the
node that has most pods; a rule's cost is what the table would be smaller without it.")]
pub struct Args {
    #[command(flatten)]
    sources: SourceArgs,

    /// Where the bundle goes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,

    /// Number of this state of the policies; 0 is unordered, and refused where signatures are required
    #[arg(long, default_value_t = 0, value_name = "N")]
    generation: u64,

    /// Refuse a table that takes more bytes in a slot
    #[arg(long, value_name = "N")]
    max_table_bytes: Option<usize>,

    /// Refuse a table of which the kernel decides less: 90%, 90 or 0.9
    #[arg(long, value_name = "P", value_parser = percent::share)]
    min_kernel_share: Option<f64>,

    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    Human,
    Json,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let loaded = match args.sources.load() {
        Ok(loaded) => loaded,
        Err(outcome) => return Ok(outcome),
    };
    let catch_all_deny = args.sources.catch_all_deny.into();
    let found = match lint::faithful(&loaded, catch_all_deny) {
        Ok(found) => found,
        Err(error) => vec![lint::unresolved(&loaded, &error)],
    };
    print(&found, &loaded);
    if diagnostic::any_error(&found) {
        return Ok(Outcome::Bad);
    }
    let program = compile(&loaded, catch_all_deny, &args.sources.key_sets()?)?;
    let report = match report::report(&program, &loaded.cluster) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("policyc: {error}");
            return Ok(Outcome::Bad);
        }
    };
    let refusals = refusals(args, &report);
    if !refusals.is_empty() {
        for refusal in refusals {
            eprintln!("policyc: {refusal}");
        }
        return Ok(Outcome::Bad);
    }
    let inventory = Inventory::of(&loaded.cluster);
    let bytes = bundle::write(&program, &inventory, args.generation)?;
    replace(&args.output, &bytes)
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    let mut out = stdout();
    match args.format {
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
        Format::Human => {
            writeln!(out, "{} ({} bytes)", args.output.display(), bytes.len())?;
            write!(out, "{report}")?;
        }
    }
    Ok(Outcome::Good)
}

/// What the caller does not want, with the rules that it is due to.
fn refusals(args: &Args, report: &Report) -> Vec<String> {
    let mut refusals = Vec::new();
    let due = |to: &dyn Fn(&RuleCost) -> usize| {
        let dearest = report
            .costs
            .iter()
            .filter(|cost| to(cost) > 0)
            .max_by_key(|cost| to(cost));
        dearest.map_or(String::new(), |cost| {
            format!(
                "; the rule that costs most is {} rule {}: {}",
                cost.policy, cost.rule, cost.why
            )
        })
    };
    if let Some(most) = args
        .max_table_bytes
        .filter(|most| report.table_bytes > *most)
    {
        refusals.push(format!(
            "the table takes {} bytes, more than --max-table-bytes {most}: nothing is written{}",
            report.table_bytes,
            due(&|cost| cost.classes + cost.rows)
        ));
    }
    if let Some(least) = args
        .min_kernel_share
        .filter(|least| report.kernel_share < *least)
    {
        refusals.push(format!(
            "the kernel decides {} of the cells, less than --min-kernel-share {}: nothing is written{}",
            percent::words(report.kernel_share),
            percent::words(least),
            due(&|cost| cost.asks)
        ));
    }
    refusals
}
