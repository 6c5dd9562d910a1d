//! The order of judgement: CUSTOM, tokens, DENY, ALLOW.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    attach,
    facts::{Facts, Spoken, Workload},
    rule::{self, Asking},
    truth::{Fact, Truth},
    unjudgeable::Unjudgeable,
};
use crate::{
    ast::{Action, AuthorizationPolicy, JwtRule, Rule},
    cluster::{Cluster, Mesh, ProviderKind},
    options::CatchAllDeny,
    request::{Authorizer, Cause, DryRunHit, Hit},
};

/// What applies to one workload, in the order (namespace, name).
#[derive(Debug)]
pub struct Stages<'a> {
    mesh: &'a Mesh,
    catch_all_deny: CatchAllDeny,
    custom: Vec<&'a AuthorizationPolicy>,
    deny: Vec<&'a AuthorizationPolicy>,
    allow: Vec<&'a AuthorizationPolicy>,
    audit: Vec<&'a AuthorizationPolicy>,
    dry_run: Vec<&'a AuthorizationPolicy>,
    /// Sorted by issuer.
    pub jwt_rules: Vec<&'a JwtRule>,
}

/// What is known before the order of judgement begins.
#[derive(Debug)]
pub struct Known<'a> {
    /// The request as it came: what CUSTOM rules see.
    pub before_tokens: Facts,
    /// The request once its tokens have been looked at: what all other rules see.
    pub after_tokens: Facts,
    /// Why the tokens are refused, if they are.
    pub tokens: Fact<Option<Cause>>,
    /// What the authorizers answer.
    pub answers: Fact<Option<&'a BTreeMap<String, Authorizer>>>,
}

/// A policy and one of its rules.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Named<'a> {
    pub policy: &'a AuthorizationPolicy,
    pub rule: u32,
}

/// A verdict that may not be certain yet, and what it would be due to.
#[derive(Debug)]
pub struct Verdict<'a> {
    pub allowed: Truth,
    pub cause: Cause,
    pub named: Option<Named<'a>>,
}

/// What one stage says.
#[derive(Debug)]
struct Stage<'a> {
    refuses: Truth,
    cause: Cause,
    named: Option<Named<'a>>,
}

impl<'a> Stages<'a> {
    pub fn of(cluster: &'a Cluster, workload: &Workload, catch_all_deny: CatchAllDeny) -> Self {
        let mut policies: Vec<&AuthorizationPolicy> = cluster
            .policies
            .iter()
            .filter(|p| attach::applies(&cluster.mesh, &p.namespace, &p.attachment, workload))
            .collect();
        policies.sort_by_key(|p| (&p.namespace, &p.name));
        let with = |wanted: fn(&AuthorizationPolicy) -> bool| {
            let chosen = policies.iter().copied();
            chosen.filter(|p| wanted(p)).collect::<Vec<_>>()
        };
        let mut authentications: Vec<_> = cluster
            .request_authentications
            .iter()
            .filter(|r| attach::applies(&cluster.mesh, &r.namespace, &r.attachment, workload))
            .collect();
        authentications.sort_by_key(|r| (&r.namespace, &r.name));
        let mut jwt_rules: Vec<&JwtRule> =
            authentications.iter().flat_map(|r| &r.jwt_rules).collect();
        jwt_rules.sort_by_key(|rule| &rule.issuer);
        Self {
            mesh: &cluster.mesh,
            catch_all_deny,
            custom: with(|p| !p.dry_run && matches!(p.action, Action::Custom { .. })),
            deny: with(|p| !p.dry_run && p.action == Action::Deny),
            allow: with(|p| !p.dry_run && p.action == Action::Allow),
            audit: with(|p| !p.dry_run && p.action == Action::Audit),
            dry_run: with(|p| p.dry_run),
            jwt_rules,
        }
    }

