//! The order of judgement: CUSTOM, JWT, DENY, ALLOW, and what happens when none of them speaks.
//! Everything is parsed, indexed and numbered when a residual is compiled; judging allocates nothing
//! unless a token, a changed path or an audit hit makes it.

mod look;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

pub use look::{Looked, Seen, View};

use super::{
    answer::{Answer, is_grpc},
    jwt::{self, Authenticator, Provider, Verified},
    matcher::{Facts, HttpFacts},
    normalize::{Target, normalize},
    request::{Connection, HttpRequest},
    rules::{Builder, Code, Memo, Stage},
};
use crate::{
    cluster::{ExtAuthz, Mesh, PathNormalization, ProviderKind},
    ir::{self, Atom, AtomId, Otherwise, Program, Residual, RuleRef, Stages},
    request::{Authorizer, Cause, Expected, Wire},
};

/// What all residuals of one program share.
#[derive(Debug)]
pub struct Engine {
    atoms: Vec<Atom>,
    normalization: PathNormalization,
    providers: Vec<Vec<Arc<Provider>>>,
    authorizers: BTreeMap<String, Arc<AuthorizerSettings>>,
}

/// An external authorizer, as the mesh defines it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthorizerSettings {
    /// It speaks `envoy.service.auth.v3` over gRPC; otherwise plain HTTP.
    pub grpc: bool,
    pub settings: ExtAuthz,
}

/// What a failing authorizer means.
#[derive(Clone, Copy, Debug)]
struct OnError {
    open: bool,
    status: u16,
}

impl Default for OnError {
    fn default() -> Self {
        Self {
            open: false,
            status: 403,
        }
    }
}

impl OnError {
    fn of(settings: &ExtAuthz) -> Self {
        Self {
            open: settings.fail_open,
            status: settings.status_on_error.unwrap_or(403),
        }
    }
}

/// A residual, ready to judge. Holds no reference to the program it came from.
#[derive(Debug)]
pub struct CompiledResidual {
    http: Option<CompiledStages>,
    tcp: CompiledStages,
    forwarded_for: u32,
}

#[derive(Debug)]
struct CompiledStages {
    code: Code,
    custom: Stage,
    provider: ir::Provider,
    on_error: OnError,
    authenticator: Authenticator,
    deny: Stage,
    allow: Stage,
    otherwise: Otherwise,
    audit: Stage,
    dry_run_allow: Stage,
    dry_run_deny: Stage,
}

/// Why a residual cannot be compiled: each is a mistake of whoever made it, and refuses the whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CompileError {
    #[error("the residual names atom {0:?}, which the program does not have")]
    UnknownAtom(AtomId),
    #[error("atom {0:?} is about source or destination and should have been decided before")]
    KernelAtom(AtomId),
    #[error("the residual names RequestAuthentication {0:?}, which the program does not have")]
    UnknownAuthentication(ir::AuthenticationId),
    #[error("the residual has more than 2^31 bytes of code")]
    TooLarge,
}

impl CompiledResidual {
    /// Whether HTTP, where it is spoken, is judged per request.
    pub fn may_speak_http(&self) -> bool {
        self.http.is_some()
    }
}

/// What to do next about a request.
#[derive(Clone, PartialEq, Debug)]
pub enum Step<'a> {
    /// Ask this provider about the request as it came, and judge again with its answer.
    AskAuthorizer {
        provider: &'a str,
        rule: RuleRef,
    },
    Verdict(Box<Outcome>),
}

/// The verdict on a request, and everything that goes with it.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    pub verdict: Expected,
    pub cause: Cause,
    /// The lowest matching rule of the deciding stage.
    pub rule: Option<RuleRef>,
    /// AUDIT rules that match, in order, whatever the verdict; none for a malformed request.
    pub audit: Vec<RuleRef>,
    pub dry_run_allow: Vec<RuleRef>,
    pub dry_run_deny: Vec<RuleRef>,
    /// What the client is told when HTTP is refused.
    pub answer: Option<Answer>,
    /// How an allowed HTTP request differs from the one that came.
    pub upstream: Upstream,
}

/// Changes to an allowed request before it is forwarded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Upstream {
    /// The target to send, where it is not the one that came.
    pub target: Option<String>,
    /// Names in lower case; every line of each goes.
    pub removed_headers: Vec<String>,
    /// Added after the removal.
    pub added_headers: Vec<(String, String)>,
}

impl Engine {
    /// Parses what the program holds: keys and options. Key sets that it does not hold stay empty.
    pub fn new(program: &Program) -> Self {
        Self::with_keys(program, &jwt::KeyRing::default())
    }

