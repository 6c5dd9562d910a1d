//! The sides of a comparison: a bundle, manifests, or manifests as a git revision has them.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use policyc::{
    bundle,
    cluster::Cluster,
    compile::compile,
    diagnostic::{self, Severity},
    inventory::Inventory,
    ir::Program,
    lint,
    options::CatchAllDeny,
    read::{self, Input},
};

use super::{
    Outcome,
    sources::{outcome, underline},
};

/// A side that was read.
pub struct Side {
    pub program: Program,
    pub cluster: Cluster,
}

/// What sides of manifests are read with.
pub struct With<'a> {
    /// MeshConfig of manifests; a bundle has its own.
    pub mesh: Option<&'a str>,
    pub catch_all_deny: CatchAllDeny,
    pub key_sets: &'a BTreeMap<String, String>,
    /// Manifests that say who is where, on both sides.
    pub inventory: &'a [String],
}

/// Reads one side. What is wrong with it is printed, and its outcome returned instead.
///
/// # Errors
/// What cannot be read at all.
pub fn side(spec: &str, with: &With<'_>) -> Result<Result<Side, Outcome>> {
    if let Some(bytes) = bundle_bytes(spec)? {
        return of_bundle(spec, &bytes, with);
    }
    let mut inputs = inputs(spec)?;
    inputs.extend(inventory(with)?);
    let mesh = with.mesh.map(mesh).transpose()?;
    let (loaded, mut found) = read::load_with_mesh(&inputs, mesh.as_ref(), None);
    // Warnings are for `check`: here both sides would say the same again.
    found.retain(|d| d.severity == Severity::Error);
    underline(&found, &loaded);
    match outcome(&found, false) {
        Outcome::Good => {}
        bad => {
            eprintln!("policyc: {spec} has errors: nothing is compared");
            return Ok(Err(bad));
        }
    }
    match compile(&loaded, with.catch_all_deny, with.key_sets) {
        Ok(program) => Ok(Ok(Side {
            program,
            cluster: loaded.cluster,
        })),
        Err(error) => {
            let found = [lint::unresolved(&loaded, &error)];
            underline(&found, &loaded);
            debug_assert!(diagnostic::any_error(&found));
            Ok(Err(Outcome::Bad))
        }
    }
}

fn inventory(with: &With<'_>) -> Result<Vec<Input>> {
    let mut all = Vec::new();
    for spec in with.inventory {
        all.extend(inputs(spec)?);
    }
    Ok(all)
}

/// The file's bytes, where it is a bundle.
fn bundle_bytes(spec: &str) -> Result<Option<Vec<u8>>> {
    if spec == "-" || spec.starts_with(GIT) || !Path::new(spec).is_file() {
        return Ok(None);
    }
    let mut file = fs::File::open(spec).with_context(|| format!("cannot read {spec}"))?;
    let mut bytes = Vec::new();
    let start = bundle::MAGIC.len() as u64;
    let mut read = |most: u64, bytes: &mut Vec<u8>| {
        let read = Read::by_ref(&mut file).take(most).read_to_end(bytes);
        read.with_context(|| format!("cannot read {spec}"))
    };
    read(start, &mut bytes)?;
    if bytes != bundle::MAGIC {
        return Ok(None);
    }
    let most = bundle::PAYLOAD_MAX as u64 + (1 << 20);
    read(most, &mut bytes)?;
    Ok(Some(bytes))
}

fn of_bundle(spec: &str, bytes: &[u8], with: &With<'_>) -> Result<Result<Side, Outcome>> {
    let read = bundle::read(bytes).and_then(|b| Ok((b.program, bundle::read_inventory(bytes)?)));
    let (program, mut remembered) = match read {
        Ok(read) => read,
        Err(error) => {
            eprintln!("policyc: {spec}: {error}");
            return Ok(Err(Outcome::Bad));
        }
    };
    if !with.inventory.is_empty() {
        let (loaded, mut found) = read::load_with_mesh(&inventory(with)?, None, None);
        found.retain(|d| d.severity == Severity::Error);
        underline(&found, &loaded);
        match outcome(&found, false) {
            Outcome::Good => remembered = Inventory::of(&loaded.cluster),
            bad => return Ok(Err(bad)),
        }
    }
    let cluster = remembered.into_cluster(program.mesh.clone());
    Ok(Ok(Side { program, cluster }))
}

