//! The whole compiler on one screen: what was read becomes a program.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    diagnostic::At,
    ir::Program,
    options::CatchAllDeny,
    read::Loaded,
    resolve::{Amendable, ResolveError, resolve},
};

/// Compiles what was read and found without errors.
///
/// # Errors
/// A value that does not parse; validation reports those first, with their position.
pub fn compile(
    loaded: &Loaded,
    catch_all_deny: CatchAllDeny,
    key_sets: &BTreeMap<String, String>,
) -> Result<Program, ResolveError> {
    let locate = |at: &At| locate(loaded, at);
    resolve(&loaded.cluster, catch_all_deny, key_sets, &locate)
}

/// Compiles the policies of these names among what was read, and takes the others over. `false`: that
/// takes compiling all of them, and nothing has changed.
///
/// # Errors
/// As [`compile`].
pub fn amend(
    program: &mut Amendable,
    loaded: &Loaded,
    names: &BTreeSet<(String, String)>,
) -> Result<bool, ResolveError> {
    program.amend(&loaded.cluster, names, &|at| locate(loaded, at))
}

fn locate(loaded: &Loaded, at: &At) -> (String, u32) {
    match loaded.sources.place(at.document, &at.path, false) {
        Some(place) => (
            place.file.to_owned(),
            u32::try_from(place.line).unwrap_or(u32::MAX),
        ),
        None => (String::new(), 0),
    }
}
