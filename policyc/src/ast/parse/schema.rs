//! A JSON Schema of the two kinds, for editors: made from the tables that the parser reads by, so that
//! a field is known to both or to neither. It knows forms, not meanings: `policyc check` says more.

use serde_json::{Map, Value, json};

use super::{METADATA, attachment, authorization_policy, request_authentication, rule, value};

/// The schema of an AuthorizationPolicy or a RequestAuthentication; it lets objects of other kinds
/// pass, so that it can be given to a whole folder of manifests.
pub fn schema() -> Value {
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Istio AuthorizationPolicy and RequestAuthentication",
        "type": "object",
        "allOf": [
            when_kind("AuthorizationPolicy"),
            when_kind("RequestAuthentication"),
        ],
        "definitions": {
            "AuthorizationPolicy": object(
                "Who may reach the selected workloads.",
                with(METADATA, authorization_policy::SPEC, policy_field),
            ),
            "RequestAuthentication": object(
                "Which tokens are verified at the selected workloads.",
                with(METADATA, request_authentication::SPEC, authentication_field),
            ),
            "strings": {"type": "array", "items": {"type": "string"}},
            "names": {"type": "array", "items": {"type": "string", "minLength": 1}},
            "selector": closed(attachment::SELECTOR, &[], |_| json!({
                "description": "Labels that a pod must carry, each with its whole value.",
                "type": "object",
                "additionalProperties": {
                    "type": "string",
                    "maxLength": attachment::LABEL_BYTES_MAX,
                    "not": {"pattern": "\\*"},
                },
            })),
            "target": target(),
            "rule": closed(rule::RULE, &[], rule_part),
            "source": part(rule::SOURCE),
            "operation": part(rule::OPERATION),
            "condition": condition(),
            "jwtRule": closed(request_authentication::RULE, &[], jwt_field),
        },
    })
}

fn when_kind(kind: &str) -> Value {
    json!({
        "if": {
            "required": ["apiVersion", "kind"],
            "properties": {
                "apiVersion": {"type": "string", "pattern": "^security\\.istio\\.io/"},
                "kind": {"const": kind},
            },
        },
        "then": {"$ref": format!("#/definitions/{kind}")},
    })
}

/// An object with its envelope.
fn object(description: &str, (metadata, spec): (Value, Value)) -> Value {
    json!({
        "description": description,
        "type": "object",
        "required": ["apiVersion", "kind", "metadata"],
        "additionalProperties": false,
        "properties": {
            "apiVersion": {"enum": ["security.istio.io/v1", "security.istio.io/v1beta1"]},
            "kind": {"type": "string"},
            "metadata": metadata,
            "spec": spec,
            "status": {},
        },
    })
}

fn with(metadata: &[&str], spec: &[&str], field: fn(&str) -> Value) -> (Value, Value) {
    let metadata = closed(metadata, &["name"], |key| match key {
        "name" => {
            json!({"type": "string", "maxLength": 253, "pattern": "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"})
        }
        "namespace" => {
            json!({"type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"})
        }
        "labels" | "annotations" => {
            json!({"type": ["object", "null"], "additionalProperties": {"type": ["string", "null"]}})
        }
        _ => json!({}),
    });
    let mut spec = closed(spec, &[], field);
    let both = |a: &str, b: &str| json!({"required": [a, b]});
    spec["not"] = json!({"anyOf": [
        both("selector", "targetRef"), both("selector", "targetRefs"), both("targetRef", "targetRefs"),
    ]});
    // Kubernetes takes a spec that is null for one that is not there.
    (metadata, json!({"anyOf": [{"type": "null"}, spec]}))
}

/// A mapping of these keys and no others.
fn closed(keys: &[&str], required: &[&str], field: impl Fn(&str) -> Value) -> Value {
    let properties: Map<String, Value> = keys
        .iter()
        .map(|key| ((*key).to_owned(), or_null(field(key))))
        .collect();
    let mut schema = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

/// A field whose value is null is as absent as it is to Kubernetes; `check` warns about it.
fn or_null(schema: Value) -> Value {
    match schema.as_object() {
        Some(any) if any.is_empty() => schema,
        _ => json!({"anyOf": [schema, {"type": "null"}]}),
    }
}

fn list(item: &str, at_most: usize) -> Value {
    json!({
        "type": "array",
        "items": {"$ref": format!("#/definitions/{item}")},
        "maxItems": at_most,
    })
}

fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}

fn attachment_field(key: &str) -> Value {
    match key {
        "selector" => json!({"$ref": "#/definitions/selector"}),
        "targetRef" => json!({"$ref": "#/definitions/target"}),
        _ => list("target", attachment::TARGET_REFS_MAX),
    }
}

fn policy_field(key: &str) -> Value {
    match key {
        "action" => json!({
            "description": "ALLOW by default. CUSTOM is asked first, then DENY, then ALLOW; AUDIT decides nothing.",
            "enum": authorization_policy::ACTIONS,
        }),
        "provider" => closed(authorization_policy::PROVIDER, &[], |_| {
            described(
                json!({"type": "string"}),
                "One of the mesh's extensionProviders; CUSTOM alone has one.",
            )
        }),
        "rules" => described(
            list("rule", authorization_policy::RULES_MAX),
            "What the action is for: any rule that matches. An empty rule matches everything; no rule matches nothing.",
        ),
        other => attachment_field(other),
    }
}

fn authentication_field(key: &str) -> Value {
    match key {
        "jwtRules" => list("jwtRule", request_authentication::RULES_MAX),
        other => attachment_field(other),
    }
}

