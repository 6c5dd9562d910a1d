//! `policyc inspect`: what a bundle holds, and the table that a node makes of it.

use std::{
    fs,
    io::{Write, stdout},
    path::PathBuf,
};

use anyhow::Context;
use policyc::{
    bundle, inspect,
    inventory::Inventory,
    link::{self, Local, NodeView},
    report::with_workloads,
};

use super::{
    Outcome,
    sources::{InventoryArgs, load},
};

/// Prints a bundle's policies, and the table that a node links from it
///
/// The table is made with the inventory that the bundle was compiled with, or with the one that -f
/// gives.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  policyc inspect bundle.bin
  policyc inspect bundle.bin -f inventory/ --node node-1")]
pub struct Args {
    /// The bundle
    bundle: PathBuf,

    #[command(flatten)]
    inventory: InventoryArgs,

    /// Link for the pods of this node; default all pods
    #[arg(long, value_name = "NAME")]
    node: Option<String>,

    /// Lines of each map that are printed
    #[arg(long, default_value_t = 50, value_name = "N")]
    lines: usize,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let name = args.bundle.display();
    let bytes = fs::read(&args.bundle).with_context(|| format!("cannot read {name}"))?;
    let read = bundle::read(&bytes).and_then(|b| Ok((b, bundle::read_inventory(&bytes)?)));
    let (bundle, mut inventory) = match read {
        Ok(read) => read,
        Err(error) => {
            eprintln!("policyc: {name}: {error}");
            return Ok(Outcome::Bad);
        }
    };
    let mut out = stdout().lock();
    write!(out, "{}", inspect::program(&bundle, args.lines))?;
    if !args.inventory.files.is_empty() {
        inventory = match load(&args.inventory) {
            Ok(loaded) => Inventory::of(&loaded.cluster),
            Err(outcome) => return Ok(outcome),
        };
    }
    if inventory.is_empty() {
        writeln!(
            out,
            "\nno table: the bundle was compiled without pods and workloads; give some with -f"
        )?;
        return Ok(Outcome::Good);
    }
    // The inventory says who is where; what the mesh is was decided when the bundle was compiled.
    let cluster = inventory.into_cluster(bundle.program.mesh.clone());
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
