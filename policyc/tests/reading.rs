//! Files, folders and texts that are unusual, hostile or huge: read as kubectl reads them, or
//! refused with a place, before they take memory.

use std::fs;

use policyc::{
    ast::Action,
    diagnostic::{Code, Diagnostic, any_error},
    read::{Input, Loaded, load, load_str},
};

const POLICY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: deny
spec:
  action: DENY
  rules:
  - {}
";

fn codes(found: &[Diagnostic]) -> Vec<Code> {
    found.iter().map(|d| d.code).collect()
}

#[track_caller]
fn accepted(name: &str, text: &str) -> Loaded {
    let (loaded, found) = load_str(name, text, None);
    assert!(found.is_empty(), "must be accepted: {found:?}");
    loaded
}

/// One error of this code at this line and column.
#[track_caller]
fn refused(name: &str, text: &str, code: Code, line: usize, column: usize) {
    let (loaded, found) = load_str(name, text, None);
    assert_eq!(codes(&found), [code], "{found:?}");
    assert!(any_error(&found), "an error, so that nothing is compiled");
    let place = loaded
        .sources
        .place(found[0].at.document, &found[0].at.path, false);
    let place = place.expect("a place in the text");
    assert_eq!((place.line, place.column), (line, column));
}

#[test]
fn line_ends_marks_and_separators_do_not_matter() {
    let plain = accepted("a.yaml", POLICY).cluster.policies;
    assert_eq!(plain.len(), 1);
    assert_eq!(plain[0].action, Action::Deny);
    assert_eq!(
        plain[0].namespace, "default",
        "a policy without a namespace is in `default`"
    );
    let crlf = POLICY.replace('\n', "\r\n");
    let variants = [
        format!("\u{feff}{POLICY}"),
        crlf.clone(),
        format!("# a comment\n---\n{POLICY}---\n# nothing\n---\n"),
        format!("---\r\n{crlf}...\r\n"),
        format!("--- # policies\n{POLICY}"),
    ];
    for text in variants {
        let rules = accepted("a.yaml", &text).cluster.policies.remove(0).rules;
        assert_eq!(rules, plain[0].rules, "the same policy in {text:?}");
    }
}

#[test]
fn columns_count_characters_and_lines_count_through_documents() {
    let text = format!(
        "{POLICY}---\r\nkind: Pod\r\napiVersion: v1\r\nmetadata: {{labels: {{é: ü, x: 1}}, name: p}}\r\n"
    );
    refused("a.yaml", &text, Code::NotAString, 12, 30);
}

#[test]
fn json_is_read_alone_in_a_row_and_as_a_list() {
    let one = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}"#;
    let two = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"b"}}"#;
    for (name, text) in [
        ("a.json", format!("{one}\n{two}\n")),
        ("a.yaml", format!("{one}\n---\n{two}")),
        (
            "a.json",
            format!(r#"{{"apiVersion":"v1","kind":"List","items":[{one},{two}]}}"#),
        ),
    ] {
        let loaded = accepted(name, &text);
        let names: Vec<&String> = loaded.cluster.namespaces.keys().collect();
        assert_eq!(names, ["a", "b"]);
    }
    accepted("empty.json", "\n");
}

#[test]
fn json_mistakes_have_places() {
    let duplicate = "{\"apiVersion\":\"v1\",\n \"kind\":\"Namespace\",\n \"metadata\":{\"name\":\"a\",\"name\":\"b\"}}";
    let (loaded, found) = load_str("a.json", duplicate, None);
    assert_eq!(codes(&found), [Code::DuplicateKey]);
    let place = loaded
        .sources
        .place(found[0].at.document, &found[0].at.path, true);
    let place = place.expect("a place");
    assert_eq!((place.line, place.column), (3, 25), "the second of the two");
    refused("a.json", "{\"kind\": }", Code::Syntax, 1, 10);
    let escaped = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"\ud83d\ude00\"}{","labels":{"a":1}}}"#;
    refused("a.json", escaped, Code::NotAString, 1, 85);
}

#[test]
fn hostile_texts_are_refused() {
    refused("a.yaml", &"[".repeat(1 << 19), Code::TooDeep, 1, 128);
    refused("a.json", &"[".repeat(8 << 20), Code::TooDeep, 1, 128);
    refused("a.yaml", &"- ".repeat(100_000), Code::TooDeep, 1, 257);
    refused(
        "a.yaml",
        &format!("x: {}", "y".repeat(100 << 20)),
        Code::TooLarge,
        1,
        1,
    );
    refused("a.yaml", &"{a: ".repeat(1_000), Code::TooDeep, 1, 513);
    let mut nested = String::new();
    for depth in 0..400 {
        nested += &format!("{}a:\n", " ".repeat(depth));
    }
    refused("a.yaml", &nested, Code::TooDeep, 129, 129);
}

#[test]
fn open_brackets_take_no_time_and_many_values_no_memory() {
    let begun = std::time::Instant::now();
    let open = format!("a: {}", "[".repeat(100_000));
    refused("a.yaml", &open, Code::TooDeep, 1, 1_004);
    assert!(begun.elapsed().as_secs() < 5, "they are counted first");
    let many = format!("a: {{\n{}}}\n", "b,\n".repeat(4_100_000));
    refused("a.yaml", &many, Code::TooLarge, 1, 1);
}

