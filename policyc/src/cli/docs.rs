//! Every command line of `policyc` in the documentation is one that the parser takes.

use std::{fs, path::Path};

use clap::CommandFactory;

use super::Cli;

/// Documents with command lines, and how many of ours each has at least: a line that is not found is
/// not tested.
const DOCUMENTS: [(&str, usize); 3] = [
    ("../README.md", 20),
    ("../enforcer/MIGRATION.md", 5),
    ("../enforcer/TRUST.md", 4),
];

/// Words of the lines in fenced blocks that call a program, directly or in an agent's container.
fn lines(text: &str, program: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut fenced = false;
    let joined = text.replace("\\\n", " ");
    for line in joined.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let Some(command) = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# ")) else {
            continue;
        };
        if !fenced {
            continue;
        }
        // What follows is said about the line.
        let command = command.split(" # ").next().unwrap_or_default();
        // `status | monitor` are two commands, written as one.
        let mut words: Vec<String> = command
            .split_whitespace()
            .take_while(|word| !["|", "<", ">", "&&"].contains(word))
            .map(|word| word.trim_matches(['"', '\'']).to_owned())
            .collect();
        if let Some(inside) = words.iter().position(|word| word == "--") {
            words.drain(..=inside);
        }
        if words.first().is_some_and(|word| word == program) {
            found.push(words);
        }
    }
    found
}

#[test]
fn every_command_line_of_the_documentation_parses() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, least) in DOCUMENTS {
        let text = fs::read_to_string(here.join(name)).expect("it is part of the repository");
        let lines = lines(&text, "policyc");
        assert!(lines.len() >= least, "{name} has {} lines", lines.len());
        for words in lines {
            let parsed = Cli::command().try_get_matches_from(&words);
            if let Err(error) = parsed {
                panic!("{name}: `{}`: {error}", words.join(" "));
            }
        }
    }
}
