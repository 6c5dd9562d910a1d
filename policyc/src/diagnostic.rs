//! What the compiler has to say: one struct, documented codes, positions found only when needed.

mod code;
mod junit;
mod pages;
mod render;
mod sarif;

pub use code::Code;
pub use junit::junit;
pub use pages::Page;
pub use render::{human, json};
pub use sarif::sarif;

use crate::ast::DocumentId;

/// One step into a document.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Step {
    Key(String),
    Index(u32),
}

/// A way into a document: `spec.rules[0].from[1].source.principals[0]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Path(pub Vec<Step>);

impl Path {
    /// This path, one key further.
    pub fn key(&self, key: &str) -> Self {
        let mut path = self.clone();
        path.0.push(Step::Key(key.into()));
        path
    }
    /// This path, one list item further.
    pub fn index(&self, index: usize) -> Self {
        let mut path = self.clone();
        path.0
            .push(Step::Index(u32::try_from(index).unwrap_or(u32::MAX)));
        path
    }
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if i == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is compiled.
    Error,
    /// Legal, and probably wrong.
    Warning,
    /// Worth knowing.
    Note,
}

/// Where in the sources: a document and a way into it. The last step's key or value is underlined.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct At {
    pub document: DocumentId,
    pub path: Path,
}

/// One problem, with its fix. Messages are lower case, without a full stop, user text in backticks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    pub code: Code,
    pub severity: Severity,
    pub message: String,
    pub at: At,
    pub help: String,
    /// `namespace/name` of the policy concerned.
    pub policy: Option<String>,
}

impl Diagnostic {
    /// Nothing is compiled because of this.
    pub fn error(code: Code, at: At, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(code, Severity::Error, at, message, help)
    }

    /// Legal, and probably wrong.
    pub fn warning(
        code: Code,
        at: At,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self::new(code, Severity::Warning, at, message, help)
    }

    fn new(
        code: Code,
        severity: Severity,
        at: At,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            code,
            severity,
            message: message.into(),
            at,
            help: help.into(),
            policy: None,
        }
    }

    /// Names the policy concerned, as `namespace/name`.
    pub fn of_policy(mut self, policy: impl Into<String>) -> Self {
        self.policy = Some(policy.into());
        self
    }
}

/// Whether one of them forbids to compile.
pub fn any_error(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|d| d.severity == Severity::Error)
}
