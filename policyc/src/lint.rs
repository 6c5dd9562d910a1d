//! What is legal and probably wrong: a file a lint, each with documented codes.
//!
//! Lints look at policies as written and at the cluster they speak about, never at what they are
//! lowered to. They run only where there are no errors.

mod bypass;
mod contradiction;
mod deny_http;
mod disagreement;
mod fields;
mod never_effective;
mod over_broad;
mod ports;
mod probes;
mod provider;
mod redundant;
mod root_namespace;
mod source_rewritten;
mod stray_dash;
mod tokens;
mod unenforceable;
mod unmatched_selector;
mod unmatched_source;
mod value;
mod world;

use self::world::World;
use crate::{diagnostic::Diagnostic, options::CatchAllDeny, read::Loaded, resolve::ResolveError};

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

/// Everything that is legal and probably wrong. The input must have been read without an error.
///
/// # Errors
/// A value that validation should have refused.
pub fn lint(
    loaded: &Loaded,
    catch_all_deny: CatchAllDeny,
) -> Result<Vec<Diagnostic>, ResolveError> {
    let world = World::new(loaded, catch_all_deny)?;
    Ok(LINTS.iter().flat_map(|lint| lint(&world)).collect())
}
