//! What the README says in numbers and tables is what the code says.

use std::{fs, path::Path};

use tests::hygiene::{Packets, markdown, rows};

/// Written into the README instead of compared with it.
const RENEW: &str = "RENEW_README";
const BEGIN: &str =
    "<!-- hygiene: `RENEW_README=1 cargo test -p tests --test readme` writes this -->\n";
const END: &str = "<!-- /hygiene -->\n";

fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests lie in the repository")
}

#[test]
fn the_hygiene_matrix_is_the_table_that_is_tested() {
    let path = root().join("README.md");
    let readme = fs::read_to_string(&path).expect("the README lies at the root");
    let marked = readme
        .split_once(BEGIN)
        .and_then(|(before, rest)| Some((before, rest.split_once(END)?)));
    let Some((before, (shown, after))) = marked else {
        panic!("the README has no part between these lines:\n{BEGIN}{END}");
    };
    let wanted = format!("\n{}\n", markdown());
    if std::env::var_os(RENEW).is_some() {
        fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}"))
            .expect("it can be written");
        return;
    }
    assert_eq!(
        shown, wanted,
        "the README's matrix is out of date: {RENEW}=1 cargo test -p tests --test readme"
    );
}

#[test]
fn rows_that_only_a_network_shows_name_a_test_that_exists() {
    let folder = root().join("tests/tests/live");
    let mut sources = String::new();
    for entry in fs::read_dir(&folder).expect("the live tests") {
        let path = entry.expect("a file").path();
        if path.is_dir() {
            continue; // parts of a test
        }
        sources += &fs::read_to_string(path).expect("a source file");
    }
    for row in rows() {
        if let Packets::Live(test) = row.packets {
            let defined = format!("#[test]\nfn {test}() {{");
            assert!(
                sources.contains(&defined),
                "`{}`: no test {test}",
                row.packet
            );
        }
    }
}

#[test]
fn rows_stay_short_enough_to_be_read() {
    let rows = rows();
    assert!(rows.len() <= 40, "{} rows are too many", rows.len());
    for line in markdown().lines() {
        assert!(line.chars().count() <= 140, "too wide: {line}");
    }
}
