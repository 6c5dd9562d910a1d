//! What a file says, and that the documentation says the same as the parser.

use clap::CommandFactory;

use super::*;
use crate::cli::Cli;

fn parse(file: &str, arguments: &[&str]) -> Result<ArgMatches, String> {
    let name = format!("enforcer-config-{}-{}.yaml", std::process::id(), number());
    let path = std::env::temp_dir().join(name);
    fs::write(&path, file).expect("a file of its own");
    let mut all: Vec<OsString> = vec!["enforcer".into(), "run".into()];
    all.push(format!("--config={}", path.display()).into());
    all.extend(arguments.iter().map(OsString::from));
    let command = command(Cli::command(), &all);
    fs::remove_file(&path).expect("it is still there");
    let command = command.map_err(|error| crate::chain(&error))?;
    command
        .try_get_matches_from(all)
        .map_err(|error| error.to_string())
}

/// A number that no other call has.
fn number() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn value(matches: &ArgMatches, id: &str) -> Vec<String> {
    let run = matches.subcommand_matches(RUN).expect("it was parsed");
    let raw = run.get_raw(id).into_iter().flatten();
    raw.map(|value| value.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_file_gives_what_the_command_line_does_not() {
    let file = "bundle: /b.bin\ninventory: [/one, /two]\nmode: audit\ncapacity: 1000000\n\
                no-proxy: true\nexclude-namespace: [a, team=b]\n";
    let matches = parse(file, &["--mode", "enforce"]).expect("all of it is known");
    assert_eq!(value(&matches, "bundle"), ["/b.bin"]);
    assert_eq!(value(&matches, "inventory"), ["/one", "/two"]);
    assert_eq!(
        value(&matches, "mode"),
        ["enforce"],
        "the command line counts more"
    );
    assert_eq!(value(&matches, "capacity"), ["1000000"]);
    assert_eq!(value(&matches, "no_proxy"), ["true"]);
    assert_eq!(value(&matches, "exclude_namespace"), ["a", "team=b"]);
    let effective = effective(&matches, &Cli::command());
    assert_eq!(
        effective["mode"],
        json!({"value": "enforce", "from": "command line"})
    );
    assert_eq!(effective["bundle"]["value"], "/b.bin");
    assert_eq!(effective["no-proxy"]["value"], "true");
}

/// The configurations that are shipped: of the base, and of the component with a bundle.
#[test]
fn what_is_deployed_is_what_the_agent_understands() {
    for (file, pointer, source) in [
        ("base/config.yaml", "data", "cluster"),
        ("components/bundle/kustomization.yaml", "patches", "bundle"),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("deploy")
            .join(file);
        let text = fs::read_to_string(&path).expect("it is part of the repository");
        let yaml: serde_yaml::Value = serde_yaml::from_str(&text).expect("YAML");
        let text = match &yaml[pointer] {
            serde_yaml::Value::Mapping(data) => data["config.yaml"].clone(),
            patches => {
                let patch = patches[0]["patch"].as_str().expect("a patch");
                let steps: serde_yaml::Value = serde_yaml::from_str(patch).expect("YAML");
                steps[0]["value"].clone()
            }
        };
        let matches = parse(text.as_str().expect("a text"), &[]);
        let matches = matches.unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(value(&matches, "policy_source"), [source], "{file}");
        assert_eq!(value(&matches, "kube"), ["true"], "{file}");
    }
}

#[test]
fn what_a_file_must_not_say_is_an_error_that_names_it() {
    let whole = "bundle: b\ninventory: i\n";
    for (file, why) in [
        ("modus: audit\n", "no option `modus`"),
        ("config: other.yaml\n", "no option `config`"),
        ("help: true\n", "no option `help`"),
        ("mode: [audit]\n", "`mode` must be a text or a number"),
        ("no-proxy: 1\n", "`no-proxy` must be true or false"),
        ("inventory: []\n", "not empty"),
        ("inventory: {a: b}\n", "`inventory` must be"),
        ("mode: audit\nmode: enforce\n", "duplicate"),
        ("- mode\n", "no YAML mapping"),
        ("mode: sometimes\n", "invalid value 'sometimes'"),
        ("pod-cidr: here\n", "invalid value 'here'"),
    ] {
        let said = parse(
            &format!("{file}{}", if file.starts_with('-') { "" } else { whole }),
            &[],
        );
        // A duplicate of a key in `whole` is not what is meant.
        let file_alone = parse(file, &[]);
        let said = match file.starts_with("inventory") {
            true => file_alone,
            false => said,
        };
        let said = said.expect_err(file);
        assert!(said.contains(why), "{file} should say `{why}`: {said}");
    }
    let missing = [
        OsString::from("enforcer"),
        "run".into(),
        "--config".into(),
        "/nonexistent/file".into(),
    ];
    let error = command(Cli::command(), &missing).expect_err("there is none");
    assert!(error.to_string().contains("/nonexistent/file"));
}

#[test]
fn every_option_of_run_has_its_variable() {
    let command = Cli::command();
    let run = command.find_subcommand(RUN).expect("it is there");
    for arg in options(run) {
        let long = arg.get_long().unwrap_or_default();
        let expected = format!("ENFORCER_{}", long.to_uppercase().replace('-', "_"));
        let found = arg.get_env().map(|env| env.to_string_lossy().into_owned());
        assert_eq!(found, Some(expected), "--{long}");
        assert!(arg.get_help().is_some(), "--{long} says what it is");
    }
}

#[test]
fn the_documentation_is_what_the_parser_knows() {
    let command = Cli::command();
    let run = command.find_subcommand(RUN).expect("it is there");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONFIGURATION.md");
    let text = fs::read_to_string(&path).expect("it is part of the repository");
    let begin = text.find("| flag").expect("it has a table");
    let expected = format!("{}{}", &text[..begin], table(run));
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &expected).expect("the repository can be written");
    } else {
        assert_eq!(
            text, expected,
            "run this test with BLESS=1 to write it anew"
        );
    }
}