    /// As [`Engine::new`], with a ring for the key sets that are fetched.
    pub fn with_keys(program: &Program, ring: &jwt::KeyRing) -> Self {
        Self {
            atoms: program.atoms.clone(),
            normalization: program.mesh.path_normalization,
            providers: jwt::providers(program, ring),
            authorizers: authorizers(&program.mesh),
        }
    }

    /// Where a provider that [`Step::AskAuthorizer`] names is to be asked.
    pub fn authorizer(&self, provider: &str) -> Option<&Arc<AuthorizerSettings>> {
        self.authorizers.get(provider)
    }

    /// How request targets are normalised.
    pub fn normalization(&self) -> PathNormalization {
        self.normalization
    }

    /// Compiles a residual. Do it once for each, not for each request.
    pub fn compile(&self, residual: &Residual) -> Result<CompiledResidual, CompileError> {
        let http = residual.http.as_ref().map(|stages| self.stages(stages));
        Ok(CompiledResidual {
            http: http.transpose()?,
            tcp: self.stages(&residual.tcp)?,
            forwarded_for: residual.forwarded_for,
        })
    }

    fn stages(&self, stages: &Stages) -> Result<CompiledStages, CompileError> {
        let mut builder = Builder::new(&self.atoms);
        let applying = stages.authentications.iter().map(|id| {
            let providers = self.providers.get(id.index());
            providers.ok_or(CompileError::UnknownAuthentication(*id))
        });
        let applying = applying.collect::<Result<Vec<_>, _>>()?;
        let on_error = match &stages.provider {
            ir::Provider::Named(name) => {
                let authorizer = self.authorizers.get(name);
                authorizer.map(|authorizer| OnError::of(&authorizer.settings))
            }
            ir::Provider::None | ir::Provider::Unresolved => None,
        };
        Ok(CompiledStages {
            custom: builder.stage(&stages.custom)?,
            provider: stages.provider.clone(),
            on_error: on_error.unwrap_or_default(),
            authenticator: Authenticator::new(applying.into_iter().map(Vec::as_slice)),
            deny: builder.stage(&stages.deny)?,
            allow: builder.stage(&stages.allow)?,
            otherwise: stages.otherwise,
            audit: builder.stage(&stages.audit)?,
            dry_run_allow: builder.stage(&stages.dry_run_allow)?,
            dry_run_deny: builder.stage(&stages.dry_run_deny)?,
            code: builder.finish(),
        })
    }

    /// Judges what is spoken on a connection. `http` is the request where `wire` is HTTP; `answer`
    /// is the authorizer's, once a first call has asked for it. HTTP on a port that is not judged
    /// per request is judged as a connection.
    pub fn judge<'a>(
        &self,
        residual: &'a CompiledResidual,
        wire: Wire,
        connection: Connection<'_>,
        http: Option<&HttpRequest<'_>>,
        answer: Option<Authorizer>,
    ) -> Step<'a> {
        let Some(stages) = residual.http.as_ref().filter(|_| wire == Wire::Http) else {
            return judge_connection(&residual.tcp, connection, answer);
        };
        match http {
            Some(request) => {
                let forwarded_for = residual.forwarded_for;
                self.judge_http(stages, forwarded_for, connection, request, answer)
            }
            None => refused(Cause::BadRequest, None, None).into(),
        }
    }

    fn judge_http<'a>(
        &self,
        stages: &'a CompiledStages,
        forwarded_for: u32,
        connection: Connection<'_>,
        request: &HttpRequest<'_>,
        answer: Option<Authorizer>,
    ) -> Step<'a> {
        let grpc = || speaks_grpc(request);
        let Ok(target) = normalize(request.target, self.normalization) else {
            let answer = Answer::bad_request(grpc());
            return refused(Cause::BadRequest, None, Some(answer)).into();
        };
        let as_sent = Verified::default();
        let sent = Facts {
            connection,
            http: Some(HttpFacts::new(request, forwarded_for, &target, &as_sent)),
        };
        let refusal = match stages.custom(&sent, answer) {
            Custom::Ask { provider, rule } => return Step::AskAuthorizer { provider, rule },
            Custom::Refuse(cause, rule, status) => {
                let answer = match cause {
                    Cause::CustomUnresolved => Answer::denied(grpc()),
                    _ => Answer::new(status, Cow::Borrowed(""), grpc()),
                };
                Some(refused(cause, Some(rule), Some(answer)))
            }
            Custom::Pass => None,
        };
        // Past a refusal tokens matter only to rules that record.
        let tokens = if refusal.is_none() || stages.records() {
            stages.tokens(request, &target)
        } else {
            Ok(Verified::default())
        };
        let verified = tokens.as_ref().unwrap_or(&as_sent);
        let facts = Facts {
            connection,
            http: Some(HttpFacts::new(request, forwarded_for, &target, verified)),
        };
        let memo = &mut Memo::default();
        let mut outcome = match (refusal, &tokens) {
            (Some(refusal), _) => refusal,
            (None, Err(failure)) => refused_token(*failure, request),
            (None, Ok(_)) => stages.policies(&facts, memo),
        };
        stages.record(&facts, memo, &mut outcome);
        if outcome.verdict == Expected::Allow {
            let changed = facts.http.and_then(|http| match http.target {
                Cow::Borrowed(_) => None,
                Cow::Owned(changed) => Some(changed),
            });
            outcome.upstream = upstream(changed, tokens.unwrap_or_default());
        } else if outcome.answer.is_none() {
            outcome.answer = Some(Answer::denied(grpc()));
        }
        outcome.into()
    }
}

