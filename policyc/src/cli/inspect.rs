//! `policyc inspect`: what a bundle holds, and, with an inventory, the table that a node makes of it.

use std::{
    fs,
    io::{Write, stdout},
    path::PathBuf,
};

use anyhow::Context;
use policyc::{
    bundle, inspect,
    link::{self, Local, NodeView},
    report::with_workloads,
};

use super::{
    Outcome,
    sources::{Inventory, load},
};

/// Prints a bundle, and with -f the table that a node links from it
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  policyc inspect bundle.bin
  policyc inspect bundle.bin -f inventory/ --node node-1")]
pub struct Args {
    /// The bundle
    bundle: PathBuf,

    #[command(flatten)]
    inventory: Inventory,

    /// Link for the pods of this node; default all pods
    #[arg(long, value_name = "NAME", requires = "files")]
    node: Option<String>,

    /// Lines of each map that are printed
    #[arg(long, default_value_t = 50, value_name = "N")]
    lines: usize,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let name = args.bundle.display();
    let bytes = fs::read(&args.bundle).with_context(|| format!("cannot read {name}"))?;
    let bundle = match bundle::read(&bytes) {
        Ok(bundle) => bundle,
        Err(error) => {
            eprintln!("policyc: {name}: {error}");
            return Ok(Outcome::Bad);
        }
    };
    let mut out = stdout().lock();
    write!(out, "{}", inspect::program(&bundle, args.lines))?;
    if args.inventory.files.is_empty() {
        return Ok(Outcome::Good);
    }
    let mut cluster = match load(&args.inventory) {
        Ok(loaded) => loaded.cluster,
        Err(outcome) => return Ok(outcome),
    };
    // The inventory says who is where; what the mesh is was decided when the bundle was compiled.
    cluster.mesh = bundle.program.mesh.clone();
    let world = with_workloads(&cluster);
    let local = args.node.clone().map_or(Local::All, Local::Node);
    let node = NodeView {
        local,
        ..NodeView::default()
    };
    match link::link(&bundle.program, &world, &node, &[]) {
        Ok(linked) => {
            write!(
                out,
                "\n{}",
                inspect::table(&bundle.program, &world, &linked, args.lines)
            )?;
            Ok(Outcome::Good)
        }
        Err(error) => {
            eprintln!("policyc: {error}");
            Ok(Outcome::Bad)
        }
    }
}
