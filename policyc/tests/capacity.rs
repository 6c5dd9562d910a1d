//! What `policyc compile` says of sizes, and what it refuses for their sake.

use std::{
    fs,
    process::{Command, Output},
};

use tempfile::TempDir;

const SHOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shop/manifests");

fn compile(folder: &TempDir, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_policyc"))
        .current_dir(folder.path())
        .args(["compile", "-f", SHOP, "-o", "b.bin"])
        .args(arguments)
        .output()
        .expect("policyc should start")
}

#[test]
fn a_gate_refuses_and_writes_nothing() {
    let folder = TempDir::new().expect("a folder");
    let output = compile(&folder, &["--format", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let bytes = report["table_bytes"].as_u64().expect("a number");
    let share = report["kernel_share"].as_f64().expect("a number");
    assert_eq!(
        bytes,
        report["table"]["words"].as_u64().expect("a number") * 4
    );
    assert!(
        share > 0.0 && share < 1.0,
        "the cart asks for paths: {share}"
    );
    fs::remove_file(folder.path().join("b.bin")).expect("it was written");
    let exactly = bytes.to_string();
    let less = (bytes - 1).to_string();
    for (arguments, code, words) in [
        (["--max-table-bytes", &exactly], 0, ""),
        (
            ["--max-table-bytes", &less],
            1,
            "more than --max-table-bytes",
        ),
        (["--min-kernel-share", "0.01"], 0, ""),
        (["--min-kernel-share", "100%"], 1, "needs method, path"),
        (["--min-kernel-share", "200"], 2, "between 0 and 100 %"),
    ] {
        let output = compile(&folder, &arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "`{words}`: {said}");
        let written = fs::remove_file(folder.path().join("b.bin")).is_ok();
        assert_eq!(written, code == 0, "{arguments:?}");
    }
}

/// Every limit that the README publishes is told, with the same number.
#[test]
fn every_limit_of_the_readme_is_told() {
    let folder = TempDir::new().expect("a folder");
    let output = compile(&folder, &["--format", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let told: Vec<(String, u64)> = report["limits"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|limit| {
            let what = limit["what"].as_str().expect("a text").to_owned();
            (what, limit["limit"].as_u64().expect("a number"))
        })
        .collect();
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"));
    let readme = readme.expect("the README is part of the repository");
    let (_, limits) = readme.split_once("\n## Limits\n").expect("it has limits");
    let rows: Vec<&str> = limits
        .lines()
        .skip_while(|line| !line.starts_with('|'))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .collect();
    let mut published = Vec::new();
    for row in &rows {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let (what, limit) = (
            cells.next().expect("a name"),
            cells.next().expect("a limit"),
        );
        // Two limits in one row, or one; digits in groups of three; "16 Mi" of words.
        for limit in limit
            .split(" / ")
            .map(|l| l.replace("16 Mi words, 64 MB", "16777216"))
        {
            let digits: String = limit.chars().filter(char::is_ascii_digit).collect();
            published.push((what, digits.parse::<u64>().expect("a number")));
        }
    }
    assert_eq!(published.len(), told.len(), "{published:?}\n{told:?}");
    for ((what, limit), (told, of)) in published.iter().zip(&told) {
        assert_eq!(limit, of, "`{what}` is told as `{told}`");
    }
    let human = compile(&folder, &[]);
    let human = String::from_utf8_lossy(&human.stdout);
    for (what, _) in &told {
        assert!(human.contains(what.as_str()), "`{what}`: {human}");
    }
    assert!(
        human.contains("rules that cost most\nshop/cart rule 0 ("),
        "{human}"
    );
}
