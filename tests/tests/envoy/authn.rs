//! RequestAuthentication as Envoy's JWT filter, and the token that stands for claims that a case calls
//! verified.

use policyc::request::Http;
use serde_json::{Map, Value, json};

use super::cluster::{Cluster, Pod};

/// Signs those tokens. It goes into every key set of a case.
const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
const SECRET_TEXT: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY";
const KEY_ID: &str = "conformance";
const TYPE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";

/// Of all policies, by issuer, as Istio puts them.
fn rules<'a>(cluster: &'a Cluster, pod: &Pod) -> Result<Vec<&'a Value>, &'static str> {
    let policies = cluster.of(pod, "RequestAuthentication")?;
    let rules = policies
        .into_iter()
        .map(|policy| &policy["spec"]["jwtRules"]);
    let mut rules: Vec<&Value> = rules.filter_map(Value::as_array).flatten().collect();
    rules.sort_by_key(|rule| rule["issuer"].as_str());
    Ok(rules)
}

/// A token of any of the issuers, or none at all; a bad one is refused.
pub fn filter(cluster: &Cluster, pod: &Pod) -> Result<Option<Value>, &'static str> {
    let rules = rules(cluster, pod)?;
    if rules.is_empty() {
        return Ok(None);
    }
    let mut providers = Map::new();
    for (number, rule) in rules.iter().enumerate() {
        let jwks = rule["jwks"]
            .as_str()
            .ok_or("a key set that is to be fetched")?;
        let mut jwks: Value = serde_json::from_str(jwks).map_err(|_| "a key set that is none")?;
        let keys = jwks["keys"]
            .as_array_mut()
            .ok_or("a key set that is none")?;
        keys.push(json!({"kty": "oct", "kid": KEY_ID, "alg": "HS256", "k": SECRET_TEXT}));
        let mut provider = json!({
            "issuer": rule["issuer"],
            "local_jwks": {"inline_string": jwks.to_string()},
            "payload_in_metadata": "payload",
            "forward": rule["forwardOriginalToken"] == true,
        });
        let mut spaced = vec![json!("scope"), json!("permission")];
        spaced.extend(
            rule["spaceDelimitedClaims"]
                .as_array()
                .cloned()
                .unwrap_or_default(),
        );
        provider["normalize_payload_in_metadata"] = json!({"space_delimited_claims": spaced});
        if !rule["audiences"].is_null() {
            provider["audiences"] = rule["audiences"].clone();
        }
        let headers = rule["fromHeaders"].as_array().into_iter().flatten();
        let headers: Vec<Value> = headers
            .map(|from| json!({"name": from["name"], "value_prefix": from["prefix"].as_str().unwrap_or("")}))
            .collect();
        let has_place = ["fromHeaders", "fromParams", "fromCookies"];
        if has_place.iter().all(|place| rule[*place].is_null()) {
            provider["from_headers"] =
                json!([{"name": "Authorization", "value_prefix": "Bearer "}]);
            provider["from_params"] = json!(["access_token"]);
        } else {
            provider["from_headers"] = headers.into();
            for (theirs, own) in [
                ("fromParams", "from_params"),
                ("fromCookies", "from_cookies"),
            ] {
                provider[own] = json!(rule[theirs].as_array().cloned().unwrap_or_default());
            }
        }
        providers.insert(name(number), provider);
    }
    Ok(Some(json!({
        "name": "jwt",
        "typed_config": {
            "@type": TYPE,
            "providers": providers,
            "bypass_cors_preflight": true,
            "rules": [{"match": {"prefix": ""}, "requires": requirement(rules.len())}],
        },
    })))
}

fn name(number: usize) -> String {
    format!("p{number}")
}

/// Every token at the places of one issuer is its; or else each issuer finds its own at its places, or
/// nothing.
fn requirement(count: usize) -> Value {
    let any = |all: Vec<Value>| json!({"requires_any": {"requirements": all}});
    let own = |number| json!({"provider_name": name(number)});
    let missing = json!({"allow_missing": {}});
    let mut all: Vec<Value> = (0..count).map(own).collect();
    all.push(match count {
        1 => missing,
        _ => {
            let each = (0..count).map(|number| any(vec![own(number), missing.clone()]));
            json!({"requires_all": {"requirements": each.collect::<Vec<_>>()}})
        }
    });
    any(all)
}

/// The request with a token for its claims, where it has claims and no token of its own.
pub fn with_token(
    http: &Http,
    cluster: &Cluster,
    pod: &Pod,
) -> Result<(String, String), &'static str> {
    let plain = (http.path.clone(), String::new());
    let Some(claims) = &http.claims else {
        return Ok(plain);
    };
    let mut names = http.headers.keys();
    let has_token = names.any(|name| name.eq_ignore_ascii_case("authorization"));
    if has_token || http.path.contains("access_token=") {
        return Ok(plain);
    }
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    header.kid = Some(KEY_ID.into());
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET);
    let token = jsonwebtoken::encode(&header, claims, &key).expect("claims are JSON");
    let bearer = format!("authorization: Bearer {token}\r\n");
    let rules = rules(cluster, pod)?;
    if rules.is_empty() {
        return Ok((plain.0, bearer));
    }
    let issuer = claims.get("iss");
    let mut rules = rules.into_iter();
    let rule = rules.find(|rule| Some(&rule["issuer"]) == issuer);
    let rule = rule.ok_or("the claims are of an issuer that no policy names")?;
    if let Some(from) = rule["fromHeaders"].get(0) {
        let name = from["name"].as_str().unwrap_or_default();
        let prefix = from["prefix"].as_str().unwrap_or_default();
        return Ok((plain.0, format!("{name}: {prefix}{token}\r\n")));
    }
    if let Some(name) = rule["fromParams"].get(0).and_then(Value::as_str) {
        let joint = if plain.0.contains('?') { '&' } else { '?' };
        return Ok((format!("{}{joint}{name}={token}", plain.0), String::new()));
    }
    if let Some(name) = rule["fromCookies"].get(0).and_then(Value::as_str) {
        return Ok((plain.0, format!("cookie: {name}={token}\r\n")));
    }
    Ok((plain.0, bearer))
}
