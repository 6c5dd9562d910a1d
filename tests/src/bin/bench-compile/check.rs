//! `policyc check` after one file of a large tree was changed: what an author waits for.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
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
    Ok(figures)
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
