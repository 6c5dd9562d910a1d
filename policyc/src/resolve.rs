//! From policies as written to numbers: every value becomes an interned atom, every `from`, `to`
//! and `when` a clause. Trust-domain aliases are expanded here, and nowhere later.
//!
//! The input has been validated: a value that still does not parse is reported, never dropped.

mod amend;
mod condition;
mod trust_domain;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

pub use amend::Amendable;
use ipnet::IpNet;

use crate::{
    ast::{self, AuthorizationPolicy, Operation, RequestAuthentication, Source},
    cluster::Cluster,
    ir::{
        Action, Alternative, Atom, AtomId, Attachment, Authentication, Clause, JwtRule, Literal,
        PathPattern, Pattern, Policy, Program, Rule, Target,
    },
    options::CatchAllDeny,
};

/// A value that cannot be turned into a number. Validation reports such values with their position;
/// this one is only met when validation was passed by.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("policy `{policy}`, {field}: `{value}` cannot be read")]
pub struct ResolveError {
    pub policy: String,
    pub field: &'static str,
    pub value: String,
}

/// Where a rule was written: file, and line counted from 1.
pub type Locate<'a> = &'a dyn Fn(&crate::diagnostic::At) -> (String, u32);

/// Resolves all policies of a cluster. The result does not depend on the order of the input.
///
/// # Errors
/// The first value that does not parse.
pub fn resolve(
    cluster: &Cluster,
    catch_all_deny: CatchAllDeny,
    key_sets: &BTreeMap<String, String>,
    locate: Locate<'_>,
) -> Result<Program, ResolveError> {
    let domains = TrustDomains::Expanded;
    resolve_with(cluster, catch_all_deny, key_sets, locate, domains)
}

/// What the trust domain of a principal stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrustDomains {
    /// One of the mesh's for all of them.
    Expanded,
    /// Itself.
    AsWritten,
}

/// As [`resolve`], with a choice.
///
/// # Errors
/// The first value that does not parse.
pub fn resolve_with(
    cluster: &Cluster,
    catch_all_deny: CatchAllDeny,
    key_sets: &BTreeMap<String, String>,
    locate: Locate<'_>,
    domains: TrustDomains,
) -> Result<Program, ResolveError> {
    let mut resolver = Resolver {
        cluster,
        domains,
        atoms: Vec::new(),
        numbers: HashMap::default(),
    };
    let mut written: Vec<&AuthorizationPolicy> = cluster.policies.iter().collect();
    written.sort_by_key(|p| (&p.namespace, &p.name));
    let mut policies = Vec::with_capacity(written.len());
    for policy in written {
        policies.push(Arc::new(resolver.policy(policy, locate)?));
    }
    let mut written: Vec<&RequestAuthentication> = cluster.request_authentications.iter().collect();
    written.sort_by_key(|a| (&a.namespace, &a.name));
    let authentications = written
        .into_iter()
        .map(|a| authentication(cluster, a))
        .collect();
    Ok(Program {
        mesh: cluster.mesh.clone(),
        catch_all_deny,
        atoms: resolver.atoms,
        policies,
        authentications,
        key_sets: key_sets.clone(),
    })
}

/// Interns atoms while it walks the policies.
struct Resolver<'a> {
    cluster: &'a Cluster,
    domains: TrustDomains,
    atoms: Vec<Atom>,
    numbers: Numbers,
}

type Numbers = HashMap<Atom, AtomId, foldhash::fast::FixedState>;

