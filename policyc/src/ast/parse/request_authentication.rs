//! RequestAuthentication: the rules by which tokens are verified.

use super::{
    attachment::attachment,
    envelope, no_dry_run, not_null,
    uri::{self, Problem},
};
use crate::{
    ast::{ClaimToHeader, JwtHeader, JwtRule, RequestAuthentication},
    diagnostic::Code,
    read::{
        duration,
        node::{Node, Reader},
    },
};

pub(super) const SPEC: &[&str] = &["jwtRules", "selector", "targetRef", "targetRefs"];

pub(super) const RULE: &[&str] = &[
    "audiences",
    "forwardOriginalToken",
    "fromCookies",
    "fromHeaders",
    "fromParams",
    "issuer",
    "jwks",
    "jwksUri",
    "jwks_uri",
    "outputClaimToHeaders",
    "outputPayloadToHeader",
    "spaceDelimitedClaims",
    "timeout",
];

pub(super) const FROM_HEADER: &[&str] = &["name", "prefix"];

pub(super) const OUTPUT_CLAIM: &[&str] = &["header", "claim"];

pub(super) const RULES_MAX: usize = 4_096;
pub(super) const URI_BYTES_MAX: usize = 2_048;
const SPLIT_CLAIMS_MAX: usize = 64;

pub(crate) fn request_authentication(
    reader: &mut Reader<'_>,
    object: &Node<'_>,
) -> Option<RequestAuthentication> {
    let meta = envelope(reader, object, "a RequestAuthentication")?;
    let mut authentication = RequestAuthentication {
        document: reader.document,
        object: reader.object.clone(),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        attachment: Default::default(),
        jwt_rules: Vec::new(),
    };
    no_dry_run(reader, object, &meta.annotations, "a RequestAuthentication");
    let Some(spec) = object.get("spec") else {
        return Some(authentication);
    };
    reader.map(&spec)?;
    reader.only_keys(&spec, "the spec of a RequestAuthentication", SPEC);
    authentication.attachment = attachment(reader, &spec);
    if let Some(rules) = spec.get("jwtRules")
        && reader.list(&rules).is_some()
    {
        if rules.items().len() > RULES_MAX {
            reader.error(
                Code::TooMany,
                &rules,
                format!("`jwtRules` has more than {RULES_MAX} items"),
                "split the RequestAuthentication: those that apply to one workload are joined",
            );
        }
        for item in rules.items() {
            if not_null(reader, &item) {
                authentication.jwt_rules.extend(jwt_rule(reader, &item));
            }
        }
    }
    Some(authentication)
}

fn jwt_rule(reader: &mut Reader<'_>, node: &Node<'_>) -> Option<JwtRule> {
    reader.map(node)?;
    let whole = reader.only_keys(node, "a JWT rule", RULE);
    let text = |reader: &mut Reader<'_>, key: &str| {
        let value = reader.field(node, key, Reader::string);
        value.filter(|value| !value.is_empty())
    };
    let rule = JwtRule {
        issuer: text(reader, "issuer").unwrap_or_default(),
        audiences: names(reader, node, "audiences", Code::EmptyValue),
        jwks: text(reader, "jwks"),
        // The field had this other name in early versions, and the schema still has both.
        jwks_uri: text(reader, "jwksUri").or_else(|| text(reader, "jwks_uri")),
        from_headers: from_headers(reader, node),
        from_params: names(reader, node, "fromParams", Code::JwtLocation),
        from_cookies: names(reader, node, "fromCookies", Code::JwtLocation),
        output_payload_to_header: text(reader, "outputPayloadToHeader"),
        output_claim_to_headers: output_claims(reader, node),
        forward_original_token: reader
            .field(node, "forwardOriginalToken", Reader::boolean)
            .unwrap_or(false),
        space_delimited_claims: names(reader, node, "spaceDelimitedClaims", Code::EmptyValue),
        timeout_ms: reader.field(node, "timeout", |r, n| duration(r, n, Code::JwtTimeout)),
    };
    if let Some(list) = node.get("spaceDelimitedClaims")
        && list.items().len() > SPLIT_CLAIMS_MAX
    {
        reader.error(
            Code::TooMany,
            &list,
            format!("`spaceDelimitedClaims` has more than {SPLIT_CLAIMS_MAX} items"),
            "name the claims that rules ask for",
        );
    }
    let empty = |key: &str| node.get(key).is_none_or(|n| n.value.as_str() == Some(""));
    if whole && ["issuer", "jwksUri", "jwks_uri"].into_iter().all(empty) {
        reader.error(
            Code::JwtIssuer,
            node,
            "the rule has neither `issuer` nor `jwksUri`".into(),
            "name the issuer of the tokens",
        );
    }
    check_keys(reader, node, &rule);
    Some(rule)
}