fn judge_connection<'a>(
    stages: &'a CompiledStages,
    connection: Connection<'_>,
    answer: Option<Authorizer>,
) -> Step<'a> {
    let facts = Facts {
        connection,
        http: None,
    };
    let memo = &mut Memo::default();
    let mut outcome = match stages.custom(&facts, answer) {
        Custom::Ask { provider, rule } => return Step::AskAuthorizer { provider, rule },
        Custom::Refuse(cause, rule, _) => refused(cause, Some(rule), None),
        Custom::Pass => stages.policies(&facts, memo),
    };
    stages.record(&facts, memo, &mut outcome);
    outcome.into()
}

/// What the CUSTOM stage wants.
enum Custom<'a> {
    Pass,
    Ask {
        provider: &'a str,
        rule: RuleRef,
    },
    /// With the status for HTTP.
    Refuse(Cause, RuleRef, u16),
}

impl CompiledStages {
    fn custom(&self, facts: &Facts<'_>, answer: Option<Authorizer>) -> Custom<'_> {
        if self.custom.is_empty() {
            return Custom::Pass;
        }
        let matched = self.custom.first(&self.code, facts, &mut Memo::default());
        let Some(rule) = matched else {
            return Custom::Pass;
        };
        let ir::Provider::Named(provider) = &self.provider else {
            return Custom::Refuse(Cause::CustomUnresolved, rule, 403);
        };
        match answer {
            None => Custom::Ask { provider, rule },
            Some(Authorizer::Allow) => Custom::Pass,
            Some(Authorizer::Error) if self.on_error.open => Custom::Pass,
            Some(Authorizer::Error) => {
                Custom::Refuse(Cause::CustomError, rule, self.on_error.status)
            }
            Some(Authorizer::Deny) => Custom::Refuse(Cause::CustomDenied, rule, 403),
        }
    }

    /// The JWT stage.
    fn tokens(
        &self,
        request: &HttpRequest<'_>,
        target: &Target<'_>,
    ) -> Result<Verified, jwt::Failure> {
        if self.authenticator.is_empty() {
            Ok(Verified::default())
        } else if is_preflight(request) {
            Ok(self.authenticator.without_token())
        } else {
            self.authenticator.verify(request, target.query)
        }
    }

    /// DENY, ALLOW and what is left; ends in what lowering wrote down, which is deny by default.
    fn policies(&self, facts: &Facts<'_>, memo: &mut Memo) -> Outcome {
        // ISTIO: "If there are any DENY policies that match the request, deny the request."
        let (verdict, cause, rule) = if let Some(rule) = self.deny.first(&self.code, facts, memo) {
            (Expected::Deny, Cause::DenyRule, Some(rule))
        } else if let Some(rule) = self.allow.first(&self.code, facts, memo) {
            (Expected::Allow, Cause::AllowRule, Some(rule))
        } else {
            match self.otherwise {
                Otherwise::Allow => (Expected::Allow, Cause::NoAllowPolicy, None),
                Otherwise::DefaultDeny(rule) => (Expected::Deny, Cause::DefaultDeny, Some(rule)),
                Otherwise::Deny => (Expected::Deny, Cause::NoAllowMatched, None),
            }
        };
        Outcome {
            verdict,
            ..refused(cause, rule, None)
        }
    }

    /// Whether any rule only records.
    fn records(&self) -> bool {
        let stages = [&self.audit, &self.dry_run_allow, &self.dry_run_deny];
        stages.iter().any(|stage| !stage.is_empty())
    }

    /// AUDIT and dry-run rules that match are recorded whatever the verdict is.
    fn record(&self, facts: &Facts<'_>, memo: &mut Memo, outcome: &mut Outcome) {
        if self.records() {
            outcome.audit = self.audit.all(&self.code, facts, memo);
            outcome.dry_run_allow = self.dry_run_allow.all(&self.code, facts, memo);
            outcome.dry_run_deny = self.dry_run_deny.all(&self.code, facts, memo);
        }
    }
}

impl<'a> HttpFacts<'a> {
    fn new(
        request: &'a HttpRequest<'a>,
        forwarded_for: u32,
        target: &'a Target<'a>,
        verified: &'a Verified,
    ) -> Self {
        let host = request.authority.map(|authority| {
            if authority.bytes().any(|b| b.is_ascii_uppercase()) {
                Cow::Owned(authority.to_ascii_lowercase())
            } else {
                Cow::Borrowed(authority)
            }
        });
        Self {
            request,
            forwarded_for,
            path: &target.path,
            target: forwarded(request, target, verified),
            host,
            claims: verified.claims.as_ref(),
            space_delimited: &verified.space_delimited,
            removed: &verified.removed_headers,
            added: &verified.added_headers,
        }
    }
}

impl From<Outcome> for Step<'_> {
    fn from(outcome: Outcome) -> Self {
        Self::Verdict(Box::new(outcome))
    }
}