    /// Goes through the stages. The first that refuses decides; when none does, the request is
    /// allowed.
    pub fn judge(&self, known: &Known<'a>) -> Result<Verdict<'a>, Unjudgeable> {
        // ISTIO: "1. If there are any CUSTOM policies that match the request, evaluate and deny the
        // request if the evaluation result is deny."
        let custom = self.custom(known)?;
        let tokens = tokens(known);
        // ISTIO: "2. If there are any DENY policies that match the request, deny the request."
        let deny = self.deny(&known.after_tokens)?;
        // ISTIO: "4. If any of the ALLOW policies match the request, allow the request."
        let allow = self.first_match(&self.allow, &known.after_tokens)?;
        let unmatched = self.otherwise(&allow);

        let stages = [custom, tokens, deny, unmatched];
        let allowed = stages
            .iter()
            .fold(Truth::No, |refused, stage| refused.or(stage.refuses))
            .not();
        let decisive = stages.into_iter().find(|s| s.refuses == Truth::Yes);
        Ok(match decisive {
            Some(stage) => Verdict {
                allowed,
                cause: stage.cause,
                named: stage.named,
            },
            None => Verdict {
                allowed,
                cause: match allow.named {
                    Some(_) => Cause::AllowRule,
                    None => Cause::NoAllowPolicy,
                },
                named: allow.named,
            },
        })
    }

    /// Whether the addresses that any of the policies asks for are known.
    pub fn check_addresses(&self, facts: &Facts) -> Result<(), Unjudgeable> {
        let all = [
            &self.custom,
            &self.deny,
            &self.allow,
            &self.audit,
            &self.dry_run,
        ];
        for (named, rule) in all.into_iter().flat_map(|policies| rules(policies)) {
            if facts.source.is_none() && rule::asks_for_source(rule) {
                return Err(Unjudgeable::NoSourceAddress {
                    policy: named.name(),
                    rule: named.rule,
                });
            }
            if facts.destination.is_none() && rule::asks_for_destination(rule) {
                return Err(Unjudgeable::NoDestinationAddress {
                    policy: named.name(),
                    rule: named.rule,
                });
            }
        }
        Ok(())
    }

    /// Every AUDIT rule that matches.
    pub fn audit_hits(&self, facts: &Facts) -> Result<Vec<Hit>, Unjudgeable> {
        let hits = self.all_matches(&self.audit, facts)?;
        Ok(hits
            .into_iter()
            .map(|hit| Hit {
                policy: hit.name(),
                rule: hit.rule,
            })
            .collect())
    }

    /// Every rule of a dry-run policy that matches.
    pub fn dry_run_hits(&self, facts: &Facts) -> Result<Vec<DryRunHit>, Unjudgeable> {
        let hits = self.all_matches(&self.dry_run, facts)?;
        Ok(hits
            .into_iter()
            .map(|hit| DryRunHit {
                policy: hit.name(),
                rule: hit.rule,
                action: match hit.policy.action {
                    Action::Allow => "ALLOW",
                    Action::Deny => "DENY",
                    Action::Audit => "AUDIT",
                    Action::Custom { .. } => "CUSTOM",
                }
                .into(),
            })
            .collect())
    }

    fn custom(&self, known: &Known<'a>) -> Result<Stage<'a>, Unjudgeable> {
        let matched = self.first_match(&self.custom, &known.before_tokens)?;
        let is_bytes = matches!(known.before_tokens.spoken, Spoken::Tcp);
        let (refuses, cause) = match self.provider() {
            // Without one authorizer to ask, whatever the rules match is refused.
            None => (matched.truth, Cause::CustomUnresolved),
            // An authorizer that speaks HTTP cannot be asked about bytes: its rules do nothing.
            Some(provider) if provider.speaks_http && is_bytes => (Truth::No, Cause::CustomDenied),
            Some(provider) => ask(known, &matched, &provider)?,
        };
        Ok(Stage {
            refuses,
            cause,
            named: matched.named,
        })
    }

    /// The one authorizer that all CUSTOM policies of the workload name, if the mesh knows it.
    ///
    /// ISTIO: "currently at most 1 extension provider is allowed per workload."
    fn provider(&self) -> Option<Provider<'a>> {
        let names: BTreeSet<&str> = self
            .custom
            .iter()
            .filter_map(|policy| match &policy.action {
                Action::Custom { provider } => Some(provider.as_str()),
                Action::Allow | Action::Deny | Action::Audit => None,
            })
            .collect();
        let [name] = names.into_iter().collect::<Vec<_>>()[..] else {
            return None;
        };
        let providers = &self.mesh.extension_providers;
        let (authorizer, speaks_http) = match &providers.iter().find(|p| p.name == name)?.kind {
            ProviderKind::ExtAuthzGrpc(authorizer) => (authorizer, false),
            ProviderKind::ExtAuthzHttp(authorizer) => (authorizer, true),
            ProviderKind::Other => return None,
        };
        Some(Provider {
            name,
            speaks_http,
            fail_open: authorizer.fail_open,
        })
    }

    fn deny(&self, facts: &Facts) -> Result<Stage<'a>, Unjudgeable> {
        let matched = self.first_match(&self.deny, facts)?;
        Ok(Stage {
            refuses: matched.truth,
            cause: Cause::DenyRule,
            named: matched.named,
        })
    }

