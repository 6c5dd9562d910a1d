//! Lengths of time as Go writes them: `5s`, `1.5s`, `100ms`, `1m30s`.

use super::node::{Node, Reader};
use crate::diagnostic::Code;

/// Whole milliseconds, at least one; anything else is an error of `code`.
pub(crate) fn duration(reader: &mut Reader<'_>, node: &Node<'_>, code: Code) -> Option<u64> {
    let text = reader.string(node)?;
    let parsed = milliseconds(&text);
    if parsed.is_none() {
        reader.error(
            code,
            node,
            format!("`{text}` is not a duration of at least one whole millisecond"),
            "write seconds, such as \"5s\"",
        );
    }
    parsed
}

fn milliseconds(text: &str) -> Option<u64> {
    let mut nanoseconds: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit: u128 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "µs" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        nanoseconds = nanoseconds.checked_add(scaled(number, unit)?)?;
        rest = after;
    }
    let whole = nanoseconds > 0 && nanoseconds.is_multiple_of(1_000_000);
    whole.then(|| u64::try_from(nanoseconds / 1_000_000).ok())?
}

/// A decimal number times a unit, where that is a whole number.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return None;
    }
    let parse = |digits: &str| match digits {
        "" => Some(0),
        _ => digits.parse::<u128>().ok(),
    };
    let part = parse(fraction)?.checked_mul(unit)?;
    let divisor = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let fits = part.is_multiple_of(divisor);
    fits.then(|| parse(whole)?.checked_mul(unit)?.checked_add(part / divisor))?
}

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn go_durations() {
        assert_eq!(milliseconds("5s"), Some(5_000));
        assert_eq!(milliseconds("1.5s"), Some(1_500));
        assert_eq!(milliseconds("1m30s"), Some(90_000));
        assert_eq!(milliseconds("100ms"), Some(100));
        for bad in [
            "", "5", "s", "-1s", "0s", "1.0001ms", "5 s", "1..5s", "five",
        ] {
            assert_eq!(milliseconds(bad), None, "`{bad}` is not a duration");
        }
    }
}
