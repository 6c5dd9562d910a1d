//! Status back to whoever wrote a policy: a condition on the AuthorizationPolicy where it is not
//! enforced, or not exactly as it is written.
//!
//! [`desired`] says which policies need one, from what the compiler has said; [`change`] what is to be
//! written to an object for that; [`lease`] which agent of the cluster writes, so that one does and not
//! all; [`writer`] does it. Nothing that is enforced depends on any of this.

pub mod change;
pub mod desired;
pub mod lease;
pub mod writer;

pub use desired::{Desired, desired};
pub use writer::Writer;

/// Who has written a field, as the API server keeps it.
pub const MANAGER: &str = "enforcer";
/// The type of our condition, among those of others.
pub const TYPE: &str = "EnforcerAccepted";