    /// What happens to a request that no ALLOW rule matches.
    fn otherwise(&self, allow: &Matched<'a>) -> Stage<'a> {
        let default_deny = rules(&self.deny).find(|(_, rule)| self.is_default(rule));
        let unmatched = allow.truth.not();
        let (refuses, cause) = match default_deny {
            Some(_) => (unmatched, Cause::DefaultDeny),
            // ISTIO: "3. If there are no ALLOW policies for the workload, allow the request."
            None if self.allow.is_empty() => (Truth::No, Cause::NoAllowPolicy),
            // ISTIO: "5. Deny the request."
            None => (unmatched, Cause::NoAllowMatched),
        };
        Stage {
            refuses,
            cause,
            named: default_deny.map(|(named, _)| named),
        }
    }

    /// Whether this rule of an enforced DENY policy only says what happens otherwise.
    fn is_default(&self, rule: &Rule) -> bool {
        self.catch_all_deny == CatchAllDeny::DefaultDeny
            && rule.from.iter().flatten().next().is_none()
            && rule.to.iter().flatten().next().is_none()
            && rule.when.iter().flatten().next().is_none()
    }

    /// Whether any rule of the policies matches, and the lowest that does for certain.
    fn first_match(
        &self,
        policies: &[&'a AuthorizationPolicy],
        facts: &Facts,
    ) -> Result<Matched<'a>, Unjudgeable> {
        let mut matched = Matched {
            truth: Truth::No,
            named: None,
        };
        for (named, rule) in rules(policies) {
            let truth = self.matches(named, rule, facts)?;
            matched.truth = matched.truth.or(truth);
            if truth == Truth::Yes && matched.named.is_none() {
                matched.named = Some(named);
            }
        }
        Ok(matched)
    }

    fn all_matches(
        &self,
        policies: &[&'a AuthorizationPolicy],
        facts: &Facts,
    ) -> Result<Vec<Named<'a>>, Unjudgeable> {
        let mut all = Vec::new();
        for (named, rule) in rules(policies) {
            if self.matches(named, rule, facts)? == Truth::Yes {
                all.push(named);
            }
        }
        Ok(all)
    }

    fn matches(&self, named: Named, rule: &Rule, facts: &Facts) -> Result<Truth, Unjudgeable> {
        let is_enforced_deny = named.policy.action == Action::Deny && !named.policy.dry_run;
        if is_enforced_deny && self.is_default(rule) {
            return Ok(Truth::No);
        }
        let asking = Asking {
            mesh: self.mesh,
            policy: named.policy,
            number: named.rule,
            facts,
        };
        rule::matches(&asking, rule)
    }
}

/// The external authorizer of a workload.
struct Provider<'a> {
    name: &'a str,
    speaks_http: bool,
    fail_open: bool,
}

/// What came of the rules of one stage.
#[derive(Debug)]
struct Matched<'a> {
    truth: Truth,
    /// The lowest rule that matches for certain.
    named: Option<Named<'a>>,
}

impl Named<'_> {
    /// `namespace/name` of the policy.
    pub fn name(&self) -> String {
        format!("{}/{}", self.policy.namespace, self.policy.name)
    }
}

/// Tokens are refused, or not, or nobody has looked at them yet.
fn tokens<'a>(known: &Known) -> Stage<'a> {
    Stage {
        refuses: known.tokens.ask(Option::is_some),
        cause: match known.tokens {
            Fact::Known(Some(cause)) => cause,
            Fact::Known(None) | Fact::Unknown => Cause::JwtInvalid,
        },
        named: None,
    }
}

/// What the authorizer says to what matched.
fn ask(
    known: &Known,
    matched: &Matched,
    provider: &Provider,
) -> Result<(Truth, Cause), Unjudgeable> {
    let Fact::Known(answers) = known.answers else {
        return Ok((matched.truth.and(Truth::Maybe), Cause::CustomDenied));
    };
    let Some(named) = matched.named else {
        return Ok((Truth::No, Cause::CustomDenied));
    };
    match answers.and_then(|answers| answers.get(provider.name)) {
        Some(Authorizer::Allow) => Ok((Truth::No, Cause::CustomDenied)),
        Some(Authorizer::Deny) => Ok((Truth::Yes, Cause::CustomDenied)),
        Some(Authorizer::Error) => Ok(((!provider.fail_open).into(), Cause::CustomError)),
        None => Err(Unjudgeable::NoAnswer {
            policy: named.name(),
            rule: named.rule,
            provider: provider.name.into(),
        }),
    }
}

/// All rules of the policies in order.
fn rules<'a>(policies: &[&'a AuthorizationPolicy]) -> impl Iterator<Item = (Named<'a>, &'a Rule)> {
    policies.iter().flat_map(|policy| {
        let numbered = (0u32..).zip(policy.rules.iter().flatten());
        numbered.map(|(rule, written)| (Named { policy, rule }, written))
    })
}
