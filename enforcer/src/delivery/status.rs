//! What has come so far, for `enforcer status` and for metrics.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{Fetched, Source};
use crate::report::line;

/// What has come from a source.
#[derive(Debug)]
pub struct Delivery(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    status: DeliveryStatus,
    /// Why what came last was refused.
    refusal: Option<String>,
    /// Nothing could be had at the last look.
    failing: bool,
}

/// The same, as it is reported.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DeliveryStatus {
    pub source: String,
    /// When the source was last looked at with success. RFC 3339, UTC.
    pub looked: Option<String>,
    /// What came last.
    pub came: Option<String>,
    /// Why what came last is not in force, or why nothing comes.
    pub trouble: Option<String>,
    /// Bundles that came and were put in force.
    pub applied: u64,
    /// Times that what came was refused: it is tried again at each poll.
    pub refused: u64,
    /// Times that nothing could be had.
    pub failed: u64,
}

impl Delivery {
    /// `first` is the bundle that the agent began with.
    pub fn of(source: &Source, first: &Fetched) -> Self {
        Self(Mutex::new(Known {
            status: DeliveryStatus {
                source: source.to_string(),
                looked: Some(line::now()),
                came: Some(first.name.display().to_string()),
                applied: 1,
                ..DeliveryStatus::default()
            },
            ..Known::default()
        }))
    }

    pub fn status(&self) -> DeliveryStatus {
        self.lock().status.clone()
    }

    /// The source has nothing new. What was refused is still refused.
    pub(super) fn looked(&self) {
        let mut known = self.lock();
        known.status.looked = Some(line::now());
        if known.failing {
            known.failing = false;
            known.status.trouble = known.refusal.clone();
        }
    }

    pub(super) fn applied(&self, fetched: &Fetched) {
        let mut known = self.lock();
        known.came(fetched);
        known.status.applied += 1;
        known.refusal = None;
        known.status.trouble = None;
        tracing::info!(bundle = %fetched.name.display(), "delivered");
    }

    /// What came is not in force. The old one is.
    pub fn refused(&self, fetched: &Fetched, why: String) {
        let mut known = self.lock();
        known.came(fetched);
        known.status.refused += 1;
        if known.refusal.as_ref() != Some(&why) {
            tracing::warn!(bundle = %fetched.name.display(), why, "delivered, and refused");
        }
        known.refusal = Some(why.clone());
        known.status.trouble = Some(why);
    }

    pub(super) fn failed(&self, why: String) {
        let mut known = self.lock();
        known.status.failed += 1;
        if !known.failing {
            tracing::warn!(why, source = known.status.source, "nothing is delivered");
        }
        known.failing = true;
        known.status.trouble = Some(why);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every change of it is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn came(&mut self, fetched: &Fetched) {
        self.failing = false;
        self.status.looked = Some(line::now());
        self.status.came = Some(fetched.name.display().to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_stays_in_trouble_until_something_is_applied() {
        let fetched = |name: &str| Fetched {
            bytes: Vec::new(),
            name: name.into(),
        };
        let source: Source = "bundle.bin".parse().expect("a file");
        let delivery = Delivery::of(&source, &fetched("first"));
        delivery.refused(&fetched("second"), "not signed".into());
        delivery.failed("the disk is gone".into());
        let trouble = |delivery: &Delivery| delivery.status().trouble;
        assert_eq!(trouble(&delivery).as_deref(), Some("the disk is gone"));
        delivery.looked();
        assert_eq!(trouble(&delivery).as_deref(), Some("not signed"));
        delivery.applied(&fetched("third"));
        let status = delivery.status();
        assert_eq!(
            (status.trouble, status.came.as_deref()),
            (None, Some("third"))
        );
        assert_eq!((status.applied, status.refused, status.failed), (2, 1, 1));
    }
}
