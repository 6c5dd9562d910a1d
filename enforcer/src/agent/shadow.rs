//! A generation that is asked beside the active one and decides nothing, until it is promoted.
//!
//! The kernel asks it of each opening segment towards a pod, counts by its records how often it was
//! asked and how often it disagreed, and tells of each disagreement with both verdicts. What userspace
//! must judge counts as a verdict of its own: requests are not judged twice.

use std::{path::Path, sync::Arc, time::Instant};

use enforcer_ebpf::words::{Words as _, header};
use policyc::bundle;
use serde::{Deserialize, Serialize};

use super::{Agent, OrderError, State};
use crate::{
    apply::{self, ApplyError, Generation, Loaded},
    report::{Kind, Verdict, counters::HitName, line},
    state::Names,
    table::Staged,
};

/// A generation in waiting.
pub(super) struct Shadow {
    pub generation: Arc<Generation>,
    /// The bundle.
    bytes: Vec<u8>,
    names: Names,
    staged: Staged,
}

/// What has become of it so far.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShadowStatus {
    pub bundle: String,
    pub generation: u64,
    pub epoch: u32,
    /// SHA-256 of the bundle's payload.
    pub hash: String,
    /// Opening segments that it was asked about, and those on which it would have decided otherwise.
    pub asked: u64,
    pub disagreed: u64,
    pub rules: Vec<ShadowRule>,
}

/// What one of its causes would have decided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShadowRule {
    #[serde(flatten)]
    pub name: HitName,
    pub verdict: Verdict,
    pub asked: u64,
    pub disagreed: u64,
}

impl Agent {
    /// Has a bundle asked beside the active one, in the place of any other. Blocks for a grace
    /// period.
    pub fn load_shadow(&self, path: &Path) -> Result<Arc<Generation>, OrderError> {
        let loaded = apply::read(path, &self.trust)?;
        let state = &mut *self.state();
        if self.active.load().is_none() {
            return Err(OrderError::NoTable);
        }
        apply::check_order(&loaded, state.kept.newest, &self.trust)?;
        self.begin_shadow(state, loaded)
    }

    /// Links the shadow generation anew, after the node's interfaces have changed: by a table that
    /// knows the old ones nothing may be promoted.
    pub(super) fn renew_shadow(&self, state: &mut State) -> Result<(), OrderError> {
        let Some(shadow) = &state.shadow else {
            return Ok(());
        };
        let bundle = bundle::read(&shadow.bytes).map_err(|source| ApplyError::Bundle {
            path: shadow.generation.bundle.clone(),
            source,
        })?;
        let loaded = Loaded {
            hash: shadow.generation.hash.clone(),
            bundle: Arc::new(bundle),
            path: shadow.generation.bundle.clone(),
            bytes: shadow.bytes.clone(),
            time: std::time::Duration::ZERO,
        };
        self.begin_shadow(state, loaded).map(drop)
    }

    fn begin_shadow(
        &self,
        state: &mut State,
        mut loaded: Loaded,
    ) -> Result<Arc<Generation>, OrderError> {
        let prepared = apply::link(
            &loaded,
            &state.inventory,
            &self.settings,
            &self.before(state),
            state.tables.capacity(),
            None,
        )?;
        let words = &prepared.linked.words;
        state.tables.check(words).map_err(ApplyError::from)?;
        state
            .counters
            .check(words.as_slice().at(header::RECORDS_COUNT))?;
        let began = Instant::now();
        let slot = state.tables.slot_for_shadow();
        self.end_shadow(state);
        state.make_room(slot)?;
        let staged = state.tables.stage_in(slot, &prepared.linked.words);
        let staged = staged.map_err(ApplyError::from)?;
        let bytes = std::mem::take(&mut loaded.bytes);
        let generation = apply::generation(loaded, prepared, &staged, began.elapsed());
        let generation = Arc::new(generation);
        self.reporter.shadow(Some(generation.clone()));
        state.tables.shadow(&staged);
        state.shadow = Some(Shadow {
            names: Names::of(generation.epoch, &generation.attributions),
            generation: generation.clone(),
            bytes,
            staged,
        });
        let about = super::described(&generation);
        self.reporter.notice(Kind::ShadowLoaded, about, None);
        Ok(generation)
    }

    /// Makes the shadow generation the active one: one store. Blocks for a grace period.
    pub fn promote_shadow(&self) -> Result<Arc<Generation>, OrderError> {
        self.takes_bundles()?;
        let state = &mut *self.state();
        let candidate = state.shadow.as_ref().ok_or(OrderError::NoShadow)?;
        // A newer bundle may have become active since it was loaded.
        let (generation, hash) = (
            candidate.generation.generation,
            candidate.generation.hash.get(),
        );
        let accepted = self.trust.check_order(generation, hash);
        let accepted = accepted.and_then(|()| self.trust.remember(generation, hash));
        accepted.map_err(|source| ApplyError::Untrusted {
            path: candidate.generation.bundle.clone(),
            source,
        })?;
        let Some(shadow) = state.shadow.take() else {
            return Err(OrderError::NoShadow);
        };
        let slot = shadow.staged.slot;
        state.tables.end_shadow();
        // Its counts are of what it was asked, not of what it decides.
        if let Err(error) = state.make_room(slot) {
            self.reporter.shadow(None);
            return Err(error);
        }
        state.tables.bring_over(slot);
        state.assign(slot, shadow.names);
        self.reporter.activate(shadow.generation.clone());
        state.tables.switch(&shadow.staged);
        self.reporter.shadow(None);
        self.activated(state, &shadow.generation, &shadow.bytes);
        let about = super::described(&shadow.generation);
        self.reporter.notice(Kind::ShadowPromoted, about, None);
        Ok(shadow.generation)
    }

    /// Ends the shadow generation.
    pub fn drop_shadow(&self) -> Result<(), OrderError> {
        let state = &mut *self.state();
        match self.end_shadow(state) {
            true => Ok(()),
            false => Err(OrderError::NoShadow),
        }
    }

    fn end_shadow(&self, state: &mut State) -> bool {
        state.tables.end_shadow();
        self.reporter.shadow(None);
        let Some(shadow) = state.shadow.take() else {
            return false;
        };
        let about = super::described(&shadow.generation);
        self.reporter.notice(Kind::ShadowDropped, about, None);
        true
    }
}

/// What has become of the shadow generation.
pub(super) fn status(state: &State) -> Result<Option<ShadowStatus>, OrderError> {
    let Some(shadow) = &state.shadow else {
        return Ok(None);
    };
    let generation = &shadow.generation;
    let mut status = ShadowStatus {
        bundle: generation.bundle.display().to_string(),
        generation: generation.generation,
        epoch: generation.epoch,
        hash: generation.hash.to_string(),
        asked: 0,
        disagreed: 0,
        rules: Vec::new(),
    };
    let records = (0u32..).zip(&shadow.names.records);
    for ((record, names), verdict) in records.zip(&generation.verdicts).skip(1) {
        let hits = state.counters.of_record(shadow.staged.slot, record)?;
        let Some(name) = names.first().filter(|_| hits.packets > 0) else {
            continue;
        };
        status.asked += hits.packets;
        status.disagreed += hits.opened;
        status.rules.push(ShadowRule {
            name: name.clone(),
            verdict: line::of_decided(*verdict),
            asked: hits.packets,
            disagreed: hits.opened,
        });
    }
    Ok(Some(status))
}
