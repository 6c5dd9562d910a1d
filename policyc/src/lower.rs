//! From rules to cells: what the policies of a workload say to a source and a port, as far as a
//! connection alone can tell, and what is left for userspace where it cannot.
//!
//! [`scope`] gathers the rules of a workload, [`evaluate`] judges them in three-valued logic,
//! [`cell`] turns the outcome into one cell, [`graph`] shares what is equal, [`label`] says for each
//! rule how it was lowered.

pub mod cell;
pub mod evaluate;
pub mod graph;
pub mod label;
pub mod scope;
