//! The text of what was read, kept so that a diagnostic can find its line and column.

/// All documents, in the order in which they were read; [`crate::ast::DocumentId`] is the index.
#[derive(Debug, Default)]
pub struct Sources {}
