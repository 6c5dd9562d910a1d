//! Times, which are inputs wherever tokens are checked.

pub use policyc::clock::seconds;

/// The machine's clock, in seconds since 1970.
pub fn clock() -> anyhow::Result<u64> {
    Ok(policyc::clock::clock()?)
}
