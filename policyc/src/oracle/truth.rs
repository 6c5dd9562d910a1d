//! Three values: yes, no, and not known yet. With every fact known, nothing is `Maybe`.

use super::unjudgeable::Unjudgeable;

/// The order matters: "and" is the least of two, "or" the greatest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Truth {
    No,
    Maybe,
    Yes,
}

impl Truth {
    pub fn and(self, other: Self) -> Self {
        self.min(other)
    }

    pub fn or(self, other: Self) -> Self {
        self.max(other)
    }

    pub fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
            Self::Yes => Self::No,
        }
    }
}

impl From<bool> for Truth {
    fn from(known: bool) -> Self {
        if known { Self::Yes } else { Self::No }
    }
}

/// Something that a request says, or that nobody has looked at yet.
#[derive(Clone, PartialEq, Debug)]
pub enum Fact<T> {
    Known(T),
    Unknown,
}

impl<T> Fact<T> {
    /// Asks a question about the fact.
    pub fn ask(&self, question: impl FnOnce(&T) -> bool) -> Truth {
        match self {
            Self::Known(value) => question(value).into(),
            Self::Unknown => Truth::Maybe,
        }
    }
}

/// OR over all members; `No` over none. Every member is looked at, so that what cannot be judged is
/// reported whatever the others say.
pub fn any<T>(
    members: impl IntoIterator<Item = T>,
    mut holds: impl FnMut(T) -> Result<Truth, Unjudgeable>,
) -> Result<Truth, Unjudgeable> {
    let mut truth = Truth::No;
    for member in members {
        truth = truth.or(holds(member)?);
    }
    Ok(truth)
}

/// AND over all members; `Yes` over none. Every member is looked at, as in [`any`].
pub fn all<T>(
    members: impl IntoIterator<Item = T>,
    mut holds: impl FnMut(T) -> Result<Truth, Unjudgeable>,
) -> Result<Truth, Unjudgeable> {
    let mut truth = Truth::Yes;
    for member in members {
        truth = truth.and(holds(member)?);
    }
    Ok(truth)
}
