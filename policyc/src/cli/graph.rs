//! `policyc graph`: who may reach whom, as DOT or as a page.

use std::{
    collections::BTreeMap,
    fs,
    io::{Write, stdout},
    path::{Path, PathBuf},
};

use anyhow::Context;
use policyc::{
    bundle,
    cluster::Cluster,
    compile::compile,
    graph::{Reach, compare, dot, page},
    inventory::Inventory,
    ir::Program,
    read,
};

use super::{
    Outcome,
    files::replace,
    sources::{SourceArgs, outcome, print},
};

/// Draws who may reach whom, as DOT or as a page for a browser
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  policyc graph -f manifests/ | dot -Tsvg > reach.svg
  policyc graph -f manifests/ --html reach.html
  policyc graph -f manifests/ --html change.html --old last-release/

The page is one file that loads nothing else. Differences from --old are per source, destination and
port; where userspace judges before and after, its rules are compared as they are written.")]
pub struct Args {
    #[command(flatten)]
    sources: SourceArgs,

    /// Write one self-contained page there instead of DOT to standard output
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// What to draw differences from: manifests, or a bundle with its inventory; repeatable
    #[arg(long, value_name = "PATH")]
    old: Vec<String>,
}

pub fn run(args: &Args) -> anyhow::Result<Outcome> {
    let loaded = match args.sources.load() {
        Ok(loaded) => loaded,
        Err(outcome) => return Ok(outcome),
    };
    let key_sets = args.sources.key_sets()?;
    let program = compile(&loaded, args.sources.catch_all_deny.into(), &key_sets)?;
    let old = match old(args, &key_sets)? {
        Ok(old) => old,
        Err(outcome) => return Ok(outcome),
    };
    let reach = Reach::new(&program, &loaded.cluster);
    let old = old
        .as_ref()
        .map(|(program, cluster)| Reach::new(program, cluster));
    let (reach, old) = match (reach, old.transpose()) {
        (Ok(reach), Ok(old)) => (reach, old),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("policyc: {error}");
            return Ok(Outcome::Bad);
        }
    };
    match &args.html {
        None => {
            let differences = old.map(|old| compare::differences(&old, &reach));
            let text = dot::dot(&reach, &differences.unwrap_or_default());
            stdout().write_all(text.as_bytes())?;
        }
        Some(file) => {
            let text = page::page(&reach, old.as_ref())?;
            replace(file, text.as_bytes())
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    Ok(Outcome::Good)
}

type Side = (Program, Cluster);

/// The old side: one bundle, or manifests.
fn old(
    args: &Args,
    key_sets: &BTreeMap<String, String>,
) -> anyhow::Result<Result<Option<Side>, Outcome>> {
    let [first, others @ ..] = args.old.as_slice() else {
        return Ok(Ok(None));
    };
    if others.is_empty() && is_bundle(Path::new(first)) {
        let bytes = fs::read(first).with_context(|| format!("cannot read {first}"))?;
        let read = bundle::read(&bytes).and_then(|b| Ok((b, bundle::read_inventory(&bytes)?)));
        return Ok(match read {
            Ok((bundle, inventory)) if inventory.is_empty() => {
                let _ = bundle;
                eprintln!(
                    "policyc: {first} was compiled without pods and workloads, so it says nothing about who reaches whom: give the manifests"
                );
                Err(Outcome::Bad)
            }
            Ok((bundle, inventory)) => {
                let cluster = Inventory::into_cluster(inventory, bundle.program.mesh.clone());
                Ok(Some((bundle.program, cluster)))
            }
            Err(error) => {
                eprintln!("policyc: {first}: {error}");
                Err(Outcome::Bad)
            }
        });
    }
    let inputs: Vec<read::Input> = args.old.iter().map(|a| read::Input::from_arg(a)).collect();
    let (loaded, found) = read::load(&inputs, args.sources.mesh.as_deref());
    print(&found, &loaded);
    match outcome(&found, false) {
        Outcome::Good => {}
        outcome => return Ok(Err(outcome)),
    }
    let program = compile(&loaded, args.sources.catch_all_deny.into(), key_sets)?;
    Ok(Ok(Some((program, loaded.cluster))))
}

fn is_bundle(path: &Path) -> bool {
    use std::io::Read;
    let mut start = [0; bundle::MAGIC.len()];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == bundle::MAGIC
}
