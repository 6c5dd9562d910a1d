//! What a monitor is sent: verdicts, how many it has missed, and what operators have done.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::VerdictLine;

/// One line to a monitor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// The monitor was too slow: so many lines, wanted or not, have passed it by.
    Lost {
        lost: u64,
    },
    /// So many verdicts were counted and not sent: they fell faster than a processor may tell.
    Dropped {
        dropped: u64,
    },
    Notice(Notice),
    Verdict(Box<VerdictLine>),
}

/// Something that changes what is enforced.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Notice {
    /// RFC 3339, UTC.
    pub time: String,
    pub notice: Kind,
    /// In words: what it is about.
    pub about: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Active,
    RolledBack,
    Paused,
    Resumed,
    PauseEnded,
    ShadowLoaded,
    ShadowPromoted,
    ShadowDropped,
}

impl Notice {
    /// As of now.
    pub fn now(notice: Kind, about: String, reason: Option<String>) -> Self {
        Self {
            time: super::line::now(),
            notice,
            about,
            reason,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::RolledBack => "rolled back",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::PauseEnded => "pause ended",
            Self::ShadowLoaded => "shadow loaded",
            Self::ShadowPromoted => "shadow promoted",
            Self::ShadowDropped => "shadow dropped",
        })
    }
}

/// For a terminal: `12:34:56.789 paused default/backend for 600 s: an incident`
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { lost } => write!(f, "... {lost} lines passed unseen"),
            Self::Dropped { dropped } => {
                write!(f, "... {dropped} verdicts were counted and not told")
            }
            Self::Notice(notice) => {
                let time = notice.time.get(11..23).unwrap_or(&notice.time);
                write!(f, "{time} *** {} {}", notice.notice, notice.about)?;
                match &notice.reason {
                    Some(reason) => write!(f, ": {reason}"),
                    None => Ok(()),
                }
            }
            Self::Verdict(verdict) => verdict.fmt(f),
        }
    }
}
