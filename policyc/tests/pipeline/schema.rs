//! The schema for editors takes what the parser takes, and refuses what is wrong in form.

use std::{fs, path::Path};

use jsonschema::Validator;
use serde_json::{Value, json};

use crate::{folder, output};

fn validator() -> Validator {
    let folder = folder(&[]);
    let text = output(folder.path(), &["schema"], "", 0);
    let schema: Value = serde_json::from_str(&text).expect("JSON");
    jsonschema::meta::validate(&schema).expect("a schema of draft 7");
    jsonschema::validator_for(&schema).expect("a schema")
}

/// Documents of a file, as JSON.
fn documents(text: &str) -> Vec<Value> {
    use serde::Deserialize;
    serde_yaml::Deserializer::from_str(text)
        .filter_map(|d| serde_yaml::Value::deserialize(d).ok())
        .filter_map(|value| serde_json::to_value(value).ok())
        .filter(|value| !value.is_null())
        .collect()
}

#[test]
fn what_the_parser_accepts_the_schema_does_too() {
    let validator = validator();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut seen = 0;
    for entry in fs::read_dir(tests.join("validation")).expect("the corpus") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if !name.starts_with("accepted-") {
            continue;
        }
        for document in documents(&fs::read_to_string(&path).expect("UTF-8")) {
            seen += 1;
            let errors: Vec<String> = validator
                .iter_errors(&document)
                .map(|e| format!("{}: {e}", e.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{name}: {errors:?}");
        }
    }
    assert!(seen > 10, "the corpus was read");
}

/// A field that is not known, at every level that has fields, and other mistakes of form.
#[test]
fn mistakes_of_form_are_refused() {
    let validator = validator();
    let policy = |spec: Value| json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": {"name": "a"}, "spec": spec});
    let tokens = |rule: Value| json!({"apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication", "metadata": {"name": "a"}, "spec": {"jwtRules": [rule]}});
    let good = policy(json!({
        "selector": {"matchLabels": {"app": "web"}}, "action": "DENY",
        "rules": [{"from": [{"source": {"namespaces": ["a"]}}], "to": [{"operation": {"ports": ["80"]}}],
                   "when": [{"key": "request.headers[x]", "notValues": ["y"]}]}],
    }));
    assert!(validator.is_valid(&good), "{:?}", validator.validate(&good));
    assert!(validator.is_valid(&tokens(
        json!({"issuer": "a", "fromHeaders": [{"name": "x"}]})
    )));
    assert!(
        validator.is_valid(&json!({"apiVersion": "v1", "kind": "Pod", "x": 1})),
        "other kinds pass"
    );
    let mut version = good.clone();
    version["apiVersion"] = "security.istio.io/v2".into();
    for (wrong, what) in [
        (version, "a version that is not there"),
        (policy(json!({"rule": []})), "rules"),
        (policy(json!({"action": "BLOCK"})), "action"),
        (policy(json!({"selector": {"app": "web"}})), "selector"),
        (
            policy(json!({"selector": {"matchLabels": {"app": "w*"}}})),
            "a star in a selector",
        ),
        (
            policy(json!({"selector": {}, "targetRefs": []})),
            "both attachments",
        ),
        (
            policy(json!({"targetRef": {"kind": "Pod", "name": "a"}})),
            "kind of a target",
        ),
        (policy(json!({"rules": [{"form": []}]})), "from"),
        (policy(json!({"rules": [{"from": []}]})), "an empty from"),
        (
            policy(json!({"rules": [{"from": [{"namespaces": ["a"]}]}]})),
            "source is left out",
        ),
        (
            policy(json!({"rules": [{"from": [{"source": {}}]}]})),
            "an empty source",
        ),
        (
            policy(json!({"rules": [{"from": [{"source": {"namespace": ["a"]}}]}]})),
            "namespaces",
        ),
        (
            policy(json!({"rules": [{"to": [{"operation": {"ports": [80]}}]}]})),
            "a port as a number",
        ),
        (
            policy(json!({"rules": [{"when": [{"key": "request.header[x]", "values": ["y"]}]}]})),
            "key",
        ),
        (
            policy(json!({"rules": [{"when": [{"key": "source.ip"}]}]})),
            "no values",
        ),
        (tokens(json!({"isuer": "a"})), "issuer"),
        (
            tokens(json!({"issuer": "a", "fromHeaders": [{"prefix": "x"}]})),
            "name of a header",
        ),
    ] {
        assert!(!validator.is_valid(&wrong), "{what}: {wrong}");
    }
}
