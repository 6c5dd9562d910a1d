//! Where a request carries tokens.

use super::http::HttpFacts;
use crate::ast::JwtRule;

/// All tokens at the places where the rule looks: headers, then query parameters, then cookies.
pub fn tokens(rule: &JwtRule, request: &HttpFacts) -> Vec<String> {
    let (headers, params) = header_and_param_places(rule);
    let mut tokens = Vec::new();
    for (name, prefix) in headers {
        let lines = request.lines(name);
        tokens.extend(
            lines
                .iter()
                .filter_map(|line| line.strip_prefix(prefix))
                .map(String::from),
        );
    }
    for name in params {
        let values = query_pairs(&request.target).filter(|(key, _)| *key == name);
        tokens.extend(values.map(|(_, value)| value.to_owned()));
    }
    for name in &rule.from_cookies {
        tokens.extend(cookies(request, name));
    }
    tokens
}

/// Takes the tokens out of headers and query. Cookies stay as they are.
pub fn remove(rule: &JwtRule, request: &mut HttpFacts) {
    let (headers, params) = header_and_param_places(rule);
    for (name, prefix) in headers {
        if request
            .lines(name)
            .iter()
            .any(|line| line.starts_with(prefix))
        {
            request.headers.remove(&name.to_ascii_lowercase());
        }
    }
    let Some((path, query)) = request.target.split_once('?') else {
        return;
    };
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| !params.contains(&pair.split_once('=').map_or(*pair, |(key, _)| key)))
        .collect();
    request.target = if kept.is_empty() {
        path.into()
    } else {
        format!("{path}?{}", kept.join("&"))
    };
}

/// Where a rule names no place at all, tokens are looked for in `Authorization: Bearer` and in the
/// query parameter `access_token`; where it names any, nowhere else.
fn header_and_param_places(rule: &JwtRule) -> (Vec<(&str, &str)>, Vec<&str>) {
    let is_default =
        rule.from_headers.is_empty() && rule.from_params.is_empty() && rule.from_cookies.is_empty();
    if is_default {
        return (vec![("authorization", "Bearer ")], vec!["access_token"]);
    }
    let headers = rule.from_headers.iter();
    (
        headers
            .map(|h| (h.name.as_str(), h.prefix.as_str()))
            .collect(),
        rule.from_params.iter().map(String::as_str).collect(),
    )
}

fn query_pairs(target: &str) -> impl Iterator<Item = (&str, &str)> {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    query.split('&').filter_map(|pair| pair.split_once('='))
}

fn cookies(request: &HttpFacts, name: &str) -> Vec<String> {
    request
        .lines("cookie")
        .iter()
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value.trim_matches('"').to_owned())
        .collect()
}
