//! The README's walkthrough, command by command.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const HEADING: &str = "### From a folder of YAML to a signed bundle";

/// The commands of the section, each with the exit code that its comment says.
fn commands() -> Vec<(String, i32)> {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md"));
    let readme = readme.expect("the README is part of the repository");
    let (_, section) = readme.split_once(HEADING).expect("it has the walkthrough");
    let (_, block) = section.split_once("```console\n").expect("it has a block");
    let (block, _) = block.split_once("```").expect("the block ends");
    let command = |line: &str| {
        let command = line.strip_prefix("$ ").expect("each line is a command");
        let code = i32::from(command.contains("# exit 1"));
        (command.to_owned(), code)
    };
    block.lines().map(command).collect()
}

fn run(folder: &Path, command: &str) -> Output {
    let built = Path::new(env!("CARGO_BIN_EXE_policyc"));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", built.parent().expect("a folder").display());
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(folder);
    shell.env("PATH", path).output().expect("a shell")
}

#[test]
fn every_command_does_what_it_says() {
    let folder = tempfile::TempDir::new().expect("a folder");
    // What the walkthrough copies, as from the root of the repository.
    fs::create_dir(folder.path().join("policyc")).expect("an empty folder");
    let from = Path::new(ROOT).join("policyc/examples");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(from)
        .arg(folder.path().join("policyc"))
        .status();
    assert!(
        copied.is_ok_and(|status| status.success()),
        "the examples can be copied"
    );
    let commands = commands();
    assert!(
        commands.len() >= 12,
        "{} commands were found",
        commands.len()
    );
    for (command, code) in &commands {
        let output = run(folder.path(), command);
        let said = [&output.stdout[..], &output.stderr]
            .map(String::from_utf8_lossy)
            .concat();
        assert_eq!(output.status.code(), Some(*code), "{command}\n{said}");
    }
    assert!(
        commands.iter().any(|(_, code)| *code == 1),
        "a no is shown, too"
    );
}
