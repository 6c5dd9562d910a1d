//! RequestAuthentication: the rules by which tokens are verified.

use super::{DRY_RUN, attachment::attachment, envelope, not_null};
use crate::{
    ast::{ClaimToHeader, JwtHeader, JwtRule, RequestAuthentication},
    diagnostic::Code,
    read::{
        duration,
        node::{Node, Reader},
    },
};

const SPEC: &[&str] = &["jwtRules", "selector", "targetRef", "targetRefs"];

const RULE: &[&str] = &[
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

const RULES_MAX: usize = 4_096;

pub(crate) fn request_authentication(
    reader: &mut Reader<'_>,
    object: &Node<'_>,
) -> Option<RequestAuthentication> {
    let meta = envelope(reader, object, "a RequestAuthentication")?;
    let mut authentication = RequestAuthentication {
        document: reader.document,
        object: reader.object.clone(),
        namespace: meta.namespace,
        name: meta.name,
        attachment: Default::default(),
        jwt_rules: Vec::new(),
    };
    if meta.annotations.contains_key(DRY_RUN) {
        let metadata = object.get("metadata");
        let annotations = metadata.as_ref().and_then(|m| m.get("annotations"));
        let at = annotations.as_ref().and_then(|a| a.get(DRY_RUN));
        reader.error(
            Code::DryRun,
            at.as_ref().unwrap_or(object),
            format!("a RequestAuthentication has no `{DRY_RUN}`"),
            "remove the annotation",
        );
    }
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
    reader.only_keys(node, "a JWT rule", RULE);
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
    check_keys(reader, node, &rule);
    Some(rule)
}

fn check_keys(reader: &mut Reader<'_>, node: &Node<'_>, rule: &JwtRule) {
    if rule.issuer.is_empty() && rule.jwks_uri.is_none() {
        reader.error(
            Code::JwtIssuer,
            node,
            "the rule has neither `issuer` nor `jwksUri`".into(),
            "name the issuer of the tokens",
        );
    }
    if rule.jwks.is_some() && rule.jwks_uri.is_some() {
        let at = node.get("jwks");
        reader.error(
            Code::JwksTwice,
            at.as_ref().unwrap_or(node),
            "`jwks` and `jwksUri` cannot be set together".into(),
            "keep the one that holds the current keys",
        );
    }
    if let Some(uri) = &rule.jwks_uri
        && let Some(reason) = uri_problem(uri)
    {
        let at = node.get("jwksUri").or_else(|| node.get("jwks_uri"));
        reader.error(
            Code::JwksUri,
            at.as_ref().unwrap_or(node),
            format!("`{uri}` cannot be fetched: {reason}"),
            "write a URL such as `https://issuer.example/keys`",
        );
    }
    if let Some(jwks) = &rule.jwks {
        let at = node.get("jwks");
        check_jwks(reader, at.as_ref().unwrap_or(node), jwks);
    }
}

fn uri_problem(uri: &str) -> Option<&'static str> {
    let rest = match uri.split_once("://") {
        Some(("http" | "https", rest)) => rest,
        _ => return Some("it must begin with http:// or https://"),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let host = authority.rsplit('@').next().unwrap_or("");
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (host, ""),
    };
    if host.is_empty() {
        return Some("it names no host");
    }
    if rest.bytes().any(|b| b.is_ascii_control() || b == b' ') {
        return Some("it has a blank or control character");
    }
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    (!digits || port.len() > 5).then_some("its port is not a number")
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
        let missing = needed.iter().find(|field| !key[**field].is_string());
        if let Some(field) = missing {
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
        reader.only_keys(&item, "an item of `fromHeaders`", &["name", "prefix"]);
        let mut text = |key: &str| {
            let value = reader.field(&item, key, Reader::string);
            value.unwrap_or_default()
        };
        let header = JwtHeader {
            name: text("name"),
            prefix: text("prefix"),
        };
        if header.name.is_empty() {
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
        reader.only_keys(
            &item,
            "an item of `outputClaimToHeaders`",
            &["header", "claim"],
        );
        let mut text = |key: &str| {
            let value = reader.field(&item, key, Reader::string);
            value.unwrap_or_default()
        };
        let (header, claim) = (text("header"), text("claim"));
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if header.is_empty() || claim.is_empty() {
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
