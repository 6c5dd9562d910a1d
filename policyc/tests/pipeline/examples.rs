//! The examples for pipelines, and the README's commands, run as they are written.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_yaml::Value;

use crate::{ALLOW, WRONG, folder, root};

fn example(name: &str) -> Value {
    let file = root().join("policyc/examples/ci").join(name);
    let text = fs::read_to_string(file).expect("the example is there");
    serde_yaml::from_str(&text).expect("YAML")
}

/// A repository with a base commit, and one policy added since.
fn repository() -> (tempfile::TempDir, String) {
    let folder = folder(&[
        ("policies/allow.yaml", ALLOW),
        ("policies/workloads.yaml", WORKLOADS),
    ]);
    git(folder.path(), &["init", "--quiet"]);
    git(folder.path(), &["add", "policies"]);
    let commit = ["commit", "--quiet", "--message", "base"];
    git(folder.path(), &commit);
    let base = git(folder.path(), &["rev-parse", "HEAD"]);
    let added = ALLOW
        .replace("name: allow", "name: second")
        .replace("sa/web", "sa/cart");
    fs::write(folder.path().join("policies/second.yaml"), added).expect("a file");
    (folder, base.trim().into())
}

const WORKLOADS: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {template: {metadata: {labels: {app: web}}, spec: {serviceAccountName: web, containers: [{name: c, image: i}]}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec: {template: {metadata: {labels: {app: cart}}, spec: {serviceAccountName: cart, containers: [{name: c, image: i}]}}}
";

fn git(folder: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(folder)
        .args(["-c", "user.name=a", "-c", "user.email=a@example.invalid"])
        .args(args)
        .output()
        .expect("git is there");
    assert!(output.status.success(), "git {args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs shell text as a pipeline would, with policyc in the PATH.
fn shell(folder: &Path, script: &str, variables: &[(&str, &str)]) -> Output {
    let policyc = Path::new(env!("CARGO_BIN_EXE_policyc"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path);
    let first = policyc.parent().map(Path::to_path_buf);
    let path = std::env::join_paths(first.into_iter().chain(folders)).expect("a PATH");
    Command::new("bash")
        .args(["-e", "-o", "pipefail", "-c", script])
        .current_dir(folder)
        .env("PATH", path)
        .envs(variables.iter().copied())
        .output()
        .expect("bash is there")
}

fn succeeds(output: &Output, script: &str) {
    assert!(output.status.success(), "{script}\n{output:?}");
}

#[test]
fn the_github_workflow_does_what_it_says() {
    let (folder, base) = repository();
    let workflow = example("github-actions.yaml");
    let steps = workflow["jobs"]["policies"]["steps"]
        .as_sequence()
        .expect("steps");
    let summary = folder.path().join("summary.md");
    let variables = [
        ("GITHUB_RUN_NUMBER", "7"),
        ("GITHUB_STEP_SUMMARY", summary.to_str().expect("UTF-8")),
        ("BASE", base.as_str()),
    ];
    let scripts: Vec<&str> = steps.iter().filter_map(|s| s["run"].as_str()).collect();
    assert_eq!(scripts.len(), 3, "check, compile, what changes");
    for script in scripts {
        succeeds(&shell(folder.path(), script, &variables), script);
    }
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).expect(name);
    assert!(read("policies.sarif").contains("\"version\": \"2.1.0\""));
    assert!(
        read("summary.md").contains("policies"),
        "the summary is shown"
    );
    assert!(read("reachability.html").contains("Changes"));
    // What is uploaded is what the steps made.
    let last = steps.last().expect("a step")["with"]["path"]
        .as_str()
        .expect("paths")
        .to_owned();
    for file in last.lines() {
        assert!(folder.path().join(file).exists(), "{file}");
    }
}

#[test]
fn the_gitlab_job_does_what_it_says() {
    let (folder, base) = repository();
    let job = &example("gitlab-ci.yaml")["policies"];
    let variables = [
        ("CI_PIPELINE_IID", "7"),
        ("CI_MERGE_REQUEST_DIFF_BASE_SHA", base.as_str()),
    ];
    for script in job["script"].as_sequence().expect("a script") {
        let script = script.as_str().expect("text");
        succeeds(&shell(folder.path(), script, &variables), script);
    }
    let artifacts = &job["artifacts"];
    let mut files = vec![artifacts["reports"]["junit"].as_str().expect("a file")];
    files.extend(
        artifacts["paths"]
            .as_sequence()
            .expect("paths")
            .iter()
            .filter_map(Value::as_str),
    );
    for file in files {
        assert!(folder.path().join(file).exists(), "{file}");
    }
}

#[test]
fn a_wrong_policy_stops_both_pipelines_and_still_tells_where() {
    let (folder, _) = repository();
    fs::write(folder.path().join("policies/wrong.yaml"), WRONG).expect("a file");
    for (script, report) in [
        (
            example("github-actions.yaml")["jobs"]["policies"]["steps"][1]["run"].clone(),
            "policies.sarif",
        ),
        (
            example("gitlab-ci.yaml")["policies"]["script"][0].clone(),
            "policies.xml",
        ),
    ] {
        let script = script.as_str().expect("text");
        let output = shell(folder.path(), script, &[]);
        assert_eq!(output.status.code(), Some(1), "{script}");
        let report = fs::read_to_string(folder.path().join(report)).expect("a report");
        assert!(report.contains("policies/wrong.yaml") && report.contains("P101"));
    }
}

/// The framework itself need not be there: the hook's entry and arguments are what it runs.
#[test]
fn the_commit_hook_refuses_a_wrong_policy() {
    let hooks = fs::read_to_string(root().join(".pre-commit-hooks.yaml")).expect("hooks");
    let hooks: Value = serde_yaml::from_str(&hooks).expect("YAML");
    let config = &example("pre-commit-config.yaml")["repos"][0]["hooks"][0];
    let hook = &hooks[0];
    assert_eq!(hook["id"], config["id"], "the example names the hook");
    let words = |list: &Value| -> String {
        let list = list.as_sequence().expect("a list").iter();
        list.filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
    };
    let (folder, _) = repository();
    let entry = hook["entry"].as_str().expect("an entry");
    for arguments in [words(&hook["args"]), words(&config["args"])] {
        let script = format!("{entry} {arguments}");
        succeeds(&shell(folder.path(), &script, &[]), &script);
    }
    fs::write(folder.path().join("policies/wrong.yaml"), WRONG).expect("a file");
    let script = format!("{entry} {}", words(&config["args"]));
    assert_eq!(shell(folder.path(), &script, &[]).status.code(), Some(1));
}

/// Every command of the README's section on pipelines.
#[test]
fn the_readme_commands_work() {
    let readme = fs::read_to_string(root().join("README.md")).expect("a README");
    let section = readme
        .split("\n## ")
        .find(|s| s.starts_with("In a pipeline"));
    let section = section.expect("a section on pipelines");
    let block = section
        .split("```console\n")
        .nth(1)
        .and_then(|s| s.split("```").next());
    let mut script = String::new();
    for line in block.expect("commands").lines() {
        let command = line.strip_prefix("$ ").unwrap_or(line);
        let command = command.split("  #").next().unwrap_or_default().trim_end();
        // It waits for changes until it is told to end.
        let command = match command.contains("--watch") {
            true => format!("timeout --signal=INT 2 {command}"),
            false => command.to_owned(),
        };
        script += &format!("{command}\n");
    }
    assert!(script.lines().count() >= 6, "{script}");
    let (folder, _) = repository();
    fs::create_dir(folder.path().join("base")).expect("a folder");
    fs::copy(
        folder.path().join("policies/workloads.yaml"),
        folder.path().join("base/w.yaml"),
    )
    .expect("a copy");
    fs::copy(
        folder.path().join("policies/allow.yaml"),
        folder.path().join("unsaved.yaml"),
    )
    .expect("a copy");
    for command in script
        .lines()
        .filter(|line| !line.starts_with("cargo xtask"))
    {
        let output = shell(folder.path(), command, &[]);
        // Ctrl-C ends it with the last outcome, and `timeout` has its own word for that.
        let ended = [Some(0), command.contains("timeout").then_some(124)];
        assert!(
            ended.contains(&output.status.code()),
            "{command}\n{output:?}"
        );
    }
}
