use std::{fs, path::Path as FilePath};

use super::positions;
use crate::{
    diagnostic::{Path, Step},
    read::{split, value::Value, yaml},
};

/// Each value with its span as text, in the order of the document.
fn spans(text: &str) -> Vec<String> {
    let value = yaml::read(text).expect("YAML").0;
    let mut found = Vec::new();
    walk(&value, &mut Path::default(), &mut |path, _| {
        found.push(text[positions(text).find(path, false)].to_owned());
    });
    found
}

fn walk(value: &Value, path: &mut Path, each: &mut dyn FnMut(&Path, &Value)) {
    each(path, value);
    match value {
        Value::List(items) => {
            for (i, item) in items.iter().enumerate() {
                path.0
                    .push(Step::Index(u32::try_from(i).expect("few items")));
                walk(item, path, each);
                path.0.pop();
            }
        }
        Value::Map(entries) => {
            for (key, value) in entries {
                path.0.push(Step::Key(key.text.clone()));
                walk(value, path, each);
                path.0.pop();
            }
        }
        _ => {}
    }
}

#[test]
fn scalars_of_every_style_are_found() {
    let text = "a: 'it''s'  # note\nb: \"x\\ty\"\nc: |\n  - block: 1\n\nd: >-\n  folded\ne: one\n  two\nf: &x -5\ng: *x\nh: !!str 7\ni:\n";
    assert_eq!(
        spans(text)[1..],
        [
            "'it''s'",
            "\"x\\ty\"",
            "|",
            ">-",
            "one",
            "-5",
            "*x",
            "7",
            ""
        ],
    );
    assert_eq!(
        spans("[\"a\":1, [], {}, 'b']")[1..],
        ["\"a\"", "1", "[", "{", "'b'"]
    );
}

#[test]
fn items_without_a_value_have_a_place_of_their_own() {
    let text = "a:\n-\n- - x\n  - [y]\n-\n- [z]";
    let value = yaml::read(text).expect("YAML").0;
    let positions = positions(text);
    let mut starts = Vec::new();
    walk(&value, &mut Path::default(), &mut |path, _| {
        starts.push(positions.walk(path).0.map(|node| node.value.start));
    });
    assert_eq!(
        starts,
        [0, 3, 4, 7, 9, 15, 16, 20, 23, 24].map(Some),
        "each is behind its dash"
    );
}

#[test]
fn what_an_alias_stands_for_is_where_its_anchor_is() {
    let text = "a: &x {k: v}\nb: *x\nc: [*x, w]\n";
    assert_eq!(spans(text)[1..], ["a", "v", "b", "v", "c", "k", "v", "w"]);
}

#[test]
fn a_bracket_that_closes_at_the_margin_loses_nothing() {
    let text = "metadata: {\n  name: d\n}\nspec: {\n  \"on\": [no]\n}\n";
    assert_eq!(spans(text)[1..], ["metadata", "d", "spec", "\"on\"", "no"]);
}

#[test]
fn every_document_of_the_tests_has_all_its_positions() {
    let crate_root = FilePath::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<_> = ["tests", "examples"].map(|f| crate_root.join(f)).into();
    let (mut documents, mut values) = (0, 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|e| e != "yaml") {
                continue;
            }
            let text = fs::read_to_string(&path).expect("a text");
            for part in split::documents(&text) {
                let text = &text[part];
                // Of equal keys a value keeps the first, and a position is that of the last.
                let Some((value, _)) = yaml::read(text).ok().filter(|(_, f)| f.is_empty()) else {
                    continue;
                };
                documents += 1;
                let positions = positions(text);
                walk(&value, &mut Path::default(), &mut |at, value| {
                    values += 1;
                    let (node, whole) = positions.walk(at);
                    assert!(whole, "{}: {at} has no position", path.display());
                    let span = node.map(|node| node.value.clone()).unwrap_or_default();
                    if let Value::String(written) = value
                        && !written.contains(['\n', '"', '\''])
                        && !text[span.clone()].starts_with(['*', '|', '>'])
                        && !text[span.clone()].contains('\\')
                    {
                        let there = text[span].trim_matches(['"', '\'']);
                        assert_eq!(there, written, "{}: {at}", path.display());
                    }
                });
            }
        }
    }
    assert!(
        documents > 200 && values > 5_000,
        "{documents} and {values}"
    );
}