fn target() -> Value {
    let kinds: Vec<&str> = attachment::TARGETS.iter().map(|(_, kind)| *kind).collect();
    closed(
        attachment::TARGET_KEYS,
        &["kind", "name"],
        |key| match key {
            "kind" => json!({"enum": kinds}),
            "name" => {
                json!({"type": "string", "minLength": 1, "maxLength": attachment::TARGET_NAME_BYTES_MAX})
            }
            // It is always the policy's own.
            "namespace" => json!({"enum": [""]}),
            _ => json!({"type": "string"}),
        },
    )
}

fn rule_part(key: &str) -> Value {
    let item = |inner: &str| {
        json!({
            "type": "object",
            "additionalProperties": false,
            "required": [inner],
            "properties": {inner: {"$ref": format!("#/definitions/{inner}")}},
        })
    };
    match key {
        "from" => json!({
            "description": "Sources, of which one must match.",
            "type": "array", "minItems": 1, "maxItems": rule::FROM_MAX, "items": item("source"),
        }),
        "to" => json!({
            "description": "Operations, of which one must match.",
            "type": "array", "minItems": 1, "items": item("operation"),
        }),
        _ => json!({
            "description": "Conditions, which must all hold.",
            "type": "array", "items": {"$ref": "#/definitions/condition"},
        }),
    }
}

/// A source or an operation: lists of strings, of which all that are given must match.
fn part(keys: &[&str]) -> Value {
    let mut schema = closed(keys, &[], |key| {
        let plain = key.strip_prefix("not").unwrap_or(key);
        let (item, text) = match plain.to_ascii_lowercase().as_str() {
            "ports" => (
                json!({"type": "string", "pattern": "^0*[0-9]{1,5}$"}),
                "Ports of the pod, as strings.",
            ),
            "methods" => (json!({"type": "string"}), "HTTP methods, such as GET."),
            "paths" => (
                json!({"type": "string"}),
                "Paths: exact, prefix/*, */suffix, or a template with {*} and {**}.",
            ),
            "hosts" => (
                json!({"type": "string"}),
                "Hosts of HTTP requests; a port is part of them.",
            ),
            "ipblocks" => (
                json!({"type": "string"}),
                "Addresses or CIDR blocks of the connection's peer.",
            ),
            "remoteipblocks" => (
                json!({"type": "string"}),
                "Addresses or CIDR blocks of the client, as X-Forwarded-For tells it.",
            ),
            "principals" => (
                json!({"type": "string"}),
                "Identities: TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, without spiffe://.",
            ),
            "requestprincipals" => (
                json!({"type": "string"}),
                "Verified tokens: ISSUER/SUBJECT.",
            ),
            "namespaces" => (json!({"type": "string"}), "Namespaces of the source."),
            "serviceaccounts" => (
                json!({"type": "string"}),
                "Service accounts: NAMESPACE/NAME, or NAME in the policy's own namespace.",
            ),
            "trustdomains" => (json!({"type": "string"}), "Trust domains of the source."),
            _ => (json!({"type": "string"}), ""),
        };
        let not = if plain == key { "" } else { "Not: " };
        described(
            json!({"type": "array", "items": item}),
            &format!("{not}{text}"),
        )
    });
    schema["minProperties"] = 1.into();
    schema
}

fn condition() -> Value {
    let plain: Vec<&str> = value::CONDITION_KEYS.iter().map(|(key, _)| *key).collect();
    let mut schema = closed(rule::CONDITION, &["key"], |key| match key {
        "key" => json!({
            "description": "The attribute that is compared.",
            "anyOf": [
                {"enum": plain},
                {"type": "string", "pattern": "^request\\.(headers|auth\\.claims)\\[.+\\]$"},
                {"type": "string", "pattern": "^experimental\\.envoy\\.filters\\.[^\\[]*\\[.+\\]$"},
            ],
        }),
        _ => json!({"$ref": "#/definitions/strings"}),
    });
    schema["anyOf"] = json!([{"required": ["values"]}, {"required": ["notValues"]}]);
    schema
}

fn jwt_field(key: &str) -> Value {
    match key {
        "issuer" => described(json!({"type": "string"}), "The `iss` of the tokens."),
        "jwks" => described(
            json!({"type": "string"}),
            "The keys themselves, as a JSON Web Key Set.",
        ),
        "jwksUri" | "jwks_uri" => json!({
            "description": "Where the keys are fetched.",
            "type": "string", "minLength": 1, "maxLength": request_authentication::URI_BYTES_MAX,
        }),
        "outputPayloadToHeader" => json!({"type": "string"}),
        "timeout" => json!({"type": "string"}),
        // kubectl reads these words as booleans, and the YAML that editors speak as strings.
        "forwardOriginalToken" => json!({"anyOf": [
            {"type": "boolean"},
            {"type": "string", "pattern": "^(y|Y|yes|Yes|YES|n|N|no|No|NO|on|On|ON|off|Off|OFF)$"},
        ]}),
        "fromHeaders" => json!({"type": "array", "items": closed(
            request_authentication::FROM_HEADER, &["name"], |key| match key {
                "name" => json!({"type": "string", "minLength": 1}),
                _ => json!({"type": "string"}),
            },
        )}),
        "outputClaimToHeaders" => json!({"type": "array", "items": closed(
            request_authentication::OUTPUT_CLAIM, request_authentication::OUTPUT_CLAIM, |key| match key {
                "header" => json!({"type": "string", "pattern": "^[A-Za-z0-9_-]+$"}),
                _ => json!({"type": "string", "minLength": 1}),
            },
        )}),
        _ => json!({"$ref": "#/definitions/names"}),
    }
}
