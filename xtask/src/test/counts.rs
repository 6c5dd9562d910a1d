//! What the output of a step says about its tests.

use std::fmt::Write as _;

/// How much of a failure is shown; the log has all of it.
const SHOWN_LINES: usize = 150;

/// Results of one step. A step that runs no tests counts as one itself.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
    /// Lines that begin with `skipped: `, one for each test that could not run.
    pub skipped: u64,
}

impl Counts {
    pub fn of(output: &str, success: bool) -> Self {
        let mut counts = Self::default();
        let mut ran_tests = false;
        for line in output.lines().map(str::trim_end) {
            if line.starts_with("skipped: ") {
                counts.skipped += 1;
            } else if let Some(result) = line.strip_prefix("test result: ") {
                ran_tests = true;
                counts.passed += number_before(result, " passed");
                counts.failed += number_before(result, " failed");
            }
        }
        // What was skipped returned early, and the harness took that for a pass.
        counts.passed = counts.passed.saturating_sub(counts.skipped);
        if !success && counts.failed == 0 {
            counts.failed = 1; // it did not compile, or did not end
        } else if success && !ran_tests {
            counts.passed += 1;
        }
        counts
    }

    pub fn and(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

/// `ok. 12 passed; 0 failed; ...`: the number before a word, 0 where the word is absent.
fn number_before(text: &str, word: &str) -> u64 {
    let before = text
        .split(word)
        .next()
        .filter(|before| before.len() < text.len());
    let digits = before.and_then(|before| before.rsplit(' ').next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// The part of a failed step's output that says why: what failed tests printed, else the compiler's
/// errors, else the end.
pub fn failing_part(output: &str) -> String {
    let mut lines: Vec<&str> = tests_that_failed(output);
    lines.extend(output.lines().filter(|line| line.starts_with("skipped: ")));
    if lines.is_empty() {
        let error = output.lines().position(|line| line.starts_with("error"));
        lines = output.lines().skip(error.unwrap_or(usize::MAX)).collect();
    }
    if lines.is_empty() {
        return crate::step::tail(output);
    }
    let mut text = String::new();
    for line in lines.iter().take(SHOWN_LINES) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  | {}", line.trim_end());
    }
    if lines.len() > SHOWN_LINES {
        let _ = writeln!(text, "  | ... and {} lines more", lines.len() - SHOWN_LINES);
    }
    text
}

/// The harness prints `failures:`, what each failed test printed, and closes with its result.
fn tests_that_failed(output: &str) -> Vec<&str> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in output.lines() {
        inside |= line.trim_end() == "failures:";
        if inside {
            lines.push(line);
        }
        inside &= !line.starts_with("test result: ");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: &str = "\
running 3 tests
test a ... ok

failures:

---- b stdout ----
the reason

test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out
skipped: needs root
test result: ok. 10 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out
";

    #[test]
    fn results_of_several_binaries_are_summed() {
        let counts = Counts::of(FAILED, false);
        let expected = Counts {
            passed: 11,
            failed: 1,
            skipped: 1,
        };
        assert_eq!(counts, expected, "a skipped test is not a passed one");
    }

    #[test]
    fn a_step_without_tests_counts_as_one() {
        let one = Counts {
            passed: 1,
            ..Counts::default()
        };
        assert_eq!(Counts::of("Checking x", true), one, "it passed");
        let none = Counts {
            failed: 1,
            ..Counts::default()
        };
        assert_eq!(Counts::of("error: x", false), none, "it failed");
    }

    #[test]
    fn tests_that_never_ended_are_a_failure() {
        let counts = Counts::of("test result: ok. 4 passed; 0 failed\n", false);
        let expected = Counts {
            passed: 4,
            failed: 1,
            skipped: 0,
        };
        assert_eq!(counts, expected, "the step failed though no test did");
    }

    #[test]
    fn the_reason_is_shown_and_the_rest_is_not() {
        let part = failing_part(FAILED);
        assert!(
            part.contains("the reason"),
            "what the failed test printed: {part}"
        );
        assert!(!part.contains("test a ... ok"), "not what passed: {part}");
    }
}
