//! How the verification of tokens changed, in words.

use std::collections::BTreeSet;

use super::{
    cells::Bench,
    setting::{PortKind, Setting},
};
use crate::{cluster::Protocol as Declared, ir::JwtRule};

/// How tokens are verified otherwise than before; on a port that speaks TCP they are not.
pub(super) fn tokens_differ(setting: &Setting<'_>, port: &PortKind) -> Option<String> {
    let [Some(old), Some(new)] = &setting.benches else {
        return None;
    };
    let verified = |bench: &'_ Bench<'_>, declared: Declared| match declared {
        Declared::Tcp => Vec::new(),
        Declared::Http | Declared::Undeclared => bench.tokens.clone(),
    };
    let [old, new] = [
        verified(old, port.declared[0]),
        verified(new, port.declared[1]),
    ];
    if old == new {
        return None;
    }
    let issuers: BTreeSet<&str> = [&old, &new]
        .into_iter()
        .flatten()
        .map(|rule| rule.issuer.as_str())
        .collect();
    let mut told = Vec::new();
    for issuer in issuers {
        let of = |tokens: &[JwtRule]| -> Vec<JwtRule> {
            let own = tokens.iter().filter(|rule| rule.issuer == issuer);
            own.cloned().collect()
        };
        let name = match issuer {
            "" => "any issuer".to_owned(),
            issuer => format!("issuer {issuer}"),
        };
        match (of(&old), of(&new)) {
            (before, after) if before == after => {}
            (before, _) if before.is_empty() => told.push(format!(
                "tokens of {name} are verified: a bad one is refused with 401"
            )),
            (_, after) if after.is_empty() => {
                told.push(format!("tokens of {name} are no longer verified"));
            }
            (before, after) => {
                let fields = before
                    .first()
                    .zip(after.first())
                    .map(|(b, a)| changed_fields(b, a));
                let fields = fields.filter(|fields| !fields.is_empty());
                let fields = fields.map_or_else(String::new, |f| format!(" ({})", f.join(", ")));
                told.push(format!("tokens of {name} are verified otherwise{fields}"));
            }
        }
    }
    if told.is_empty() {
        told.push("tokens are verified in another order".into());
    }
    Some(told.join("; "))
}

fn changed_fields(old: &JwtRule, new: &JwtRule) -> Vec<&'static str> {
    [
        ("audiences", old.audiences != new.audiences),
        (
            "keys",
            (&old.jwks, &old.jwks_uri) != (&new.jwks, &new.jwks_uri),
        ),
        (
            "where tokens are looked for",
            (&old.from_headers, &old.from_params, &old.from_cookies)
                != (&new.from_headers, &new.from_params, &new.from_cookies),
        ),
        (
            "headers that are set",
            (&old.output_payload_to_header, &old.output_claim_to_headers)
                != (&new.output_payload_to_header, &new.output_claim_to_headers),
        ),
        (
            "whether the token is forwarded",
            old.forward_original_token != new.forward_original_token,
        ),
        (
            "claims that are split",
            old.space_delimited_claims != new.space_delimited_claims,
        ),
        ("timeout", old.timeout_ms != new.timeout_ms),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(name, _)| name)
    .collect()
}
