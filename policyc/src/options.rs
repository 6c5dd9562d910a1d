//! Choices of the operator that change what policies mean. They are recorded in a bundle and
//! honoured alike by everything that judges: the table, the requests' engine and the oracle.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a judgement depends on besides the cluster and the request. Nothing is asked of the machine:
/// the time and the keys are inputs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Seconds since 1970.
    pub now: u64,
    /// Key sets by `jwksUri`, as JSON text. A rule whose key set is not among them refuses every
    /// token.
    pub jwks: BTreeMap<String, String>,
    pub catch_all_deny: CatchAllDeny,
}

/// What a catch-all DENY means: a rule without `from`, `to` and `when` in a DENY policy that is not
/// a dry run.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum CatchAllDeny {
    /// Istio's meaning: it denies everything, whatever ALLOW policies say.
    #[default]
    DenyAll,
    /// It denies nothing itself and makes the workload default-deny, as an ALLOW policy without
    /// rules would.
    DefaultDeny,
}
