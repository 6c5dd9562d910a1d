//! Whether one rule matches: its sources, its operations, its conditions.

use super::{
    address, claims,
    condition::{self, Key},
    facts::{Facts, Identity, Spoken},
    http::HttpFacts,
    identity, template,
    text::{self, Star},
    truth::{Truth, all, any},
    unjudgeable::Unjudgeable,
};
use crate::{
    ast::{Action, AuthorizationPolicy, Operation, Rule, Source},
    cluster::Mesh,
};

/// A rule with all that its values may refer to.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    pub mesh: &'a Mesh,
    pub policy: &'a AuthorizationPolicy,
    /// The rule's number within the policy, from 0.
    pub number: u32,
    pub facts: &'a Facts,
}

/// What can come of a question.
pub type Answer = Result<Truth, Unjudgeable>;

/// ISTIO: "A match occurs when at least one source, one operation and all conditions matches the
/// request. An empty rule is always matched." What is absent (or an empty list) does not constrain.
pub fn matches(asking: &Asking, rule: &Rule) -> Answer {
    // Fields of HTTP have no meaning on bytes. An ALLOW rule that has one anywhere is void as a
    // whole, so that it never lets through more than was meant.
    let is_bytes = matches!(asking.facts.spoken, Spoken::Tcp);
    if is_bytes && asking.policy.action == Action::Allow && mentions_http(asking, rule)? {
        return Ok(Truth::No);
    }
    let from = match set(&rule.from) {
        None => Truth::Yes,
        Some(sources) => any(sources, |source| asking.source(source))?,
    };
    let to = match set(&rule.to) {
        None => Truth::Yes,
        Some(operations) => any(operations, |operation| asking.operation(operation))?,
    };
    let when = all(rule.when.iter().flatten(), |entry| {
        condition::holds(asking, entry)
    })?;
    Ok(from.and(to).and(when))
}

/// Whether any field or key of the rule is about the source's address.
pub fn asks_for_source(rule: &Rule) -> bool {
    let in_sources = rule.from.iter().flatten().any(|s| {
        [
            &s.ip_blocks,
            &s.not_ip_blocks,
            &s.remote_ip_blocks,
            &s.not_remote_ip_blocks,
        ]
        .into_iter()
        .any(is_set)
    });
    in_sources || has_key(rule, "source.ip") || has_key(rule, "remote.ip")
}

/// Whether any key of the rule is about the destination's address.
pub fn asks_for_destination(rule: &Rule) -> bool {
    has_key(rule, "destination.ip")
}

fn has_key(rule: &Rule, key: &str) -> bool {
    rule.when.iter().flatten().any(|entry| entry.key == key)
}

/// Whether any field or key of the rule is about HTTP.
fn mentions_http(asking: &Asking, rule: &Rule) -> Result<bool, Unjudgeable> {
    let in_sources = rule
        .from
        .iter()
        .flatten()
        .any(|s| is_set(&s.request_principals) || is_set(&s.not_request_principals));
    let in_operations = rule.to.iter().flatten().any(|o| {
        [
            &o.hosts,
            &o.not_hosts,
            &o.methods,
            &o.not_methods,
            &o.paths,
            &o.not_paths,
        ]
        .into_iter()
        .any(is_set)
    });
    let mut in_conditions = false;
    for entry in rule.when.iter().flatten() {
        in_conditions |= Key::parse(asking, &entry.key)?.is_http();
    }
    Ok(in_sources || in_operations || in_conditions)
}

