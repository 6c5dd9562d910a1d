//! `policyc check` after one file of a large tree was changed, alone and with `--watch`: what an
//! author waits for.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use policyc::{
    lint,
    options::CatchAllDeny,
    read::{Input, Watched},
};
use tests::generate::{Size, cluster, manifests};

use crate::{Figures, median};

const ROUNDS: usize = 5;

/// 10 000 policies, one file each, in a folder for each of 2 000 namespaces.
pub fn measure() -> Result<Figures> {
    let tree = Tree::write()?;
    let program = std::env::current_exe()?.with_file_name("policyc");
    let changed = tree.root.join("team-0007/policy-00007.yaml");
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let text = fs::read_to_string(&changed).context("one of the files")?;
        fs::write(&changed, format!("# change {round}\n{text}"))?;
        let start = Instant::now();
        let status = Command::new(&program)
            .args(["check", "-f"])
            .arg(&tree.root)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .with_context(|| format!("cannot run {}", program.display()))?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        ensure!(status.success(), "the generator writes what is valid");
    }
    let mut figures = Figures::default();
    figures.add("tree_mb", tree.bytes as f64 / 1e6);
    figures.goal("check_ms", median(times), 1_000.0);
    figures.goal("watch_ms", watch(&tree, &changed)?, 180.0);
    Ok(figures)
}

/// The same as `policyc check --watch` does it, from hearing of the change to knowing what is wrong;
/// it waits 20 ms for further changes before.
fn watch(tree: &Tree, changed: &Path) -> Result<f64> {
    let inputs = vec![Input::Path(tree.root.clone())];
    let mut watched = Watched::new(inputs, None).context("folders can be watched")?;
    watched.refresh(&BTreeSet::new());
    let told = BTreeSet::from([changed.to_path_buf()]);
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let text = fs::read_to_string(changed).context("one of the files")?;
        fs::write(changed, format!("# watched {round}\n{text}"))?;
        let start = Instant::now();
        ensure!(watched.refresh(&told), "the change is seen");
        let (loaded, found) = watched.load();
        let checked = lint::check(&loaded, CatchAllDeny::DenyAll)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        ensure!(found.is_empty(), "the generator writes what is valid");
        drop(checked);
    }
    Ok(median(times))
}

/// A tree that is taken away again.
struct Tree {
    root: PathBuf,
    bytes: usize,
}

impl Tree {
    fn write() -> Result<Self> {
        let root = std::env::temp_dir().join(format!("bench-compile-{}", std::process::id()));
        let mut tree = Self { root, bytes: 0 };
        let mut cluster = cluster(Size {
            pods: 0,
            ..Size::LARGE
        });
        for policy in std::mem::take(&mut cluster.policies) {
            let folder = tree.root.join(&policy.namespace);
            let file = folder.join(format!("{}.yaml", policy.name));
            tree.add(
                &file,
                manifests::yaml([manifests::policy(&policy)].into_iter()),
            )?;
        }
        let world = manifests::yaml(manifests::objects(&cluster));
        let file = tree.root.join("world.yaml");
        tree.add(&file, world)?;
        Ok(tree)
    }

    fn add(&mut self, file: &Path, text: String) -> Result<()> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).context("cannot make a folder")?;
        }
        self.bytes += text.len();
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.root) {
            eprintln!("{} is left behind: {error}", self.root.display());
        }
    }
}
