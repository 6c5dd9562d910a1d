//! Back to the bundle that was active before. An operator's word is enough: the order of generations
//! is not asked for, everything else that a bundle must be is.

use std::sync::Arc;

use super::{Agent, OrderError};
use crate::{
    apply::{self, ApplyError, Generation},
    report::Kind,
    state::Past,
};

impl Agent {
    /// Makes the bundle active again that was so before the active one. Done again, it goes further
    /// back. Blocks for a grace period.
    pub fn rollback(&self) -> Result<Arc<Generation>, OrderError> {
        // Bundles may be left from before.
        self.takes_bundles()?;
        let state = &mut *self.state();
        let [.., past, undone] = &state.kept.history[..] else {
            return Err(OrderError::NothingBefore);
        };
        let (past, undone) = (past.clone(), undone.clone());
        let kept = state.keeper.bundle(&past.hash);
        let mut loaded = apply::read(&kept, &self.trust)?;
        if loaded.bundle.hash != past.hash {
            return Err(ApplyError::Another { path: kept }.into());
        }
        loaded.path = past.bundle;
        let prepared = apply::link(
            &loaded,
            &state.inventory,
            &self.settings,
            &self.before(state),
            state.tables.capacity(),
            None,
        )?;
        state.kept.history.pop();
        let published = self.publish(state, loaded, prepared);
        match published {
            Ok(generation) => {
                let about = format!(
                    "from {} to {}",
                    short(&undone),
                    super::described(&generation)
                );
                self.reporter.notice(Kind::RolledBack, about, None);
                Ok(generation)
            }
            Err(error) => {
                state.kept.history.push(undone);
                Err(error)
            }
        }
    }
}

fn short(past: &Past) -> String {
    let hash = past.hash.get(..12).unwrap_or(&past.hash);
    format!("generation {} ({hash})", past.generation)
}
