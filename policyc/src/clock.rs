//! Times, which are inputs wherever tokens are checked.

use std::time::{SystemTime, UNIX_EPOCH};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// RFC 3339 to seconds since 1970.
///
/// # Errors
/// What is wrong with the text.
pub fn seconds(text: &str) -> Result<u64, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|why| format!("{why}; a time looks like 2026-01-01T00:00:00Z"))?;
    u64::try_from(time.unix_timestamp()).map_err(|_| "a time before 1970".into())
}

/// The machine's clock, in seconds since 1970.
///
/// # Errors
/// A clock that stands before that.
pub fn clock() -> Result<u64, BeforeEpoch> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(since_1970.map_err(|_| BeforeEpoch)?.as_secs())
}

/// The machine's clock is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the clock stands before 1970")]
pub struct BeforeEpoch;
