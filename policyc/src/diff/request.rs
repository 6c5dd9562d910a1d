//! A request that goes a way through a decision diagram.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json};

use super::{
    decision::{Condition, Way},
    fields::{Atoms, Field, Known, Value, values},
};
use crate::{
    cluster::PathNormalization,
    ir::{AtomId, JwtRule},
    l7::normalize::normalize,
    request::{HeaderValues, Http},
};

/// What a client says.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Spoken {
    pub http: Http,
    pub sni: Option<String>,
}

/// Makes the request of a way; `turn` chooses among the values that would do. `None` when the
/// conditions contradict each other, or no way was found to fulfil them.
pub(super) fn spoken(
    atoms: &Atoms<'_>,
    known: &mut Known,
    tokens: &[JwtRule],
    way: &Way,
    turn: usize,
) -> Option<Spoken> {
    let mut fields: BTreeMap<Field, Vec<Value>> = BTreeMap::new();
    let mut asked: BTreeMap<Field, BTreeSet<(AtomId, bool)>> = BTreeMap::new();
    for condition in &way.conditions {
        match condition {
            Condition::Cells(field, cells, numbers) => {
                let number = numbers.get(turn % numbers.len().max(1))?;
                let value = cells.cells.get(*number)?.value.clone();
                fields.insert(field.clone(), vec![value]);
            }
            Condition::Atom(atom, truth) => {
                let field = atoms.field(*atom);
                asked.entry(field).or_default().insert((*atom, *truth));
            }
        }
    }
    for (field, wanted) in asked {
        let wanted: Vec<(AtomId, bool)> = wanted.into_iter().collect();
        let of: Vec<AtomId> = wanted.iter().map(|(atom, _)| *atom).collect();
        let cells = known.cells(atoms, &field, &of)?;
        let values = values(&cells, true, &wanted)?;
        fields.insert(field, values);
    }
    let mut made = Maker {
        tokens,
        modes: atoms.modes,
        spoken: Spoken {
            http: Http {
                method: "GET".into(),
                path: "/".into(),
                ..Http::default()
            },
            sni: None,
        },
        claims: Map::new(),
        forwarded: BTreeMap::new(),
    };
    for (field, values) in &fields {
        made.say(field, values)?;
    }
    made.finish()
}

struct Maker<'a> {
    tokens: &'a [JwtRule],
    modes: [PathNormalization; 2],
    spoken: Spoken,
    claims: Map<String, Json>,
    /// Elements of X-Forwarded-For by their place from the right.
    forwarded: BTreeMap<u32, String>,
}

impl Maker<'_> {
    fn say(&mut self, field: &Field, values: &[Value]) -> Option<()> {
        let texts: Vec<&String> = values
            .iter()
            .filter_map(|value| match value {
                Value::Text(text) => Some(text),
                _ => None,
            })
            .collect();
        let first = texts.first().map(|text| (*text).clone());
        let http = &mut self.spoken.http;
        match (field, values.first()) {
            (Field::Method, _) => http.method = first?,
            (Field::Target, _) => http.path = raw(&first?, self.modes)?,
            (Field::Authority, _) => http.host = first,
            (Field::Sni, _) => self.spoken.sni = first,
            (Field::Client(back), Some(Value::Address(address))) => {
                self.forwarded.insert(*back, address.to_string());
            }
            // The target itself, where rules of both kinds ask for it, stands already.
            (Field::Early(name), _) if name == ":path" && http.path == "/" => {
                http.path = raw(&first?, self.modes)?;
            }
            (Field::Early(name), _) if name == ":path" => {}
            (Field::Header(name) | Field::Early(name), _) => {
                let lines: Vec<String> = texts.into_iter().cloned().collect();
                let lines = match <[String; 1]>::try_from(lines) {
                    Ok([line]) => HeaderValues::One(line),
                    Err(lines) if lines.is_empty() => return Some(()),
                    Err(lines) => HeaderValues::Many(lines),
                };
                http.headers.insert(name.clone(), lines);
            }
            (Field::Output(name), Some(_)) => {
                let wanted = first?;
                let (issuer, claim) = self.tokens.iter().find_map(|rule| {
                    let mut outputs = rule.output_claim_to_headers.iter();
                    let claim = outputs.find(|(header, _)| header.eq_ignore_ascii_case(name));
                    claim.map(|(_, claim)| (&rule.issuer, claim))
                })?;
                let path: Vec<String> = claim.split('.').map(Into::into).collect();
                let issuer = issuer.clone();
                put(&mut self.claims, &path, Json::String(wanted))?;
                if !issuer.is_empty() && path != ["iss"] {
                    put(&mut self.claims, &["iss".into()], Json::String(issuer))?;
                }
            }
            (Field::Claim(path), Some(_)) => put(&mut self.claims, path, listed(&texts))?,
            (Field::Token, Some(Value::Token(issuer, subject))) => {
                for (name, value) in [("iss", issuer), ("sub", subject)] {
                    let texts: Vec<&String> = value.iter().collect();
                    let value = match value.as_slice() {
                        [one] => Json::String(one.clone()),
                        _ => listed(&texts),
                    };
                    put(&mut self.claims, &[name.into()], value)?;
                }
            }
            _ => {}
        }
        Some(())
    }

    fn finish(mut self) -> Option<Spoken> {
        if let Some((&last, _)) = self.forwarded.last_key_value() {
            let other = "192.0.2.9".to_owned();
            let elements: Vec<String> = (1..=last)
                .rev()
                .map(|back| self.forwarded.get(&back).cloned().unwrap_or(other.clone()))
                .collect();
            let header = HeaderValues::One(elements.join(", "));
            let name = "x-forwarded-for".to_owned();
            if self.spoken.http.headers.insert(name, header).is_some() {
                return None;
            }
        }
        if !self.claims.is_empty() {
            self.spoken.http.claims = Some(self.claims);
        }
        Some(self.spoken)
    }
}

