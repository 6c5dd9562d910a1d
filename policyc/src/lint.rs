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

use std::{
    num::NonZero,
    panic,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

pub use self::accepted::ACCEPTED_WARNINGS;
use self::world::World;
use crate::{
    diagnostic::{At, Code, Diagnostic},
    ir::Program,
    options::CatchAllDeny,
    read::Loaded,
    resolve::ResolveError,
};

type Lint = fn(&World<'_>) -> Vec<Diagnostic>;

/// All lints, in no particular order.
const LINTS: &[Lint] = &[
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
const FAITHFUL: &[Lint] = &[metadata::lint, unserved::lint, wider_in_istio::lint];

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
    let all: Vec<&Lint> = LINTS.iter().chain(FAITHFUL).collect();
    let mut found = all_of(&world, &all);
    accepted::accept(loaded, &mut found);
    Ok((found, world.program))
}

/// More policies than this are looked at by several threads.
const ALONE_MAX: usize = 500;
const THREADS_MAX: usize = 4;

/// What all lints find, one after the other, however many threads they ran in.
fn all_of(world: &World<'_>, lints: &[&Lint]) -> Vec<Diagnostic> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    if threads == 1 || world.cluster.policies.len() <= ALONE_MAX {
        return lints.iter().flat_map(|lint| lint(world)).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(lint) = lints.get(number) else {
                return done;
            };
            done.push((number, lint(world)));
        }
    };
    let mut found = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(THREADS_MAX))
            .map(|_| scope.spawn(work))
            .collect();
        let results = workers.into_iter().map(|worker| {
            let result = worker.join();
            result.unwrap_or_else(|panic| panic::resume_unwind(panic))
        });
        results.flatten().collect::<Vec<_>>()
    });
    found.sort_unstable_by_key(|(number, _)| *number);
    found.into_iter().flat_map(|(_, found)| found).collect()
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

/// As [`faithful`], for the pods of a node: with the probes that policies close to the kubelet.
///
/// # Errors
/// A value that validation should have refused.
pub fn of_node(
    loaded: &Loaded,
    catch_all_deny: CatchAllDeny,
) -> Result<Vec<Diagnostic>, ResolveError> {
    let world = World::new(loaded, catch_all_deny)?;
    let lints = FAITHFUL.iter().chain([&(probes::lint as Lint)]);
    Ok(lints.flat_map(|lint| lint(&world)).collect())
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