fn check_keys(reader: &mut Reader<'_>, node: &Node<'_>, rule: &JwtRule) {
    // Written is enough, empty or not.
    let written: Vec<Node<'_>> = ["jwksUri", "jwks_uri", "jwks"]
        .into_iter()
        .filter_map(|key| node.get(key))
        .collect();
    if let [first, second, ..] = written.as_slice() {
        reader.error(
            Code::JwksTwice,
            second,
            format!(
                "`{}` and `{}` cannot be set together",
                first.name(),
                second.name()
            ),
            "keep the one that holds the current keys",
        );
    }
    check_uri(reader, node);
    if let Some(jwks) = &rule.jwks {
        let at = node.get("jwks");
        check_jwks(reader, at.as_ref().unwrap_or(node), jwks);
    }
}

/// The field had another name in early versions, and the schema still has both.
fn check_uri(reader: &mut Reader<'_>, node: &Node<'_>) {
    let Some(at) = node.get("jwksUri").or_else(|| node.get("jwks_uri")) else {
        return;
    };
    let Some(uri) = at.value.as_str() else { return };
    let help = "write a URL such as `https://issuer.example/keys`";
    if uri.is_empty() || uri.len() > URI_BYTES_MAX {
        let message = format!("`{}` must have 1 to {URI_BYTES_MAX} bytes", at.name());
        return reader.error(Code::JwksUri, &at, message, help);
    }
    match uri::problem(uri) {
        None => {}
        Some(Problem::Refused(reason)) => {
            let message = format!("`{uri}` cannot be fetched: {reason}");
            reader.error(Code::JwksUri, &at, message, help);
        }
        Some(Problem::Useless(reason)) => {
            let message = format!("nothing can be fetched from `{uri}`: {reason}");
            reader.warning(Code::JwksUri, &at, message, help);
        }
    }
}

/// A key set as RFC 7517 has it: an object with `keys`, or a single key.
fn check_jwks(reader: &mut Reader<'_>, node: &Node<'_>, text: &str) {
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(text);
    let keys = match &parsed {
        Ok(serde_json::Value::Object(set)) => match set.get("keys") {
            Some(serde_json::Value::Array(keys)) => Some(keys.as_slice()),
            Some(_) => None,
            None => Some(std::slice::from_ref(
                parsed.as_ref().unwrap_or(&serde_json::Value::Null),
            )),
        },
        _ => None,
    };
    let Some(keys) = keys else {
        reader.error(
            Code::Jwks,
            node,
            "`jwks` is not a JSON Web Key Set".into(),
            "write the JSON with its `keys`, as the issuer publishes it",
        );
        return;
    };
    for (i, key) in keys.iter().enumerate() {
        let kind = key.get("kty").and_then(serde_json::Value::as_str);
        let needed: &[&str] = match kind {
            Some("RSA") => &["n", "e"],
            Some("EC") => &["crv", "x", "y"],
            Some("OKP") => &["crv", "x"],
            Some("oct") => &["k"],
            _ => &["kty"],
        };
        let bad = |field: &&&str| match key[**field].as_str() {
            Some(text) => !is_key_field(field, text),
            None => true,
        };
        if let Some(field) = needed.iter().find(bad) {
            reader.error(
                Code::Jwks,
                node,
                format!("key {i} of `jwks` has no valid `{field}`"),
                "write the key as its issuer publishes it",
            );
        }
        if matches!(kind, Some("oct")) || key.get("d").is_some() {
            reader.warning(
                Code::JwksPrivate,
                node,
                format!("key {i} of `jwks` is a private key"),
                "publish the public half only, and replace the key: it is no longer secret",
            );
        }
    }
}