/// One string as itself, unless splitting would change it; several as a list.
fn listed(texts: &[&String]) -> Json {
    match texts {
        [one] if !one.is_empty() && !one.contains(' ') => Json::String((*one).clone()),
        _ => Json::Array(texts.iter().map(|t| Json::String((*t).clone())).collect()),
    }
}

/// Puts a claim; `None` when another one stands in its way.
fn put(claims: &mut Map<String, Json>, path: &[String], value: Json) -> Option<()> {
    let (last, parents) = path.split_last()?;
    let mut place = claims;
    for key in parents {
        let child = place
            .entry(key.clone())
            .or_insert_with(|| Json::Object(Map::new()));
        place = child.as_object_mut()?;
    }
    match place.get(last) {
        Some(there) if *there != value => None,
        _ => {
            place.insert(last.clone(), value);
            Some(())
        }
    }
}

/// A request target that is read as this path: what normalisation would change is escaped.
fn raw(target: &str, modes: [PathNormalization; 2]) -> Option<String> {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let reads = |raw: &str| {
        modes.iter().all(|mode| {
            normalize(raw, *mode).is_ok_and(|read| read.path == path && read.query == query)
        })
    };
    if reads(target) {
        return Some(target.into());
    }
    let bytes: Vec<char> = path.chars().collect();
    let mut escaped = String::new();
    for (at, c) in bytes.iter().enumerate() {
        let after = |n: usize| bytes.get(at + n).copied();
        let hex = |c: Option<char>| c.is_some_and(|c| c.is_ascii_hexdigit());
        let begins = at > 0 && bytes.get(at - 1) == Some(&'/');
        let behind_percent = at > 0 && bytes.get(at - 1) == Some(&'%');
        if *c == '.' && begins {
            escaped.push_str("%2e");
        } else if behind_percent && hex(Some(*c)) && hex(after(1)) {
            escaped.push_str(&format!("%{:02x}", u32::from(*c)));
        } else {
            escaped.push(*c);
        }
    }
    escaped.push_str(query);
    reads(&escaped).then_some(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_normalisation_leaves_can_be_asked_for() {
        use PathNormalization::{Base, DecodeAndMergeSlashes, None as Nothing};
        for (path, mode) in [
            ("/a/b", Base),
            ("/a/..;/b", Base),
            ("/.;x", Base),
            ("/%61", Base),
            ("/a%00", Base),
            ("/a%2fb", DecodeAndMergeSlashes),
            ("/a/../b", Nothing),
            ("//", DecodeAndMergeSlashes),
            ("/a?b=..", Base),
        ] {
            assert!(raw(path, [mode; 2]).is_some(), "{path} under {mode:?}");
        }
        assert_eq!(raw("/a/../b", [Base; 2]), None);
    }
}
