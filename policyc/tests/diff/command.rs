//! The command line: sides of every sort, formats, exit codes, and the example of the README.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn policyc(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_policyc"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("policyc runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

const WORLD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: a, labels: {app: web}}\nspec: {serviceAccountName: web, containers: [{name: c, image: i, ports: [{name: http, containerPort: 80}]}]}\nstatus: {podIPs: [{ip: 10.1.0.1}]}\n---\n";

fn policy(name: &str, methods: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: a}}\n\
         spec: {{rules: [{{to: [{{operation: {{methods: [{methods}]}}}}]}}]}}\n"
    )
}

/// A folder with `old.yaml`, `new.yaml` (which lets POST through as well) and `named.yaml` (which
/// says what the old one says).
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (file, policy) in [
        ("old.yaml", policy("x", "GET")),
        ("new.yaml", policy("x", "GET, POST")),
        ("named.yaml", policy("renamed", "GET")),
    ] {
        fs::write(folder.path().join(file), format!("{WORLD}{policy}")).expect("it can be written");
    }
    folder
}

#[test]
fn the_example_of_the_readme_is_what_the_command_prints() {
    let readme = fs::read_to_string(root().join("README.md")).expect("there is one");
    let mut examples = 0;
    for block in readme.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap_or("");
        let Some((command, shown)) = block.split_once('\n') else {
            continue;
        };
        let Some(arguments) = command.strip_prefix("$ policyc diff ") else {
            continue;
        };
        examples += 1;
        let arguments: Vec<&str> = ["diff"]
            .into_iter()
            .chain(arguments.split_whitespace())
            .collect();
        let output = policyc(&root(), &arguments);
        assert_eq!(stdout(&output), shown, "{command}");
    }
    assert_eq!(examples, 1, "the README shows one comparison");
}

#[test]
fn exit_codes_follow_what_was_asked() {
    let folder = folder();
    for (arguments, code) in [
        (&["old.yaml", "new.yaml"][..], 0),
        (&["old.yaml", "named.yaml", "--fail-on", "any"], 0),
        (&["old.yaml", "new.yaml", "--fail-on", "any"], 1),
        (&["old.yaml", "new.yaml", "--fail-on", "widen"], 1),
        (&["old.yaml", "new.yaml", "--fail-on", "narrow"], 0),
        (&["new.yaml", "old.yaml", "--fail-on", "narrow"], 1),
        (&["new.yaml", "old.yaml", "--fail-on", "widen"], 0),
        (&["old.yaml", "gone.yaml"], 2),
        (&["-", "-"], 2),
        (&["old.yaml"], 2),
    ] {
        let all = [&["diff"], arguments].concat();
        let output = policyc(folder.path(), &all);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
    }
    let broken = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec: {rulez: []}\n";
    fs::write(folder.path().join("broken.yaml"), broken).expect("it can be written");
    let output = policyc(folder.path(), &["diff", "old.yaml", "broken.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("rulez") && told.contains("nothing is compared"),
        "{told}"
    );
}

#[test]
fn an_example_is_judged_differently_by_eval() {
    let folder = folder();
    let output = policyc(
        folder.path(),
        &["diff", "old.yaml", "new.yaml", "--format", "json"],
    );
    let diff: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(
        (
            &diff["format"],
            &diff["outcome"],
            &diff["widens"],
            &diff["narrows"]
        ),
        (&1.into(), &"differs".into(), &true.into(), &false.into())
    );
    let one = &diff["differences"][0];
    assert_eq!(one["kind"], "reach");
    assert_eq!(one["change"], "gains");
    assert_eq!(one["destinations"], serde_json::json!(["a/web"]));
    assert_eq!(
        one["operation"]["alternatives"][0][0]["is"],
        serde_json::json!(["POST"])
    );
    assert_eq!(one["after"]["policy"], "a/x");
    let example = serde_json::to_string(&one["example"]).expect("JSON");
    fs::write(folder.path().join("r.jsonl"), example).expect("it can be written");
    let verdict = |file: &str| -> Value {
        let output = policyc(
            folder.path(),
            &[
                "eval",
                "-f",
                file,
                "--requests",
                "r.jsonl",
                "--engine",
                "both",
            ],
        );
        let judged: Value = serde_json::from_str(&stdout(&output)).expect("a line");
        judged["verdict"].clone()
    };
    assert_eq!(verdict("old.yaml"), "deny");
    assert_eq!(verdict("new.yaml"), "allow");
}

#[test]
fn sides_are_bundles_revisions_or_manifests() {
    let folder = folder();
    let in_folder = |program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(folder.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .expect("it runs");
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {output:?}"
        );
    };
    for side in ["old", "new"] {
        let (file, bundle) = (format!("{side}.yaml"), format!("{side}.bin"));
        let output = policyc(folder.path(), &["compile", "-f", &file, "-o", &bundle]);
        assert!(output.status.success(), "{output:?}");
    }
    fs::create_dir(folder.path().join("m")).expect("a folder");
    fs::copy(
        folder.path().join("old.yaml"),
        folder.path().join("m/x.yaml"),
    )
    .expect("a copy");
    fs::write(folder.path().join("m/notes.txt"), "no manifest").expect("it can be written");
    in_folder("git", &["init", "-q"]);
    in_folder("git", &["add", "m"]);
    in_folder(
        "git",
        &[
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@t",
            "commit",
            "-q",
            "-m",
            "m",
        ],
    );
    fs::copy(
        folder.path().join("new.yaml"),
        folder.path().join("m/x.yaml"),
    )
    .expect("a copy");
    let told = |old: &str, new: &str| stdout(&policyc(folder.path(), &["diff", old, new]));
    let expected = told("old.yaml", "new.yaml");
    assert!(
        expected.contains("+ anyone gains POST on any path"),
        "{expected}"
    );
    for (old, new) in [
        ("old.bin", "new.bin"),
        ("old.bin", "new.yaml"),
        ("git:HEAD:m", "m"),
        ("git:HEAD:m/x.yaml", "new.bin"),
    ] {
        assert_eq!(told(old, new), expected, "{old} {new}");
    }
    for bad in ["git:nowhere:m", "git:HEAD:gone", "git:HEAD", "git:--help:m"] {
        let output = policyc(folder.path(), &["diff", bad, "new.yaml"]);
        assert_eq!(output.status.code(), Some(2), "{bad}: {output:?}");
    }
}

#[test]
fn profiles_are_compared() {
    let folder = folder();
    let output = policyc(
        folder.path(),
        &[
            "compare",
            "-f",
            "new.yaml",
            "--profile",
            "sidecar,ambient",
            "--fail-on",
            "narrow",
        ],
    );
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = stdout(&output);
    assert!(
        told.contains(
            "anyone: GET or POST on any path let through by sidecar alone: sidecar a/x rule 0"
        ),
        "{told}"
    );
    let output = policyc(
        folder.path(),
        &[
            "compare",
            "-f",
            "new.yaml",
            "--profile",
            "enforcer,sidecar",
            "--format",
            "json",
        ],
    );
    let diff: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(
        (&diff["old"], &diff["outcome"]),
        (&"enforcer".into(), &"same".into())
    );
    let output = policyc(
        folder.path(),
        &["compare", "-f", "new.yaml", "--profile", "sidecar"],
    );
    assert_eq!(output.status.code(), Some(2));
}
