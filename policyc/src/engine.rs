//! The production engine behind `eval`: the linked table, then the requests' engine. The same two
//! that the kernel and the proxy run.

pub(crate) mod certain;
pub(crate) mod parties;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use enforcer_ebpf::{
    decide,
    words::{Cell, Verdict},
};

use crate::{
    attach::Attachments,
    cluster::Cluster,
    ir::{Program, RuleRef},
    l7::{
        engine::{CompiledResidual, Engine, Outcome, Step},
        request::{Connection, HttpRequest},
    },
    link::{self, Linked, Local, NodeView, PodName, Record, Source},
    request::{Authorizer, Cause, DryRunHit, Expected, Hit, Judgement, Layer, Request, Wire},
};

use parties::{Destination, Needs, Parties, World};

/// Destinations that are linked into one table.
const DESTINATIONS_AT_ONCE: usize = 4_096;

/// Judges requests, in order. `now` is in seconds since 1970. An error is a request that cannot be
/// judged, in words.
pub fn judge(
    program: &Program,
    cluster: &Cluster,
    requests: &[Request],
    now: u64,
) -> Vec<Result<Judgement, String>> {
    each(
        program,
        cluster,
        requests,
        |table, number, request, parties| table.judge(number, request, parties, now),
    )
}

/// Asks a table about each of these requests, in order. It is linked for the requests'
/// destinations, and `ask` is given the number that a request has in it. An error is a request that
/// cannot be judged, in words.
pub(crate) fn each<T>(
    program: &Program,
    cluster: &Cluster,
    requests: &[Request],
    ask: impl Fn(&Table<'_>, usize, &Request, &Parties) -> Result<T, String>,
) -> Vec<Result<T, String>> {
    let world = World::new(cluster);
    let parties: Vec<Result<Parties, String>> = requests
        .iter()
        .map(|request| Parties::of(&world, request))
        .collect();
    let mut answers: Vec<Result<T, String>> = parties
        .iter()
        .map(|p| Err(p.as_ref().err().cloned().unwrap_or_default()))
        .collect();
    let destinations: BTreeSet<&PodName> = parties
        .iter()
        .flatten()
        .map(|p| &p.destination.name)
        .collect();
    let destinations: Vec<&PodName> = destinations.into_iter().collect();
    for chunk in destinations.chunks(DESTINATIONS_AT_ONCE) {
        let chunk: BTreeSet<PodName> = chunk.iter().map(|name| (*name).clone()).collect();
        let members: Vec<usize> = (0..requests.len())
            .filter(
                |i| matches!(parties.get(*i), Some(Ok(p)) if chunk.contains(&p.destination.name)),
            )
            .collect();
        let table = Table::link(
            program,
            cluster,
            chunk,
            members
                .iter()
                .filter_map(|i| parties.get(*i).and_then(|p| p.as_ref().ok())),
        );
        for (number, i) in members.into_iter().enumerate() {
            let (Some(request), Some(Ok(parties)), Some(answer)) =
                (requests.get(i), parties.get(i), answers.get_mut(i))
            else {
                continue;
            };
            *answer = match &table {
                Ok(table) => ask(table, number, request, parties),
                Err(error) => Err(error.clone()),
            };
        }
    }
    answers
}

/// A linked table with its requests' engine.
pub(crate) struct Table<'a> {
    program: &'a Program,
    pub linked: Linked,
    pub engine: Engine,
    residuals: BTreeMap<u32, CompiledResidual>,
    scopes: BTreeMap<PodName, (u32, u32)>,
    needs: BTreeMap<PodName, Needs>,
}

/// Who answers for the authorizers.
#[derive(Clone, Copy)]
enum Answers<'a> {
    /// The request says what they answer.
    Of(&'a Request),
    /// They are not asked, and have no say.
    Yes,
}

impl Answers<'_> {
    fn of(self, provider: &str) -> Option<Authorizer> {
        match self {
            Self::Of(request) => request.ext_authz.as_ref()?.get(provider).copied(),
            Self::Yes => Some(Authorizer::Allow),
        }
    }
}

