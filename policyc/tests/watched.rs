//! After any sequence of edits, what is kept in memory comes to what a fresh reading would.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use policyc::{
    diagnostic::{self, Diagnostic},
    lint,
    options::CatchAllDeny,
    read::{self, Input, Loaded, Watched},
};
use proptest::{collection::vec, prelude::*, sample::select};

/// Texts that files may hold: good, warned about, wrong, twice the same object, several in one, not
/// UTF-8, lists, JSON.
fn texts() -> Vec<Vec<u8>> {
    let policy = |name: &str, rest: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: a}}\nspec:\n{rest}"
        )
    };
    let workload = |name: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: a}}\nspec: {{template: {{metadata: {{labels: {{app: {name}}}}}, spec: {{containers: [{{name: c, ports: [{{containerPort: 80, name: http}}]}}]}}}}}}\n"
        )
    };
    let allow = policy(
        "allow",
        "  selector: {matchLabels: {app: web}}\n  rules:\n  - from: [{source: {principals: [cluster.local/ns/a/sa/x]}}]\n",
    );
    let deny = policy("deny", "  action: DENY\n  rules: [{}]\n");
    let wrong = policy("wrong", "  action: BLOCK\n");
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n";
    let json = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"a"},"spec":{"selector":{"app":"web"},"ports":[{"port":80,"name":"http"}]}}"#;
    let mut texts: Vec<Vec<u8>> = [
        String::new(),
        format!("{allow}---\n{}", workload("web")),
        format!("{deny}---\n{allow}"),
        format!("# moved down\n\n{allow}"),
        format!("{}---\n{}", workload("web"), workload("db")),
        format!("{allow}---\n{allow}"),
        format!("{wrong}---\n{deny}"),
        wrong,
        deny,
        list.into(),
        json.into(),
        "a: [".into(),
        "a: 1\na: 2\n".into(),
    ]
    .into_iter()
    .map(String::into_bytes)
    .collect();
    texts.push(b"a: \xff".to_vec());
    texts
}

#[derive(Clone, Debug)]
enum Edit {
    Write(&'static str, usize),
    Remove(&'static str),
    /// As editors save: a new file takes the place of the old one.
    Replace(&'static str, usize),
    Rename(&'static str, &'static str),
}

const FILES: [&str; 6] = [
    "a.yaml",
    "b.yml",
    "c.json",
    "sub/d.yaml",
    "sub/e.yaml",
    "notes.txt",
];

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let file = || select(&FILES[..]);
    let text = || 0..texts().len();
    let edit = prop_oneof![
        4 => (file(), text()).prop_map(|(file, text)| Edit::Write(file, text)),
        2 => (file(), text()).prop_map(|(file, text)| Edit::Replace(file, text)),
        1 => file().prop_map(Edit::Remove),
        1 => (file(), file()).prop_map(|(from, to)| Edit::Rename(from, to)),
    ];
    vec(edit, 1..12)
}

fn make(folder: &Path, edit: &Edit) {
    let texts = texts();
    // What is not there can be neither removed nor renamed, and that is no edit.
    match edit {
        Edit::Write(file, text) => {
            fs::write(folder.join(file), &texts[*text]).expect("it can be done")
        }
        Edit::Remove(file) => drop(fs::remove_file(folder.join(file))),
        Edit::Replace(file, text) => {
            fs::write(folder.join("saved"), &texts[*text]).expect("it can be done");
            fs::rename(folder.join("saved"), folder.join(file)).expect("it can be done");
        }
        Edit::Rename(from, to) => drop(fs::rename(folder.join(from), folder.join(to))),
    }
}

/// What a watcher would tell of an edit.
fn touched(folder: &Path, edit: &Edit) -> BTreeSet<PathBuf> {
    let files = match edit {
        Edit::Write(file, _) | Edit::Remove(file) => vec![*file],
        Edit::Replace(file, _) => vec!["saved", file],
        Edit::Rename(from, to) => vec![*from, *to],
    };
    files.into_iter().map(|file| folder.join(file)).collect()
}

/// Everything that a user gets to see, and the cluster.
fn outcome((loaded, mut found): (Loaded, Vec<Diagnostic>)) -> (String, String) {
    if !diagnostic::any_error(&found) {
        found.extend(lint::lint(&loaded, CatchAllDeny::DenyAll).expect("it can be done"));
    }
    let c = &loaded.cluster;
    let names = format!(
        "{:?} {:?} {:?} {:?}",
        c.policies
            .iter()
            .map(|p| (&p.namespace, &p.name, &p.rules))
            .collect::<Vec<_>>(),
        c.workloads
            .iter()
            .map(|w| (&w.name, &w.template))
            .collect::<Vec<_>>(),
        c.services.iter().map(|s| &s.name).collect::<Vec<_>>(),
        c.skipped,
    );
    (
        diagnostic::json(&found, &loaded.sources)
            + &diagnostic::human(&found, &loaded.sources, false),
        names,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn after_any_edits_the_outcome_is_that_of_a_fresh_check(
        edits in edits(),
        mesh in any::<bool>(),
        // Whether somebody tells of the changed files, or they must be found.
        told in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().expect("it can be done");
        fs::create_dir(folder.path().join("sub")).expect("it can be done");
        fs::write(folder.path().join("a.yaml"), &texts()[1]).expect("it can be done");
        let mesh_file = folder.path().join("mesh.conf");
        fs::write(&mesh_file, "trustDomain: cluster.local\n").expect("it can be done");
        let mesh = mesh.then_some(mesh_file);
        // The second input is a file of the first: it is read once.
        let inputs = vec![
            Input::Path(folder.path().into()),
            Input::Path(folder.path().join("sub/d.yaml")),
        ];
        let mut watched = Watched::new(inputs.clone(), mesh.clone()).expect("it can be done");
        watched.refresh(&BTreeSet::new());
        for edit in &edits {
            make(folder.path(), edit);
            let paths = match told {
                true => touched(folder.path(), edit),
                false => BTreeSet::new(),
            };
            watched.refresh(&paths);
            let fresh = outcome(read::load(&inputs, mesh.as_deref()));
            prop_assert_eq!(outcome(watched.load()), fresh, "after {:?}", edit);
        }
    }
}

#[test]
fn what_did_not_change_is_not_read_again() {
    let folder = tempfile::tempdir().expect("it can be done");
    let file = folder.path().join("a.yaml");
    fs::write(&file, &texts()[1]).expect("it can be done");
    let mut watched =
        Watched::new(vec![Input::Path(folder.path().into())], None).expect("it can be done");
    let nobody = BTreeSet::new();
    assert!(watched.refresh(&nobody), "the first time all is new");
    assert!(!watched.refresh(&nobody), "nothing happened");
    fs::write(&file, &texts()[3]).expect("it can be done");
    let other = BTreeSet::from([folder.path().join("b.txt")]);
    assert!(!watched.refresh(&other), "what is told of is another file");
    assert!(watched.refresh(&BTreeSet::from([file])), "it was told of");
    assert!(!watched.refresh(&nobody), "and it is known");
}

#[test]
fn standard_input_cannot_be_watched() {
    let inputs = vec![Input::Path(PathBuf::from(".")), Input::Stdin];
    assert!(Watched::new(inputs, None).is_none());
}
