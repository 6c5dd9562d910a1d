//! What a comparison came to, for people and for machines. The JSON form is stable: `format` counts
//! its versions, and fields are only ever added within one.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{
    ir::Atom,
    request::{Cause, Request},
};

/// Version of the JSON form.
pub const FORMAT: u32 = 1;

/// All differences of two sides.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Diff {
    /// [`FORMAT`]
    pub format: u32,
    /// What the sides are, as they were named.
    pub old: String,
    pub new: String,
    pub outcome: Outcome,
    /// Something is let through, or may be, that was not. A workload that is there on one side
    /// alone counts for neither.
    pub widens: bool,
    /// Something is refused, or may be, that was not.
    pub narrows: bool,
    /// By destination, port and source.
    pub differences: Vec<Difference>,
    pub added_destinations: Vec<Destination>,
    pub removed_destinations: Vec<Destination>,
    pub added_sources: Vec<Source>,
    pub removed_sources: Vec<Source>,
    /// What else a reader should know.
    pub notes: Vec<String>,
    /// The sides are two readings of the same manifests, not before and after.
    #[serde(skip)]
    pub profiles: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Same,
    /// There is a difference.
    Differs,
    /// It could not be decided whether there is one.
    MayDiffer,
}

/// One difference: for these sources, at these ports of these destinations.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Difference {
    pub kind: Kind,
    pub change: Change,
    /// False: nothing excludes the difference, and no request is known that shows it.
    pub certain: bool,
    /// `namespace/pod` or `namespace/workload`, sorted.
    pub destinations: Vec<String>,
    pub sources: Sources,
    pub ports: Ports,
    pub protocol: Protocol,
    pub operation: Operation,
    pub before: Verdict,
    pub after: Verdict,
    /// A request, as `policyc eval` reads it, that the two sides judge differently. The destination
    /// is named as on the new side.
    pub example: Option<Request>,
}

/// What differs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Whether the request is let through.
    Reach,
    /// Whether an external authorizer is asked, and which.
    Custom,
    /// How tokens are verified.
    Authentication,
    /// Whether an AUDIT rule records it.
    Audit,
    /// Whether a dry-run ALLOW rule records it.
    DryRunAllow,
    /// Whether a dry-run DENY rule records it.
    DryRunDeny,
}

/// From old to new.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Is let through; is asked about; is recorded.
    Gains,
    /// No longer is.
    Loses,
    /// Otherwise than before.
    Changes,
}

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Whatever is.
    Any,
    Http,
    /// Anything but HTTP.
    Tcp,
}

/// Who asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Sources {
    pub text: String,
    /// Service accounts of the inventory that are among them, `namespace/name`; at most
    /// [`MEMBERS_MAX`].
    pub service_accounts: Vec<String>,
    /// How many there are.
    pub service_accounts_total: usize,
    #[serde(skip)]
    pub selector: Selector,
}

/// Service accounts that are listed.
pub const MEMBERS_MAX: usize = 50;

/// The sources themselves: those of which exactly one of these sets of atoms is true.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selector {
    pub atoms: Vec<Atom>,
    /// Whether there is an identity, and the true ones of `atoms` by number.
    pub sets: BTreeSet<(bool, Vec<usize>)>,
    /// Named sources that are others on the new side than on the old.
    pub names: Vec<String>,
}

/// Ports of the destination.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Ports {
    pub text: String,
    pub list: Vec<u16>,
    /// Every other port as well, but those of `except`.
    pub others: bool,
    pub except: Vec<u16>,
}

impl Ports {
    /// Whether the port is one of them.
    pub fn contain(&self, port: u16) -> bool {
        self.list.contains(&port) || self.others && !self.except.contains(&port)
    }
}

/// What is asked: one of the alternatives, of each alternative all fields.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Operation {
    pub text: String,
    pub alternatives: Vec<Vec<FieldWords>>,
    /// There are more alternatives than are told.
    pub more: bool,
    /// HTTP that is not well-formed, which is answered with 400 where requests are judged one by one.
    pub malformed: bool,
}

/// One of `is` holds, or anything where there is none; and none of `is_not` does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FieldWords {
    pub field: String,
    pub is: Vec<String>,
    pub is_not: Vec<String>,
}

/// What one side says.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Verdict {
    /// `allow`, `deny`; `asked`, `not_asked`; `recorded`, `not_recorded`; `unknown`.
    pub verdict: String,
    pub reason: Option<Cause>,
    pub policy: Option<String>,
    /// Counted from 0.
    pub rule: Option<u32>,
    /// The authorizer that is asked.
    pub provider: Option<String>,
}

/// A workload that is there on one side alone, and who can reach it there.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Destination {
    /// `namespace/pod` or `namespace/workload`; several where all is the same for them.
    pub names: Vec<String>,
    /// Policies that apply to it.
    pub policies: Vec<String>,
    pub reachable: Vec<Difference>,
}

/// A workload that is there as a source on one side alone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Source {
    /// `namespace/pod` or `namespace/workload`
    pub name: String,
    /// `namespace/name`
    pub service_account: String,
    /// Nobody ran as this service account on the other side.
    pub alone: bool,
}

impl Difference {
    /// Whether it lets through, or may, what was not.
    pub fn widens(&self) -> bool {
        match self.kind {
            Kind::Reach => self.change != Change::Loses,
            Kind::Custom => self.change != Change::Gains,
            Kind::Authentication => true,
            Kind::Audit | Kind::DryRunAllow | Kind::DryRunDeny => false,
        }
    }

    /// Whether it refuses, or may, what was not.
    pub fn narrows(&self) -> bool {
        match self.kind {
            Kind::Reach => self.change != Change::Gains,
            Kind::Custom => self.change != Change::Loses,
            Kind::Authentication => true,
            Kind::Audit | Kind::DryRunAllow | Kind::DryRunDeny => false,
        }
    }
}

impl Diff {
    /// Whether anything is to be told.
    pub fn is_empty(&self) -> bool {
        self.differences.is_empty()
            && self.added_destinations.is_empty()
            && self.removed_destinations.is_empty()
            && self.added_sources.is_empty()
            && self.removed_sources.is_empty()
    }
}