impl Resolver<'_> {
    fn policy(
        &mut self,
        policy: &AuthorizationPolicy,
        locate: Locate<'_>,
    ) -> Result<Policy, ResolveError> {
        let at = |index: usize| crate::diagnostic::At {
            document: policy.document,
            path: policy.object.key("spec").key("rules").index(index),
        };
        let written = policy.rules.as_deref().unwrap_or_default();
        let mut rules = Vec::with_capacity(written.len());
        let mut lines = Vec::with_capacity(written.len());
        let mut file = String::new();
        for (index, rule) in written.iter().enumerate() {
            let (in_file, line) = locate(&at(index));
            file = in_file;
            lines.push(line);
            rules.push(self.rule(policy, rule)?);
        }
        if written.is_empty() {
            file = locate(&crate::diagnostic::At {
                document: policy.document,
                path: policy.object.clone(),
            })
            .0;
        }
        Ok(Policy {
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            file,
            lines,
            action: match &policy.action {
                ast::Action::Allow => Action::Allow,
                ast::Action::Deny => Action::Deny,
                ast::Action::Audit => Action::Audit,
                ast::Action::Custom { provider } => Action::Custom {
                    provider: provider.clone(),
                },
            },
            dry_run: policy.dry_run,
            attachment: attachment(self.cluster, &policy.namespace, &policy.attachment),
            rules,
        })
    }

    fn rule(
        &mut self,
        policy: &AuthorizationPolicy,
        rule: &ast::Rule,
    ) -> Result<Rule, ResolveError> {
        let mut clauses = Vec::new();
        if let Some(from) = &rule.from {
            let any = from
                .iter()
                .map(|s| self.source(policy, s))
                .collect::<Result<_, _>>()?;
            clauses.push(Clause { any });
        }
        if let Some(to) = &rule.to {
            let any = to
                .iter()
                .map(|o| self.operation(policy, o))
                .collect::<Result<_, _>>()?;
            clauses.push(Clause { any });
        }
        for condition in rule.when.as_deref().unwrap_or_default() {
            clauses.push(Clause {
                any: vec![self.condition(policy, condition)?],
            });
        }
        Ok(Rule { clauses })
    }

    fn source(
        &mut self,
        policy: &AuthorizationPolicy,
        source: &Source,
    ) -> Result<Alternative, ResolveError> {
        let mut a = Builder {
            resolver: self,
            policy,
            all: Vec::new(),
        };
        a.both(
            "principals",
            &source.principals,
            &source.not_principals,
            Kind::Principal,
        )?;
        a.both(
            "requestPrincipals",
            &source.request_principals,
            &source.not_request_principals,
            Kind::RequestPrincipal,
        )?;
        a.both(
            "namespaces",
            &source.namespaces,
            &source.not_namespaces,
            Kind::Namespace,
        )?;
        a.both(
            "serviceAccounts",
            &source.service_accounts,
            &source.not_service_accounts,
            Kind::ServiceAccount,
        )?;
        a.both(
            "trustDomains",
            &source.trust_domains,
            &source.not_trust_domains,
            Kind::TrustDomain,
        )?;
        a.both(
            "ipBlocks",
            &source.ip_blocks,
            &source.not_ip_blocks,
            Kind::SourceIp,
        )?;
        a.both(
            "remoteIpBlocks",
            &source.remote_ip_blocks,
            &source.not_remote_ip_blocks,
            Kind::RemoteIp,
        )?;
        Ok(Alternative { all: a.all })
    }

    fn operation(
        &mut self,
        policy: &AuthorizationPolicy,
        operation: &Operation,
    ) -> Result<Alternative, ResolveError> {
        let mut a = Builder {
            resolver: self,
            policy,
            all: Vec::new(),
        };
        a.both(
            "ports",
            &operation.ports,
            &operation.not_ports,
            Kind::DestinationPort,
        )?;
        a.both("hosts", &operation.hosts, &operation.not_hosts, Kind::Host)?;
        a.both(
            "methods",
            &operation.methods,
            &operation.not_methods,
            Kind::Method,
        )?;
        a.both("paths", &operation.paths, &operation.not_paths, Kind::Path)?;
        Ok(Alternative { all: a.all })
    }

    fn condition(
        &mut self,
        policy: &AuthorizationPolicy,
        condition: &ast::Condition,
    ) -> Result<Alternative, ResolveError> {
        let kind = condition::kind(&condition.key).ok_or_else(|| ResolveError {
            policy: format!("{}/{}", policy.namespace, policy.name),
            field: "when.key",
            value: condition.key.clone(),
        })?;
        let mut a = Builder {
            resolver: self,
            policy,
            all: Vec::new(),
        };
        a.both("when", &condition.values, &condition.not_values, kind)?;
        Ok(Alternative { all: a.all })
    }

    fn intern(&mut self, atom: Atom) -> AtomId {
        let next = AtomId(u32::try_from(self.atoms.len()).unwrap_or(u32::MAX));
        *self.numbers.entry(atom).or_insert_with_key(|atom| {
            self.atoms.push(atom.clone());
            next
        })
    }
}

/// What a list of values is about.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Kind {
    Principal,
    RequestPrincipal,
    Namespace,
    ServiceAccount,
    TrustDomain,
    SourceIp,
    RemoteIp,
    DestinationIp,
    DestinationPort,
    Sni,
    Host,
    Method,
    Path,
    /// The header's name in lower case.
    Header(String),
    Claim(Vec<String>),
    Metadata,
}

/// Collects the literals of one alternative.
struct Builder<'a, 'b> {
    resolver: &'a mut Resolver<'b>,
    policy: &'a AuthorizationPolicy,
    all: Vec<Literal>,
}

impl Builder<'_, '_> {
    /// A field and its not-form: both must hold. An absent or empty list asks nothing.
    fn both(
        &mut self,
        field: &'static str,
        values: &Option<Vec<String>>,
        not_values: &Option<Vec<String>>,
        kind: Kind,
    ) -> Result<(), ResolveError> {
        for (list, negated) in [(values, false), (not_values, true)] {
            let list = list.as_deref().unwrap_or_default();
            let mut any = Vec::with_capacity(list.len());
            for value in list {
                let atoms = self.atoms(&kind, value).ok_or_else(|| ResolveError {
                    policy: format!("{}/{}", self.policy.namespace, self.policy.name),
                    field,
                    value: value.clone(),
                })?;
                any.extend(atoms.into_iter().map(|atom| self.resolver.intern(atom)));
            }
            if !list.is_empty() {
                any.sort_unstable();
                any.dedup();
                self.all.push(Literal { any, negated });
            }
        }
        Ok(())
    }

