//! Runs folders of cases through an engine and compares verdicts: one folder a case, with
//! `policies.yaml`, `cluster.yaml`, `requests.jsonl` (a request a line, each with the expected
//! verdict), and `mesh.yaml` and `options.json` where they matter.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    cluster::Cluster,
    diagnostic::{self, Severity},
    engine,
    options::{CatchAllDeny, Options},
    oracle,
    read::{self, Input},
    request::{Expected, Judgement, Request},
    resolve,
};

/// Seconds since 1970 at which cases are judged: 2026-01-01, so that no case changes with the day.
const NOW: u64 = 1_767_225_600;

/// Something that judges requests.
pub trait Engine {
    /// What the report calls it.
    fn name(&self) -> &str;

    /// Judges one request; the error says why it cannot be judged.
    fn judge(
        &mut self,
        cluster: &Cluster,
        options: &Options,
        request: &Request,
    ) -> Result<Judgement, String>;

    /// Judges the requests of one case, in order.
    fn judge_all(&mut self, case: &Case) -> Vec<Result<Judgement, String>> {
        case.requests
            .iter()
            .map(|request| self.judge(&case.cluster, &case.options, request))
            .collect()
    }
}

/// The naive meaning of policies.
#[derive(Clone, Copy, Debug, Default)]
pub struct Oracle;

impl Engine for Oracle {
    fn name(&self) -> &str {
        "oracle"
    }

    fn judge(
        &mut self,
        cluster: &Cluster,
        options: &Options,
        request: &Request,
    ) -> Result<Judgement, String> {
        oracle::evaluate(cluster, request, options).map_err(|why| why.to_string())
    }
}

/// The compiled table and the requests' engine. Each case is compiled once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tables;

impl Engine for Tables {
    fn name(&self) -> &str {
        "tables"
    }

    fn judge(
        &mut self,
        cluster: &Cluster,
        options: &Options,
        request: &Request,
    ) -> Result<Judgement, String> {
        let mut answers = tables(cluster, options, std::slice::from_ref(request));
        answers
            .pop()
            .unwrap_or_else(|| Err("no answer came back".into()))
    }

    fn judge_all(&mut self, case: &Case) -> Vec<Result<Judgement, String>> {
        tables(&case.cluster, &case.options, &case.requests)
    }
}

fn tables(
    cluster: &Cluster,
    options: &Options,
    requests: &[Request],
) -> Vec<Result<Judgement, String>> {
    let nowhere = |_: &diagnostic::At| (String::new(), 0);
    match resolve::resolve(cluster, options.catch_all_deny, &options.jwks, &nowhere) {
        Ok(program) => engine::judge(&program, cluster, requests, options.now),
        Err(why) => vec![Err(why.to_string()); requests.len()],
    }
}

/// One folder, read.
#[derive(Clone, PartialEq, Debug)]
pub struct Case {
    pub name: String,
    pub cluster: Cluster,
    pub options: Options,
    pub requests: Vec<Request>,
}

/// Why a folder is no case.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    #[error("cannot read `{path}`")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{path}`, line {line}: not a request: {source}")]
    Request {
        path: PathBuf,
        line: usize,
        source: serde_json::Error,
    },
    #[error("`{path}` does not hold options: {source}")]
    Options {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("the manifests of `{path}` have errors:\n{messages}")]
    Manifests { path: PathBuf, messages: String },
    #[error("`{path}` holds no case")]
    Empty { path: PathBuf },
}

/// `options.json` of a case.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CaseOptions {
    #[serde(default)]
    catch_all_deny: CatchAllDeny,
    /// Files of the case's folder, by the `jwksUri` whose key set they hold.
    #[serde(default)]
    jwks: std::collections::BTreeMap<String, String>,
}

impl Case {
    /// Reads a folder.
    pub fn read(folder: &Path) -> Result<Self, CaseError> {
        let inputs = ["policies.yaml", "cluster.yaml"].map(|name| Input::Path(folder.join(name)));
        let mesh = Some(folder.join("mesh.yaml")).filter(|path| path.exists());
        let (loaded, diagnostics) = read::load(&inputs, mesh.as_deref());
        let errors: Vec<String> = diagnostics
            .into_iter()
            .filter(|d| d.severity == Severity::Error)
            .map(|d| format!("{}: {}", d.at.path, d.message))
            .collect();
        if !errors.is_empty() {
            return Err(CaseError::Manifests {
                path: folder.into(),
                messages: errors.join("\n"),
            });
        }
        Ok(Self {
            name: folder
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            cluster: loaded.cluster,
            options: options(folder)?,
            requests: requests(&folder.join("requests.jsonl"))?,
        })
    }
}

