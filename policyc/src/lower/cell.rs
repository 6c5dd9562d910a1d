//! One cell: the verdict for a source and a port as far as the connection alone tells it, its
//! cause, and what is left for userspace.

use std::collections::BTreeSet;

use enforcer_ebpf::words::Verdict;

use crate::{
    cluster::Protocol,
    ir::{AtomId, Otherwise, Provider, Residual, ResidualRule, RuleRef, Stages},
    lower::{
        evaluate::{self, Known, Meaning, Truth},
        scope::{Scope, Stage},
    },
    request::Cause,
};

/// What a cell stands for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CellData {
    pub verdict: Decided,
    /// The cause, where the verdict is decided; otherwise what would happen if nothing matched.
    pub cause: Cause,
    /// The rule that decided, where one did.
    pub rule: Option<RuleRef>,
    /// AUDIT rules that match whatever the request says.
    pub audit: Vec<RuleRef>,
    /// Dry-run rules that match whatever the request says.
    pub dry_run: Vec<RuleRef>,
    /// The rules that may match, as userspace judges them.
    pub residual: Residual,
}

/// A verdict that can be ordered and hashed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Decided {
    Deny,
    Allow,
    Ask,
}

impl From<Decided> for Verdict {
    fn from(decided: Decided) -> Self {
        match decided {
            Decided::Deny => Self::Deny,
            Decided::Allow => Self::Allow,
            Decided::Ask => Self::Ask,
        }
    }
}

/// The cell of a scope for a source of which exactly the atoms `source` are true, and a port.
pub fn cell(
    scope: &Scope<'_>,
    source: &BTreeSet<AtomId>,
    port: Option<AtomId>,
    protocol: Protocol,
) -> CellData {
    let known = |meaning| Known {
        program: scope.program,
        key: &scope.key,
        source,
        port,
        meaning,
    };
    let candidates = scope.candidates(source);
    let stages = |meaning| {
        let known = known(meaning);
        let mut stages = empty(scope, meaning);
        for staged in &candidates {
            let clauses = match evaluate::rule(&known, staged.stage, staged.rule) {
                Truth::False => continue,
                Truth::True => Vec::new(),
                Truth::Unknown(clauses) => clauses,
            };
            let rule = ResidualRule {
                rule: staged.reference,
                clauses,
            };
            match staged.stage {
                Stage::Custom if meaning == Meaning::Tcp && scope.provider_http_only => {}
                Stage::Custom => stages.custom.push(rule),
                Stage::Deny => stages.deny.push(rule),
                Stage::Allow => stages.allow.push(rule),
                Stage::Audit => stages.audit.push(rule),
                Stage::DryRunAllow => stages.dry_run_allow.push(rule),
                Stage::DryRunDeny => stages.dry_run_deny.push(rule),
            }
        }
        stages
    };
    let tcp = stages(Meaning::Tcp);
    let http = evaluate::meanings(protocol)
        .contains(&Meaning::Http)
        .then(|| stages(Meaning::Http));
    let forwarded_for = if scope.key.gateway {
        scope.program.mesh.trusted_proxies
    } else {
        1
    };
    conclude(Residual {
        http,
        tcp,
        forwarded_for,
    })
}

fn empty(scope: &Scope<'_>, meaning: Meaning) -> Stages {
    let authentications = match meaning {
        Meaning::Http => scope.key.authentications.clone(),
        Meaning::Tcp => Vec::new(),
    };
    Stages {
        provider: scope.provider.clone(),
        authentications,
        otherwise: scope.otherwise,
        ..Stages::default()
    }
}

/// The verdict is decided when every meaning that the connection may have gives it for certain.
fn conclude(residual: Residual) -> CellData {
    let first = residual.http.as_ref().unwrap_or(&residual.tcp);
    let (mut verdict, cause, rule) = outcome(first);
    if residual.http.is_some() && outcome(&residual.tcp).0 != verdict {
        verdict = Decided::Ask;
    }
    let certain = |rules: &[ResidualRule]| -> Vec<RuleRef> {
        rules
            .iter()
            .filter(|r| r.clauses.is_empty())
            .map(|r| r.rule)
            .collect()
    };
    let audit = certain(&first.audit);
    let mut dry_run = certain(&first.dry_run_allow);
    dry_run.extend(certain(&first.dry_run_deny));
    dry_run.sort_unstable();
    CellData {
        verdict,
        cause,
        rule,
        audit,
        dry_run,
        residual,
    }
}

/// What one order of judgement comes to, whatever its rules' clauses turn out to be. With [`Decided::Ask`] the cause is the one that holds when
/// no rule matches.
pub(crate) fn outcome(stages: &Stages) -> (Decided, Cause, Option<RuleRef>) {
    let sure = |rules: &[ResidualRule]| rules.iter().find(|r| r.clauses.is_empty()).map(|r| r.rule);
    if stages.provider == Provider::Unresolved
        && let Some(rule) = sure(&stages.custom)
    {
        return (Decided::Deny, Cause::CustomUnresolved, Some(rule));
    }
    // ISTIO: "If there are any DENY policies that match the request, deny the request."
    if let Some(rule) = sure(&stages.deny) {
        return (Decided::Deny, Cause::DenyRule, Some(rule));
    }
    let (otherwise, cause, default_rule) = match stages.otherwise {
        // ISTIO: "If there are no ALLOW policies for the workload, allow the request."
        Otherwise::Allow => (Decided::Allow, Cause::NoAllowPolicy, None),
        Otherwise::Deny => (Decided::Deny, Cause::NoAllowMatched, None),
        Otherwise::DefaultDeny(rule) => (Decided::Deny, Cause::DefaultDeny, Some(rule)),
    };
    let allow_rule = sure(&stages.allow);
    let may_allow = otherwise == Decided::Allow || !stages.allow.is_empty();
    if !may_allow {
        // ISTIO: "Deny the request."
        return (Decided::Deny, cause, default_rule);
    }
    let may_deny = !stages.custom.is_empty()
        || !stages.deny.is_empty()
        || !stages.authentications.is_empty()
        || (otherwise == Decided::Deny && allow_rule.is_none());
    // ISTIO: "If any of the ALLOW policies match the request, allow the request."
    let (cause, rule) = match allow_rule {
        Some(rule) => (Cause::AllowRule, Some(rule)),
        None => (cause, default_rule),
    };
    (
        if may_deny {
            Decided::Ask
        } else {
            Decided::Allow
        },
        cause,
        rule,
    )
}