impl Asking<'_> {
    /// ISTIO: "Fields in the source are ANDed together."
    fn source(&self, s: &Source) -> Answer {
        all(
            [
                field(&s.principals, &s.not_principals, |v| self.principal(v))?,
                field(&s.namespaces, &s.not_namespaces, |v| self.namespace(v))?,
                field(&s.service_accounts, &s.not_service_accounts, |v| {
                    self.service_account(v)
                })?,
                field(&s.trust_domains, &s.not_trust_domains, |v| {
                    self.trust_domain(v)
                })?,
                field(&s.ip_blocks, &s.not_ip_blocks, |v| self.source_ip(v))?,
                field(&s.remote_ip_blocks, &s.not_remote_ip_blocks, |v| {
                    self.remote_ip(v)
                })?,
                self.http_field(&s.request_principals, &s.not_request_principals, |v| {
                    self.request_principal(v)
                })?,
            ],
            Ok,
        )
    }

    /// ISTIO: "Fields in the operation are ANDed together."
    fn operation(&self, o: &Operation) -> Answer {
        all(
            [
                field(&o.ports, &o.not_ports, |v| self.port(v))?,
                self.http_field(&o.hosts, &o.not_hosts, |v| self.host(v))?,
                self.http_field(&o.methods, &o.not_methods, |v| self.method(v))?,
                self.http_field(&o.paths, &o.not_paths, |v| self.path(v))?,
            ],
            Ok,
        )
    }

    /// As [`field`]; on bytes the field is as if it had not been written, which makes the rule wider.
    pub fn http_field(
        &self,
        values: &Option<Vec<String>>,
        not_values: &Option<Vec<String>>,
        holds: impl Fn(&str) -> Answer,
    ) -> Answer {
        match self.facts.spoken {
            Spoken::Tcp => Ok(Truth::Yes),
            Spoken::Http { .. } => field(values, not_values, holds),
        }
    }

    pub fn principal(&self, value: &str) -> Answer {
        self.of_identity(|i| identity::has_principal(self.mesh, i, value))
    }

    pub fn namespace(&self, value: &str) -> Answer {
        self.of_identity(|i| identity::has_namespace(i, value))
    }

    pub fn service_account(&self, value: &str) -> Answer {
        self.of_identity(|i| identity::has_service_account(i, &self.policy.namespace, value))
    }

    pub fn trust_domain(&self, value: &str) -> Answer {
        self.of_identity(|i| identity::has_trust_domain(self.mesh, i, value))
    }

    /// Nothing is true of an identity that is not there.
    fn of_identity(&self, holds: impl FnOnce(&Identity) -> bool) -> Answer {
        Ok(self.facts.identity.as_ref().is_some_and(holds).into())
    }

    /// The TCP peer's address.
    pub fn source_ip(&self, value: &str) -> Answer {
        let address = self.facts.source.ok_or_else(|| self.no_source_address())?;
        self.valid(
            "an address or block",
            value,
            address::is_in_block(address, value),
        )
    }

    /// The client's address: on bytes the TCP peer's, on HTTP what X-Forwarded-For makes of it.
    pub fn remote_ip(&self, value: &str) -> Answer {
        let Spoken::Http {
            request,
            trusted_proxies,
            ..
        } = &self.facts.spoken
        else {
            return self.source_ip(value);
        };
        let client = match request {
            _ if *trusted_proxies == Some(0) => self.facts.source,
            super::truth::Fact::Known(request) => {
                address::client(request, *trusted_proxies, self.facts.source)
            }
            super::truth::Fact::Unknown => return Ok(Truth::Maybe),
        };
        let client = client.ok_or_else(|| self.no_source_address())?;
        self.valid(
            "an address or block",
            value,
            address::is_in_block(client, value),
        )
    }

    pub fn destination_ip(&self, value: &str) -> Answer {
        let address = self
            .facts
            .destination
            .ok_or_else(|| Unjudgeable::NoDestinationAddress {
                policy: self.policy_name(),
                rule: self.number,
            })?;
        self.valid(
            "an address or block",
            value,
            address::is_in_block(address, value),
        )
    }

    pub fn port(&self, value: &str) -> Answer {
        self.valid("a port", value, address::is_port(self.facts.port, value))
    }

    pub fn sni(&self, value: &str) -> Answer {
        Ok(self.facts.sni.ask(|name| {
            name.as_ref()
                .is_some_and(|name| text::matches(value, name, Star::NotEmpty))
        }))
    }

    /// ISTIO: "A list of hosts as specified in the HTTP request. The match is case-insensitive." A
    /// port is part of the text.
    fn host(&self, value: &str) -> Answer {
        self.of_request(|r| {
            r.host.as_ref().is_some_and(|host| {
                text::matches(
                    &value.to_ascii_lowercase(),
                    &host.to_ascii_lowercase(),
                    Star::Present,
                )
            })
        })
    }

    fn method(&self, value: &str) -> Answer {
        self.of_request(|r| text::matches(value, &r.method, Star::Present))
    }

    fn path(&self, value: &str) -> Answer {
        self.of_request(|r| {
            if template::is_template(value) {
                template::matches(value, &r.path)
            } else {
                text::matches(value, &r.path, Star::NotEmpty)
            }
        })
    }

    /// Some value of the header has the form. Without a line nothing is true of it, and any value
    /// will do for `*`, the empty one too.
    pub fn header(&self, name: &str, value: &str) -> Answer {
        self.of_request(|r| {
            let values = r.values(name);
            values
                .iter()
                .any(|one| text::matches(value, one, Star::Present))
        })
    }

    pub fn request_principal(&self, value: &str) -> Answer {
        self.of_claims(|c| claims::has_request_principal(c, value))
    }

    pub fn claim(&self, path: &[&str], value: &str) -> Answer {
        self.of_claims(|c| claims::has_claim(c, path, value))
    }

    fn of_request(&self, holds: impl FnOnce(&HttpFacts) -> bool) -> Answer {
        match &self.facts.spoken {
            Spoken::Http { request, .. } => Ok(request.ask(holds)),
            Spoken::Tcp => Ok(Truth::No),
        }
    }

    /// Nothing is true of a token that is not there.
    fn of_claims(&self, holds: impl FnOnce(&super::token::Claims) -> bool) -> Answer {
        match &self.facts.spoken {
            Spoken::Http { claims, .. } => Ok(claims.ask(|c| c.as_ref().is_some_and(holds))),
            Spoken::Tcp => Ok(Truth::No),
        }
    }

    /// A value that cannot be read is never taken for one that does not match.
    fn valid(&self, field: &'static str, value: &str, holds: Option<bool>) -> Answer {
        holds
            .map(Truth::from)
            .ok_or_else(|| Unjudgeable::InvalidValue {
                policy: self.policy_name(),
                rule: self.number,
                field,
                value: value.into(),
            })
    }

    fn no_source_address(&self) -> Unjudgeable {
        Unjudgeable::NoSourceAddress {
            policy: self.policy_name(),
            rule: self.number,
        }
    }

    pub fn policy_name(&self) -> String {
        format!("{}/{}", self.policy.namespace, self.policy.name)
    }
}

/// A field and its not-form: some value matches, and no not-value does. A negative question about
/// something that is not there is true.
pub fn field(
    values: &Option<Vec<String>>,
    not_values: &Option<Vec<String>>,
    holds: impl Fn(&str) -> Answer,
) -> Answer {
    let positive = match set(values) {
        None => Truth::Yes,
        Some(values) => any(values, |value| holds(value))?,
    };
    let negative = match set(not_values) {
        None => Truth::Yes,
        Some(values) => any(values, |value| holds(value))?.not(),
    };
    Ok(positive.and(negative))
}

/// A list that constrains: an empty one counts as absent, as it does in the API.
fn set<T>(list: &Option<Vec<T>>) -> Option<&Vec<T>> {
    list.as_ref().filter(|list| !list.is_empty())
}

fn is_set(list: &Option<Vec<String>>) -> bool {
    set(list).is_some()
}
