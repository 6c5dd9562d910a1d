//! What becomes of packets that are not plain TCP segments: one table, from which the README's matrix
//! is printed and which every engine is run through.
//!
//! A row says what a packet is, what it meets and why; beside that it builds the packets, so that the
//! words and what is tested cannot drift apart.

mod headers;
mod rows;
mod segments;
mod world;

use std::fmt::Write as _;

use enforcer_ebpf::{event::Hook, judge::Action, reason::Reason};

pub use rows::rows;
pub use world::{Case, HOOKS, Port, ingress, words};

/// Frames in the order in which they come; the last one is what the row speaks of.
pub type Train = Vec<Vec<u8>>;

/// A line of the matrix.
#[derive(Clone, Copy)]
pub struct Row {
    pub packet: &'static str,
    /// Where it is seen. The others do not see it, or only as a plain segment.
    pub hooks: &'static [Hook],
    pub meets: Meets,
    pub why: &'static str,
    pub packets: Packets,
}

/// What a row's packets meet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meets {
    /// The same as a plain TCP segment on those ports.
    Judged,
    Pass(Reason),
    Drop(Reason),
}

/// Where a row's packets come from.
#[derive(Clone, Copy)]
pub enum Packets {
    /// Built here and shown to the programs. No train: there is no such packet in this case.
    Built(fn(&Case) -> Vec<Train>),
    /// Only a network makes them: the live test of that name.
    Live(&'static str),
}

impl Meets {
    /// Action and reason for a packet of `case`.
    #[must_use]
    pub fn expected(self, case: &Case) -> (Action, Reason) {
        match (self, case.hook, case.port) {
            (Self::Pass(reason), ..) => (Action::Pass, reason),
            (Self::Drop(reason), ..) => (Action::Drop, reason),
            (Self::Judged, _, Port::Allowed) => (Action::Pass, Reason::Allowed),
            (Self::Judged, Hook::ToPod, Port::Asked) => (Action::Steer, Reason::Steered),
            (Self::Judged, Hook::ToPod, Port::Denied) => (Action::Refuse, Reason::Denied),
            (Self::Judged, _, _) => (Action::Refuse, Reason::ReplyRefused),
        }
    }

    fn words(self) -> [String; 2] {
        match self {
            Self::Judged => ["judged".into(), "the rule's".into()],
            Self::Pass(reason) => ["pass".into(), format!("`{}`", reason.name())],
            Self::Drop(reason) => ["drop".into(), format!("`{}`", reason.name())],
        }
    }
}

/// The matrix as the README shows it.
#[must_use]
pub fn markdown() -> String {
    let mut text =
        String::from("| packet | hook | verdict | reason | why |\n|---|---|---|---|---|\n");
    for row in rows() {
        let [verdict, reason] = row.meets.words();
        let hook = match row.hooks {
            [Hook::ToPod] => "to",
            [Hook::FromPod] => "from",
            [Hook::ToPod, Hook::FromPod] => "both",
            _ => "all",
        };
        let written = writeln!(
            text,
            "| {} | {hook} | {verdict} | {reason} | {} |",
            row.packet, row.why
        );
        assert!(written.is_ok(), "a string takes whatever is written to it");
    }
    text
}
