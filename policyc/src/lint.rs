//! What is legal and probably wrong: a file a lint, each with documented codes.
//!
//! Lints look at policies as written and at the cluster they speak about, never at what they are
//! lowered to. They run only where there are no errors.

mod accepted;
mod bypass;
mod contradiction;
mod cover;
mod deny_http;
mod disagreement;
mod fields;
mod metadata;
mod never_effective;
mod over_broad;
mod ports;
mod probes;
mod provider;
mod redundant;
mod root_namespace;
mod rule;
mod source_rewritten;
mod stray_dash;
mod tokens;
mod unenforceable;
mod unmatched_selector;
mod unmatched_source;
mod unserved;
mod value;
mod wider_in_istio;
mod world;

pub use self::accepted::ACCEPTED_WARNINGS;
use self::world::World;
use crate::{
    diagnostic::{At, Code, Diagnostic},
    ir::Program,
    options::CatchAllDeny,
    read::Loaded,
    resolve::ResolveError,
};

/// All lints, in no particular order.
const LINTS: &[fn(&World<'_>) -> Vec<Diagnostic>] = &[
    bypass::lint,
    contradiction::lint,
    deny_http::lint,
    disagreement::lint,
    never_effective::lint,
    over_broad::lint,
    ports::lint,
    probes::lint,
    provider::lint,
    redundant::lint,
    root_namespace::lint,
    source_rewritten::lint,
    stray_dash::lint,
    tokens::lint,
    unenforceable::lint,
    unmatched_selector::lint,
    unmatched_source::lint,
];

/// Checks of what is lowered otherwise than Istio would: `compile` runs them as well.
const FAITHFUL: &[fn(&World<'_>) -> Vec<Diagnostic>] =
    &[metadata::lint, unserved::lint, wider_in_istio::lint];

/// Everything that is legal and probably wrong, and what would not do here what it does under
/// Istio. The input must have been read without an error.
///
/// # Errors
/// A value that validation should have refused.
pub fn lint(
    loaded: &Loaded,
    catch_all_deny: CatchAllDeny,
) -> Result<Vec<Diagnostic>, ResolveError> {
    check(loaded, catch_all_deny).map(|(found, _)| found)
}

/// As [`lint`], with what the policies resolve to.
///
/// # Errors
/// A value that validation should have refused.
pub fn check(
    loaded: &Loaded,
    catch_all_deny: CatchAllDeny,
) -> Result<(Vec<Diagnostic>, Program), ResolveError> {
    let world = World::new(loaded, catch_all_deny)?;
    let all = LINTS.iter().chain(FAITHFUL);
    let mut found = all.flat_map(|lint| lint(&world)).collect();
    accepted::accept(loaded, &mut found);
    Ok((found, world.program))
}

/// What would not do here what it does under Istio. A DENY that would fire there is an error.
///
/// # Errors
/// A value that validation should have refused.
pub fn faithful(
    loaded: &Loaded,
    catch_all_deny: CatchAllDeny,
) -> Result<Vec<Diagnostic>, ResolveError> {
    let world = World::new(loaded, catch_all_deny)?;
    Ok(FAITHFUL.iter().flat_map(|lint| lint(&world)).collect())
}

/// A value that cannot be compiled, as a diagnostic about its policy.
pub fn unresolved(loaded: &Loaded, error: &ResolveError) -> Diagnostic {
    let policies = loaded.cluster.policies.iter();
    let of = policies
        .filter(|p| world::name(p) == error.policy)
        .map(|p| At {
            document: p.document,
            path: p.object.key("metadata").key("name"),
        })
        .next();
    Diagnostic::error(
        Code::NotCompiled,
        of.unwrap_or_default(),
        error.to_string(),
        "write another value, and report this one: it should have been refused where it is written",
    )
    .of_policy(error.policy.clone())
}