/// The target as it is forwarded, which is what rules about `:path` see.
fn forwarded<'a>(
    request: &HttpRequest<'a>,
    target: &Target<'_>,
    verified: &Verified,
) -> Cow<'a, str> {
    let query = if verified.removed_params.is_empty() {
        Cow::Borrowed(target.query)
    } else {
        Cow::Owned(jwt::without_params(target.query, &verified.removed_params))
    };
    if target.is_unchanged() && query.len() == target.query.len() {
        Cow::Borrowed(request.target)
    } else {
        Cow::Owned(format!("{}{query}", target.path))
    }
}

fn upstream(target: Option<String>, verified: Verified) -> Upstream {
    Upstream {
        target,
        removed_headers: verified.removed_headers,
        added_headers: verified.added_headers,
    }
}

/// ISTIO: a CORS preflight bypasses the verification of tokens, and nothing else.
fn is_preflight(request: &HttpRequest<'_>) -> bool {
    let some = |name| request.headers.any(name, &mut |value| !value.is_empty());
    request.method == "OPTIONS" && some("origin") && some("access-control-request-method")
}

fn speaks_grpc(request: &HttpRequest<'_>) -> bool {
    request
        .headers
        .any("content-type", &mut |value| is_grpc(value))
}

fn refused(cause: Cause, rule: Option<RuleRef>, answer: Option<Answer>) -> Outcome {
    Outcome {
        verdict: Expected::Deny,
        cause,
        rule,
        audit: Vec::new(),
        dry_run_allow: Vec::new(),
        dry_run_deny: Vec::new(),
        answer,
        upstream: Upstream::default(),
    }
}

fn refused_token(failure: jwt::Failure, request: &HttpRequest<'_>) -> Outcome {
    let cause = match failure {
        jwt::Failure::Audience => Cause::JwtAudience,
        _ => Cause::JwtInvalid,
    };
    let text = Cow::Owned(failure.to_string());
    let mut answer = Answer::new(failure.status(), text, speaks_grpc(request));
    if failure.status() == 401 {
        let realm = format!(
            "http://{}{}",
            request.authority.unwrap_or(""),
            request.target
        );
        let realm: String = realm
            .chars()
            .filter(|c| *c != '"')
            .take(REALM_MAX)
            .collect();
        let value = format!("Bearer realm=\"{realm}\", error=\"invalid_token\"");
        answer.headers.push(("www-authenticate", value));
    }
    refused(cause, None, Some(answer))
}

/// Characters of the request's address in a `www-authenticate` header.
const REALM_MAX: usize = 256;

fn authorizers(mesh: &Mesh) -> BTreeMap<String, Arc<AuthorizerSettings>> {
    let mut authorizers = BTreeMap::new();
    for provider in &mesh.extension_providers {
        let (grpc, settings) = match &provider.kind {
            ProviderKind::ExtAuthzGrpc(settings) => (true, settings.clone()),
            ProviderKind::ExtAuthzHttp(settings) => (false, settings.clone()),
            ProviderKind::Other => continue,
        };
        let settings = AuthorizerSettings { grpc, settings };
        authorizers.insert(provider.name.clone(), Arc::new(settings));
    }
    authorizers
}

#[cfg(test)]
mod tests;
