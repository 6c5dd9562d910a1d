//! Questions about a verified token.

use serde_json::Value;

use super::{
    text::{self, Star},
    token::Claims,
};

/// ISTIO: "A list of request identities derived from the JWT. The request identity is in the format
/// of `<ISS>/<SUB>`." Issuer and subject are compared apart, the value being cut at its last `/`;
/// both must be there.
pub fn has_request_principal(claims: &Claims, value: &str) -> bool {
    let (Some(issuer), Some(subject)) = (text_of(claims, "iss"), text_of(claims, "sub")) else {
        return false;
    };
    let (issuer_form, subject_form) = split(value);
    issuer_form.holds(issuer) && subject_form.holds(subject)
}

/// One half of a request principal.
enum Form<'a> {
    NotEmpty,
    Exact(&'a str),
    Prefix(&'a str),
    Suffix(&'a str),
}

impl Form<'_> {
    fn holds(&self, value: &str) -> bool {
        match self {
            Self::NotEmpty => !value.is_empty(),
            Self::Exact(exact) => value == *exact,
            Self::Prefix(prefix) => value.starts_with(prefix),
            Self::Suffix(suffix) => value.ends_with(suffix),
        }
    }
}

/// What a value asks of issuer and subject. A star at the very beginning is seen first, and a star
/// at the end is then a mere character.
fn split(value: &str) -> (Form<'_>, Form<'_>) {
    match (value, value.rsplit_once('/')) {
        ("*", _) => (Form::NotEmpty, Form::NotEmpty),
        (_, Some(("*", subject))) => (Form::NotEmpty, Form::Exact(subject)),
        (_, Some((issuer, subject))) => match issuer.strip_prefix('*') {
            Some(suffix) => (Form::Suffix(suffix), Form::Exact(subject)),
            None => (Form::Exact(issuer), subject_form(subject)),
        },
        (_, None) => match (value.strip_prefix('*'), value.strip_suffix('*')) {
            (Some(suffix), _) => (Form::NotEmpty, Form::Suffix(suffix)),
            (None, Some(prefix)) => (Form::Prefix(prefix), Form::NotEmpty),
            (None, None) => (Form::Exact(value), Form::Exact("")),
        },
    }
}

fn subject_form(subject: &str) -> Form<'_> {
    match subject.strip_suffix('*') {
        Some("") => Form::NotEmpty,
        Some(prefix) => Form::Prefix(prefix),
        None => Form::Exact(subject),
    }
}

/// A claim is a string that has the form, or a list with any such string; nothing else ever matches.
/// The path leads through objects, never through lists.
pub fn has_claim(claims: &Claims, path: &[&str], pattern: &str) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return false;
    };
    let Some(mut value) = claims.payload.get(*first) else {
        return false;
    };
    for key in rest {
        match value.as_object().and_then(|object| object.get(*key)) {
            Some(inner) => value = inner,
            None => return false,
        }
    }
    let holds = |text: &str| text::matches(pattern, text, Star::NotEmpty);
    match value {
        Value::String(text) if rest.is_empty() && claims.is_space_delimited(first) => {
            text.split(' ').filter(|word| !word.is_empty()).any(holds)
        }
        Value::String(text) => holds(text),
        Value::Array(members) => members.iter().filter_map(Value::as_str).any(holds),
        _ => false,
    }
}

/// The names in `[a]` or `[a][b][c]`. Text that is not of that form is one name: all that stands
/// between its first and its last character, which must be brackets and enclose something.
pub fn path_in_brackets(text: &str) -> Option<Vec<&str>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let names: Vec<&str> = inner.split("][").collect();
    let is_nesting = names.iter().all(|name| !name.contains(['[', ']']));
    match (inner, is_nesting) {
        ("", _) => None,
        (_, true) => Some(names),
        (_, false) => Some(vec![inner]),
    }
}

fn text_of<'a>(claims: &'a Claims, name: &str) -> Option<&'a str> {
    claims.payload.get(name).and_then(Value::as_str)
}