impl<'a> Table<'a> {
    pub fn link<'p>(
        program: &'a Program,
        cluster: &Cluster,
        local: BTreeSet<PodName>,
        parties: impl Iterator<Item = &'p Parties>,
    ) -> Result<Self, String> {
        let mut sources = Vec::new();
        let mut destinations: BTreeMap<&PodName, &Destination> = BTreeMap::new();
        for one in parties {
            sources.push(one.source.clone());
            destinations.insert(&one.destination.name, &one.destination);
        }
        let attachments = Attachments::new(program);
        let needs = destinations
            .iter()
            .map(|(name, d)| ((*name).clone(), Needs::of(program, &attachments, d)))
            .collect();
        let mut world = Cow::Borrowed(cluster);
        if destinations.values().any(|d| d.pod.is_some()) {
            world.to_mut().pods.extend(
                destinations
                    .values()
                    .filter_map(|d| d.pod.clone().map(Arc::new)),
            );
        }
        let node = NodeView {
            local: Local::Only(local),
            ..NodeView::default()
        };
        let linked = link::link(program, &world, &node, &sources).map_err(|e| e.to_string())?;
        let engine = Engine::new(program);
        let mut residuals = BTreeMap::new();
        for (number, residual) in (0u32..).zip(&linked.residuals) {
            residuals.insert(number, engine.compile(residual).map_err(|e| e.to_string())?);
        }
        let scopes = linked
            .pods
            .iter()
            .map(|p| {
                (
                    (p.namespace.clone(), p.name.clone()),
                    (p.scope_v4, p.scope_v6),
                )
            })
            .collect();
        Ok(Self {
            program,
            linked,
            engine,
            residuals,
            scopes,
            needs,
        })
    }

    /// `number` is the request's among those that the table was linked for.
    pub fn judge(
        &self,
        number: usize,
        request: &Request,
        parties: &Parties,
        now: u64,
    ) -> Result<Judgement, String> {
        let (cell, record) = self.cell(number, request, parties)?;
        let residual = self
            .residuals
            .get(&record.residual)
            .ok_or_else(|| format!("record {} names no residual", cell.record()))?;
        let per_request = self
            .linked
            .residuals
            .get(record.residual as usize)
            .is_some_and(|r| r.http.is_some());
        if request.protocol == Wire::Http && request.http.is_none() && per_request {
            return Err(format!(
                "port {} is judged request by request, and the request has no `http`",
                request.port
            ));
        }
        let decided = match cell.verdict() {
            Verdict::Ask => None,
            Verdict::Allow => Some(Expected::Allow),
            Verdict::Deny => Some(Expected::Deny),
        };
        // Where the kernel decides nobody asks the authorizer.
        let answers = match decided {
            None => Answers::Of(request),
            Some(_) => Answers::Yes,
        };
        let outcome = self.request(residual, request, parties, answers, now)?;
        match decided {
            None => Ok(self.of_engine(outcome)),
            Some(decided) => self.of_kernel(decided, record, outcome),
        }
    }

    /// The cell of a request and its record: what the kernel finds.
    fn cell(
        &self,
        number: usize,
        request: &Request,
        parties: &Parties,
    ) -> Result<(Cell, &Record), String> {
        self.addresses_suffice(request, parties)?;
        let words = &self.linked.words[..];
        let scope = self.scope(request, parties)?;
        let class = self.class(number, parties);
        let cell = decide::decide(words, scope, class, u32::from(request.port));
        let record = self
            .linked
            .records
            .get(cell.record() as usize)
            .ok_or_else(|| format!("cell {cell:?} names a record that is not there"))?;
        Ok((cell, record))
    }

    /// What userspace said.
    fn of_engine(&self, outcome: Outcome) -> Judgement {
        Judgement {
            verdict: outcome.verdict,
            layer: Layer::L7,
            reason: outcome.cause,
            policy: outcome.rule.and_then(|rule| self.policy(rule)),
            rule: outcome.rule.map(|rule| rule.rule),
            audit: self.hits(&outcome.audit),
            dry_run: self.dry_run_of(&outcome),
        }
    }

    /// What the kernel said: cause and rule are its record's, as its events have them. What else the
    /// request meets is told too.
    fn of_kernel(
        &self,
        decided: Expected,
        record: &Record,
        outcome: Outcome,
    ) -> Result<Judgement, String> {
        let malformed = outcome.cause == Cause::BadRequest;
        if decided != outcome.verdict && !malformed {
            return Err(format!(
                "the table says {decided:?} and the request's engine {:?}: this is a defect",
                outcome.verdict
            ));
        }
        // A malformed request is read by nobody.
        let (audit, dry_run) = if malformed {
            (self.hits(&record.audit), self.dry_run(&record.dry_run))
        } else {
            (self.hits(&outcome.audit), self.dry_run_of(&outcome))
        };
        Ok(Judgement {
            verdict: decided,
            layer: Layer::L4,
            reason: record.cause,
            policy: record.rule.and_then(|rule| self.policy(rule)),
            rule: record.rule.map(|rule| rule.rule),
            audit,
            dry_run,
        })
    }

    /// The offset of the destination's scope.
    pub fn scope(&self, request: &Request, parties: &Parties) -> Result<u32, String> {
        match self.scopes.get(&parties.destination.name) {
            Some((v4, v6)) => Ok(if parties.v6 { *v6 } else { *v4 }),
            None => Err(format!("`{}` cannot be enforced", request.dst)),
        }
    }

    /// The source's class.
    pub fn class(&self, number: usize, parties: &Parties) -> u32 {
        let words = &self.linked.words[..];
        match (&parties.listed, &parties.source) {
            // A pod of the inventory is found by its address, as in the kernel.
            (
                true,
                Source {
                    address: Some(address),
                    ..
                },
            ) => match address {
                std::net::IpAddr::V4(a) => decide::address_v4(words, u32::from(*a)).class(),
                std::net::IpAddr::V6(a) => {
                    let bits = u128::from(*a);
                    let word = |shift: u32| {
                        u32::try_from((bits >> shift) & u128::from(u32::MAX)).unwrap_or(0)
                    };
                    decide::address_v6(words, &[word(96), word(64), word(32), word(0)]).class()
                }
            },
            _ => self
                .linked
                .extra_classes
                .get(number)
                .copied()
                .map_or(0, u32::from),
        }
    }

    fn request(
        &self,
        residual: &CompiledResidual,
        request: &Request,
        parties: &Parties,
        answers: Answers<'_>,
        now: u64,
    ) -> Result<Outcome, String> {
        let connection = Connection {
            peer: parties.source.address,
            sni: request.sni.as_deref(),
        };
        let mut view = request
            .http
            .as_ref()
            .map(|http| HttpRequest::from_json(http, now));
        if let Some(view) = &mut view {
            view.authority = parties.authority.as_deref();
        }
        let judge = |answer| {
            self.engine.judge(
                residual,
                request.protocol,
                connection,
                view.as_ref(),
                answer,
            )
        };
        match judge(None) {
            Step::Verdict(outcome) => Ok(*outcome),
            Step::AskAuthorizer { provider, .. } => {
                let answer = answers
                    .of(provider)
                    .ok_or_else(|| format!("`ext_authz` has no answer of provider `{provider}`"))?;
                match judge(Some(answer)) {
                    Step::Verdict(outcome) => Ok(*outcome),
                    Step::AskAuthorizer { .. } => Err("the authorizer was asked twice".into()),
                }
            }
        }
    }

    /// A source without an address cannot be judged where a policy asks for one; nor a destination.
    fn addresses_suffice(&self, request: &Request, parties: &Parties) -> Result<(), String> {
        let needs = self
            .needs
            .get(&parties.destination.name)
            .copied()
            .unwrap_or_default();
        if needs.source && parties.source.address.is_none() {
            return Err(format!(
                "a policy of `{}` asks for the source's address, and `{}` has none: give `src_ip`",
                request.dst, parties.source_name
            ));
        }
        if needs.destination && !parties.destination.has_address {
            return Err(format!(
                "a policy of `{}` asks for `destination.ip`, and it has no address",
                request.dst
            ));
        }
        Ok(())
    }

    fn policy(&self, rule: RuleRef) -> Option<String> {
        self.program
            .policies
            .get(rule.policy.index())
            .map(|policy| policy.qualified_name())
    }

    fn hits(&self, rules: &[RuleRef]) -> Vec<Hit> {
        let hit = |rule: &RuleRef| {
            Some(Hit {
                policy: self.policy(*rule)?,
                rule: rule.rule,
            })
        };
        rules.iter().filter_map(hit).collect()
    }

    fn dry_run_of(&self, outcome: &Outcome) -> Vec<DryRunHit> {
        let mut rules = [&outcome.dry_run_allow[..], &outcome.dry_run_deny].concat();
        rules.sort_unstable();
        self.dry_run(&rules)
    }

    fn dry_run(&self, rules: &[RuleRef]) -> Vec<DryRunHit> {
        let hit = |rule: &RuleRef| {
            let policy = self.program.policies.get(rule.policy.index())?;
            let action = match policy.action {
                crate::ir::Action::Deny => "DENY",
                _ => "ALLOW",
            };
            Some(DryRunHit {
                policy: policy.qualified_name(),
                rule: rule.rule,
                action: action.into(),
            })
        };
        rules.iter().filter_map(hit).collect()
    }
}
