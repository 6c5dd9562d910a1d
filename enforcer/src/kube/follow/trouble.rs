//! Why a kind cannot be listed or watched at the moment, and what to do about it.

use kube::Error;

use super::super::{kind::Kind, wire::Refusal};

/// What came in the way.
#[derive(Debug)]
pub enum Trouble {
    /// Nobody listens any more.
    Unheard,
    /// The server's answer, and what it was asked to do: `list` or `watch`.
    Refused(&'static str, Refusal),
    /// What was said could not be understood: something may have been missed.
    Garbled(String),
    /// The connection broke off.
    Cut(std::io::Error),
    /// Not a word for too long.
    Silent,
    Unreachable(Box<Error>),
}

const FORBIDDEN: u16 = 403;
const UNAUTHORIZED: u16 = 401;
const NOT_FOUND: u16 = 404;
const GONE: u16 = 410;

impl Trouble {
    pub fn of(verb: &'static str, error: Error) -> Self {
        match error {
            Error::Api(status) => Self::Refused(
                verb,
                Refusal {
                    code: status.code,
                    message: status.message.clone(),
                    reason: status.reason.clone(),
                },
            ),
            error @ (Error::SerdeError(_) | Error::FromUtf8(_)) => {
                Self::Garbled(format!("an answer: {}", crate::chain(&error)))
            }
            error => Self::Unreachable(Box::new(error)),
        }
    }

    pub fn refused(verb: &'static str, refusal: Refusal) -> Self {
        Self::Refused(verb, refusal)
    }

    /// A request that cannot be put into words.
    pub fn unsendable(error: kube::core::request::Error) -> Self {
        Self::Garbled(format!("a request: {error}"))
    }

    fn code(&self) -> Option<u16> {
        match self {
            Self::Refused(_, refusal) => Some(refusal.code),
            _ => None,
        }
    }

    /// The server has no such kind.
    pub fn is_absent(&self) -> bool {
        self.code() == Some(NOT_FOUND)
    }

    /// A server was there to say it.
    pub fn is_answer(&self) -> bool {
        self.code().is_some()
    }

    /// Only a list can tell what was missed.
    pub fn wants_list(&self) -> bool {
        self.code() == Some(GONE) || matches!(self, Self::Garbled(_))
    }

    /// It happens by itself, now and then.
    pub fn is_usual(&self) -> bool {
        self.code() == Some(GONE)
    }

    /// For people: what is wrong, and what to do where something can be done.
    pub fn text(&self, kind: Kind) -> String {
        match self {
            Self::Unheard => "nobody listens".into(),
            Self::Refused(verb, refusal) => match refusal.code {
                FORBIDDEN => format!(
                    "the API server forbids the agent to `{verb}` `{}` of API group `{}`: allow its \
                     service account `list` and `watch` there, by a ClusterRole ({})",
                    kind.name(),
                    kind.group(),
                    refusal.message
                ),
                UNAUTHORIZED => format!(
                    "the API server does not know who asks: renew the agent's token or certificate \
                     ({})",
                    refusal.message
                ),
                GONE => format!("the {verb} is too old to go on, and everything is listed again"),
                code => format!(
                    "the API server refuses to {verb} ({code} {}): {}",
                    refusal.reason, refusal.message
                ),
            },
            Self::Garbled(what) => {
                format!("the API server sent what cannot be understood: {what}")
            }
            Self::Cut(error) => {
                format!(
                    "the connection to the API server broke off: {}",
                    crate::chain(error)
                )
            }
            Self::Silent => "the API server has fallen silent".into(),
            Self::Unreachable(error) => {
                format!(
                    "the API server cannot be reached: {}",
                    crate::chain(&**error)
                )
            }
        }
    }
}