#[test]
fn a_bracket_that_closes_at_the_margin_hides_no_word() {
    let text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {\n  \"name\": \
                \"d\"\n}\nspec: {\n  \"rules\": [{\"to\": [{\"operation\": {\"methods\": [on], \
                \"ports\": [\"80\"]}}]}]\n}\n";
    refused("a.yaml", text, Code::NotAString, 7, 48);
}

#[test]
fn a_lone_carriage_return_hides_no_document() {
    let text = format!("# a comment\n{POLICY}").replace('\n', "\r");
    let policies = accepted("a.yaml", &text).cluster.policies;
    assert_eq!(policies.len(), 1, "libyaml ends the comment there");
}

#[test]
fn a_document_that_is_null_is_passed_over() {
    let text = format!("null\n---\n~\n---\n{POLICY}");
    assert_eq!(accepted("a.yaml", &text).cluster.policies.len(), 1);
}

#[test]
fn what_follows_json_is_json_or_a_comment() {
    let one = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}"#;
    accepted("a.yaml", &format!("{one} # fine"));
    for name in ["a.yaml", "a.json"] {
        refused(name, &format!("{one} garbage"), Code::Syntax, 1, 64);
    }
}

#[test]
fn a_mesh_is_configured_once() {
    let mesh = "trustDomain: a\n---\ntrustDomain: b\n";
    let (loaded, found) = load_str("a.yaml", POLICY, Some(mesh));
    assert_eq!(codes(&found), [Code::MeshValue]);
    let place = loaded
        .sources
        .place(found[0].at.document, &found[0].at.path, false);
    assert!(place.is_some_and(|p| p.line == 3), "the second one");
}

#[test]
fn folders_are_searched_in_order_and_files_read_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("a file");
    };
    write("b/second.yml", &POLICY.replace("deny", "second"));
    write("a.yaml", POLICY);
    write("c.json", "{}");
    write("notes.txt", "not: [yaml");
    write("..data/a.yaml", POLICY);
    let folder_input = Input::Path(folder.path().into());
    let file_input = Input::Path(folder.path().join("a.yaml"));
    let (loaded, found) = load(&[file_input, folder_input], None);
    assert_eq!(
        codes(&found),
        [Code::NotAnObject],
        "only c.json is wrong: {found:?}"
    );
    let names: Vec<&str> = loaded
        .cluster
        .policies
        .iter()
        .map(|p| p.name.as_str())
        .collect();
    assert_eq!(names, ["deny", "second"]);
    assert_eq!(loaded.sources.files().count(), 3);
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let input = |name: &str| Input::Path(folder.path().join(name));
    let (_, found) = load(&[input("missing.yaml")], None);
    assert_eq!(codes(&found), [Code::CannotRead]);
    let (_, found) = load(&[input(".")], None);
    assert_eq!(
        codes(&found),
        [Code::CannotRead],
        "a folder without manifests"
    );
    fs::write(folder.path().join("latin.yaml"), b"a: 1\nname: caf\xe9\n").expect("a file");
    let (loaded, found) = load(&[input("latin.yaml")], None);
    assert_eq!(codes(&found), [Code::NotUtf8]);
    let place = loaded
        .sources
        .place(found[0].at.document, &found[0].at.path, false);
    assert!(
        place.is_some_and(|p| (p.line, p.column) == (2, 10)),
        "the byte itself"
    );
    let (_, found) = load(&[], Some(&folder.path().join("mesh.yaml")));
    assert_eq!(
        codes(&found),
        [Code::CannotRead],
        "a MeshConfig that is not there"
    );
}

#[test]
fn duplicates_name_both_places_across_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["a.yaml", "b.yaml"] {
        fs::write(folder.path().join(name), format!("# {name}\n{POLICY}")).expect("a file");
    }
    let (loaded, found) = load(&[Input::Path(folder.path().into())], None);
    assert_eq!(codes(&found), [Code::DuplicateObject]);
    assert!(
        found[0].message.contains("a.yaml:2"),
        "{}",
        found[0].message
    );
    let place = loaded
        .sources
        .place(found[0].at.document, &found[0].at.path, false);
    assert!(place.is_some_and(|p| p.file.ends_with("b.yaml") && p.line == 5));
}

#[test]
fn a_large_list_reads_as_its_objects_do() {
    let pod = |i: usize| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: pod-{i:05}\n  annotations:\n    note: |\n      - \
             {}\nspec:\n  serviceAccountName: sa\n",
            "text ".repeat(100)
        )
    };
    let pods: Vec<String> = (0..3_000).map(pod).collect();
    let item = |pod: &String| format!("- {}\n", pod.trim_end().replace('\n', "\n  "));
    let items: String = pods.iter().map(item).collect();
    let list = format!("apiVersion: v1\nitems:\n{items}kind: List\nmetadata: {{}}\n");
    assert!(list.len() > 1 << 20, "large enough to be read item by item");
    let (listed, found) = load_str("list.yaml", &list, None);
    assert!(found.is_empty(), "{found:?}");
    let alone = accepted("pods.yaml", &pods.join("---\n"));
    let names = |loaded: &Loaded| -> Vec<(String, String)> {
        let pods = loaded.cluster.pods.iter();
        pods.map(|p| (p.name.clone(), format!("{:?}", p.template)))
            .collect()
    };
    assert_eq!(names(&listed), names(&alone));
    assert_eq!(
        listed.sources.len(),
        3_000,
        "each item was a document of its own"
    );
    // A mistake deep inside has its place in the file.
    let wrong = list.replacen("serviceAccountName: sa", "serviceAccountName: 7", 1);
    refused("list.yaml", &wrong, Code::NotAString, 11, 25);
    // A typed list gives its items their kind.
    let bare: String = (0..60_000)
        .map(|i| format!("- metadata:\n    name: n{i}\n"))
        .collect();
    let typed = format!("apiVersion: v1\nkind: NamespaceList\nitems:\n{bare}");
    assert_eq!(accepted("n.yaml", &typed).cluster.namespaces.len(), 60_000);
}