/// How a revision of a folder is named: `git:REV:PATH`.
const GIT: &str = "git:";

fn inputs(spec: &str) -> Result<Vec<Input>> {
    match spec.strip_prefix(GIT) {
        Some(rest) => revision(rest),
        None => Ok(vec![Input::from_arg(spec)]),
    }
}

fn mesh(spec: &str) -> Result<Input> {
    match spec.strip_prefix(GIT) {
        None => Ok(Input::Path(PathBuf::from(spec))),
        Some(rest) => {
            let mut found = revision(rest)?;
            match (found.pop(), found.is_empty()) {
                (Some(one), true) => Ok(one),
                _ => bail!("{spec} is not one file"),
            }
        }
    }
}

/// The manifests of a file or folder as a revision has them.
fn revision(rest: &str) -> Result<Vec<Input>> {
    let (revision, path) = rest
        .split_once(':')
        .ok_or_else(|| anyhow!("`{GIT}{rest}` is not git:REVISION:PATH"))?;
    ensure!(
        !revision.is_empty() && !revision.starts_with('-'),
        "`{revision}` is no git revision"
    );
    let path = if path.is_empty() { "." } else { path };
    let listed = git(&["ls-tree", "-r", "-z", revision, "--", path], &[])?;
    let mut names = Vec::new();
    let mut hashes = String::new();
    for line in listed.split(|b| *b == 0).filter(|line| !line.is_empty()) {
        let line = std::str::from_utf8(line).context("git names a file that is not UTF-8")?;
        // `<mode> <type> <hash>\t<path>`
        let (about, name) = line
            .split_once('\t')
            .context("git ls-tree answers otherwise")?;
        let mut about = about.split(' ');
        let (mode, hash) = (about.next().unwrap_or(""), about.nth(1).unwrap_or(""));
        if name != path && !read::has_manifest_name(Path::new(name)) {
            continue;
        }
        ensure!(
            mode.starts_with("100"),
            "{name} at {revision} is a link or a submodule: name what it stands for"
        );
        names.push(format!("{GIT}{revision}:{name}"));
        hashes += hash;
        hashes.push('\n');
    }
    ensure!(
        !names.is_empty(),
        "{path} holds no *.yaml, *.yml or *.json at {revision}"
    );
    let blobs = git(&["cat-file", "--batch"], hashes.as_bytes())?;
    let mut rest = blobs.as_slice();
    let mut inputs = Vec::with_capacity(names.len());
    for name in names {
        // `<hash> blob <size>\n<contents>\n`
        let other = || anyhow!("git cat-file answers otherwise");
        let end = rest.iter().position(|b| *b == b'\n').ok_or_else(other)?;
        let head = std::str::from_utf8(rest.get(..end).ok_or_else(other)?)?;
        let size: usize = head
            .rsplit(' ')
            .next()
            .unwrap_or("")
            .parse()
            .map_err(|_| other())?;
        let start = end + 1;
        let bytes = rest.get(start..start + size).ok_or_else(other)?.to_vec();
        rest = rest.get(start + size + 1..).ok_or_else(other)?;
        inputs.push(Input::Bytes { name, bytes });
    }
    Ok(inputs)
}

/// Runs git, and gives what it prints.
fn git(arguments: &[impl AsRef<OsStr>], input: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new("git")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run git")?;
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // It answers while it is still being asked: both at once, or each waits for the other.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
        child.wait_with_output()
    });
    let output = output.context("cannot run git")?;
    ensure!(
        output.status.success(),
        "git says: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}