/// A curve by its name, a number as base64 in either alphabet.
fn is_key_field(field: &str, text: &str) -> bool {
    const CURVES: [&str; 8] = [
        "P-256",
        "P-384",
        "P-521",
        "secp256k1",
        "Ed25519",
        "Ed448",
        "X25519",
        "X448",
    ];
    match field {
        "kty" => false,
        "crv" => CURVES.contains(&text),
        _ => {
            let digits = text.trim_end_matches('=');
            let byte = |b: u8| b.is_ascii_alphanumeric() || b"-_+/".contains(&b);
            !digits.is_empty() && digits.len() % 4 != 1 && digits.bytes().all(byte)
        }
    }
}

/// A list of names of which none may be empty.
fn names(reader: &mut Reader<'_>, node: &Node<'_>, key: &str, code: Code) -> Vec<String> {
    let Some(list) = node.get(key) else {
        return Vec::new();
    };
    for item in list.items() {
        if item.value.as_str() == Some("") {
            reader.error(
                code,
                &item,
                format!("an item of `{key}` is empty"),
                "write a name, or remove the item",
            );
        }
    }
    reader.strings(&list).unwrap_or_default()
}

fn from_headers(reader: &mut Reader<'_>, node: &Node<'_>) -> Vec<JwtHeader> {
    let mut headers = Vec::new();
    let Some(list) = node.get("fromHeaders") else {
        return headers;
    };
    if reader.list(&list).is_none() {
        return headers;
    }
    for item in list.items() {
        if !not_null(reader, &item) || reader.map(&item).is_none() {
            continue;
        }
        let whole = reader.only_keys(&item, "an item of `fromHeaders`", FROM_HEADER);
        let mut text = |key: &str| {
            let value = reader.field(&item, key, Reader::string);
            value.unwrap_or_default()
        };
        let header = JwtHeader {
            name: text("name"),
            prefix: text("prefix"),
        };
        let unnamed = item
            .get("name")
            .is_none_or(|n| n.value.as_str() == Some(""));
        if whole && unnamed {
            reader.error(
                Code::JwtLocation,
                &item,
                "an item of `fromHeaders` has no `name`".into(),
                "name the header that carries the token",
            );
        }
        headers.push(header);
    }
    headers
}

fn output_claims(reader: &mut Reader<'_>, node: &Node<'_>) -> Vec<ClaimToHeader> {
    let mut claims = Vec::new();
    let Some(list) = node.get("outputClaimToHeaders") else {
        return claims;
    };
    if reader.list(&list).is_none() {
        return claims;
    }
    for item in list.items() {
        if !not_null(reader, &item) || reader.map(&item).is_none() {
            continue;
        }
        let whole = reader.only_keys(&item, "an item of `outputClaimToHeaders`", OUTPUT_CLAIM);
        let mut text = |key: &str| {
            let value = reader.field(&item, key, Reader::string);
            value.unwrap_or_default()
        };
        let (header, claim) = (text("header"), text("claim"));
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let empty = |key: &str| item.get(key).is_none_or(|n| n.value.as_str() == Some(""));
        if whole && OUTPUT_CLAIM.iter().copied().any(empty) {
            reader.error(
                Code::OutputClaim,
                &item,
                "an item of `outputClaimToHeaders` needs both `header` and `claim`".into(),
                "name the claim and the header that it is copied to",
            );
        } else if !header.bytes().all(allowed) {
            let at = item.get("header");
            reader.error(
                Code::OutputClaim,
                at.as_ref().unwrap_or(&item),
                format!("`{header}` cannot be the name of a header"),
                "use letters, digits, `-` and `_`",
            );
        }
        claims.push(ClaimToHeader { header, claim });
    }
    claims
}