/// What came of one case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaseReport {
    pub case: String,
    pub requests: usize,
    /// One sentence for each request that was judged otherwise than expected, or not at all.
    pub failures: Vec<String>,
}

/// What came of a folder of cases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    pub engine: String,
    pub folder: PathBuf,
    pub cases: Vec<CaseReport>,
}

/// Runs every case of a folder, in the order of their names.
pub fn run(folder: &Path, engine: &mut dyn Engine) -> Result<Report, CaseError> {
    let cases = cases(folder)?;
    Ok(Report {
        engine: engine.name().into(),
        folder: folder.into(),
        cases: cases.iter().map(|case| run_case(case, engine)).collect(),
    })
}

/// Reads every case of a folder, in the order of their names.
pub fn cases(folder: &Path) -> Result<Vec<Case>, CaseError> {
    let failed = |source| CaseError::Read {
        path: folder.into(),
        source,
    };
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    if folders.is_empty() {
        return Err(CaseError::Empty {
            path: folder.into(),
        });
    }
    folders.sort();
    folders.iter().map(|folder| Case::read(folder)).collect()
}

/// Runs one case.
pub fn run_case(case: &Case, engine: &mut dyn Engine) -> CaseReport {
    let judgements = engine.judge_all(case);
    let mut failures = Vec::new();
    if judgements.len() != case.requests.len() {
        failures.push(format!("{} answers came back", judgements.len()));
    }
    if case.requests.is_empty() {
        failures.push("there is no request in it".into());
    }
    let pairs = case.requests.iter().zip(&judgements);
    failures.extend(pairs.filter_map(|(request, judgement)| failure(request, judgement)));
    CaseReport {
        case: case.name.clone(),
        requests: case.requests.len(),
        failures,
    }
}

impl Report {
    pub fn requests(&self) -> usize {
        self.cases.iter().map(|case| case.requests).sum()
    }

    /// Requests that were judged otherwise than expected, or not at all.
    pub fn failures(&self) -> usize {
        self.cases.iter().map(|case| case.failures.len()).sum()
    }
}

/// One line a failing case and one a failure, and the total.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed: Vec<&CaseReport> = self
            .cases
            .iter()
            .filter(|case| !case.failures.is_empty())
            .collect();
        for case in &failed {
            writeln!(f, "{}: {} failed", case.case, case.failures.len())?;
            for failure in &case.failures {
                writeln!(f, "  {failure}")?;
            }
        }
        write!(
            f,
            "{}: {} of {} requests as expected, {} of {} cases, in {}",
            self.engine,
            self.requests().saturating_sub(self.failures()),
            self.requests(),
            self.cases.len() - failed.len(),
            self.cases.len(),
            self.folder.display()
        )
    }
}

fn failure(request: &Request, judgement: &Result<Judgement, String>) -> Option<String> {
    let id = &request.id;
    match (judgement, request.expect) {
        (_, None) => Some(format!("{id}: the case expects nothing")),
        (Err(why), Some(_)) => Some(format!("{id}: cannot be judged: {why}")),
        (Ok(judgement), Some(expected)) if judgement.verdict == expected => None,
        (Ok(judgement), Some(expected)) => Some(format!(
            "{id}: expected {}, got {} ({:?}, {})",
            word(expected),
            word(judgement.verdict),
            judgement.reason,
            match (&judgement.policy, judgement.rule) {
                (Some(policy), Some(rule)) => format!("rule {rule} of {policy}"),
                _ => "no rule".into(),
            }
        )),
    }
}

fn word(verdict: Expected) -> &'static str {
    match verdict {
        Expected::Allow => "allow",
        Expected::Deny => "deny",
    }
}

fn options(folder: &Path) -> Result<Options, CaseError> {
    let path = folder.join("options.json");
    let written: CaseOptions = if path.exists() {
        serde_json::from_str(&text(&path)?).map_err(|source| CaseError::Options { path, source })?
    } else {
        CaseOptions::default()
    };
    let mut options = Options {
        now: NOW,
        catch_all_deny: written.catch_all_deny,
        ..Options::default()
    };
    for (uri, file) in written.jwks {
        options.jwks.insert(uri, text(&folder.join(file))?);
    }
    Ok(options)
}

fn requests(path: &Path) -> Result<Vec<Request>, CaseError> {
    text(path)?
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| {
            serde_json::from_str(line).map_err(|source| CaseError::Request {
                path: path.into(),
                line: number + 1,
                source,
            })
        })
        .collect()
}

fn text(path: &Path) -> Result<String, CaseError> {
    fs::read_to_string(path).map_err(|source| CaseError::Read {
        path: path.into(),
        source,
    })
}