    /// The atoms that one value stands for; several only where trust domains have aliases.
    fn atoms(&self, kind: &Kind, value: &str) -> Option<Vec<Atom>> {
        let mesh = &self.resolver.cluster.mesh;
        Some(match kind {
            Kind::Principal if self.resolver.domains == TrustDomains::AsWritten => {
                vec![Atom::Principal(Pattern::parse(value))]
            }
            Kind::Principal => trust_domain::expand_principal(mesh, value)
                .iter()
                .map(|v| Atom::Principal(Pattern::parse(v)))
                .collect(),
            Kind::TrustDomain => trust_domain::expand(mesh, value)
                .iter()
                .map(|v| Atom::TrustDomain(Pattern::parse(v)))
                .collect(),
            Kind::RequestPrincipal => {
                let (issuer, subject) = condition::request_principal(value);
                vec![Atom::RequestPrincipal { issuer, subject }]
            }
            Kind::Namespace => vec![Atom::Namespace(value.into())],
            Kind::ServiceAccount => {
                // ISTIO: "If no namespace is specified, the namespace of the policy is used."
                let (namespace, name) = value
                    .split_once('/')
                    .unwrap_or((&self.policy.namespace, value));
                vec![Atom::ServiceAccount {
                    namespace: namespace.into(),
                    name: name.into(),
                }]
            }
            Kind::SourceIp => vec![Atom::SourceIp(network(value)?)],
            Kind::RemoteIp => vec![Atom::RemoteIp(network(value)?)],
            Kind::DestinationIp => vec![Atom::DestinationIp(network(value)?)],
            Kind::DestinationPort => vec![Atom::DestinationPort(value.parse().ok()?)],
            Kind::Sni => vec![Atom::Sni(Pattern::parse(value))],
            Kind::Host => vec![Atom::Host(Pattern::parse(&value.to_ascii_lowercase()))],
            Kind::Method => vec![Atom::Method(Pattern::parse(value))],
            Kind::Path => vec![Atom::Path(path(value))],
            Kind::Header(name) => {
                vec![Atom::Header {
                    name: name.clone(),
                    value: Pattern::parse(value),
                }]
            }
            Kind::Claim(path) => {
                vec![Atom::Claim {
                    path: path.clone(),
                    value: Pattern::parse(value),
                }]
            }
            Kind::Metadata => vec![Atom::Never],
        })
    }
}

/// A block with its host bits cleared: `10.0.0.7/24` is 10.0.0.0/24, an address is a block of one.
fn network(value: &str) -> Option<IpNet> {
    match value.parse::<IpNet>() {
        Ok(net) => Some(net.trunc()),
        Err(_) => value.parse::<IpAddr>().ok().map(IpNet::from),
    }
}

fn path(value: &str) -> PathPattern {
    if value.contains("{*}") || value.contains("{**}") {
        PathPattern::Template(value.into())
    } else {
        PathPattern::Plain(Pattern::parse(value))
    }
}

fn attachment(cluster: &Cluster, home: &str, written: &ast::Attachment) -> Attachment {
    // ISTIO: "If the authorization policy is in the root namespace, the selector will additionally
    // match with workloads in all namespaces."
    let everywhere = home == cluster.mesh.root_namespace;
    Attachment {
        namespace: (!everywhere).then(|| home.into()),
        labels: written
            .selector
            .iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
        targets: written
            .target_refs
            .iter()
            .map(|t| Target {
                group: t.group.clone(),
                kind: t.kind.clone(),
                name: t.name.clone(),
            })
            .collect(),
        home: home.into(),
    }
}

fn authentication(cluster: &Cluster, written: &RequestAuthentication) -> Authentication {
    Authentication {
        namespace: written.namespace.clone(),
        name: written.name.clone(),
        attachment: attachment(cluster, &written.namespace, &written.attachment),
        jwt_rules: written
            .jwt_rules
            .iter()
            .map(|rule| JwtRule {
                issuer: rule.issuer.clone(),
                audiences: rule.audiences.clone(),
                jwks: rule.jwks.clone(),
                jwks_uri: rule.jwks_uri.clone(),
                from_headers: rule
                    .from_headers
                    .iter()
                    .map(|h| (h.name.to_ascii_lowercase(), h.prefix.clone()))
                    .collect(),
                from_params: rule.from_params.clone(),
                from_cookies: rule.from_cookies.clone(),
                output_payload_to_header: rule.output_payload_to_header.clone(),
                output_claim_to_headers: rule
                    .output_claim_to_headers
                    .iter()
                    .map(|c| (c.header.clone(), c.claim.clone()))
                    .collect(),
                forward_original_token: rule.forward_original_token,
                space_delimited_claims: rule.space_delimited_claims.clone(),
                timeout_ms: rule.timeout_ms,
            })
            .collect(),
    }
}
