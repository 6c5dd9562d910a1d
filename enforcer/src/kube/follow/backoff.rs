//! How long to wait before the next attempt: twice as long each time, and not at the same moment as
//! every other node.

use std::time::Duration;

pub struct Backoff {
    first: Duration,
    most: Duration,
    now: Duration,
}

impl Backoff {
    pub fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            now: first,
        }
    }

    pub fn reset(&mut self) {
        self.now = self.first;
    }

    /// Between a half and all of a wait that doubles.
    pub fn next(&mut self) -> Duration {
        let wait = self.now;
        self.now = (wait * 2).min(self.most);
        wait.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most_and_begin_anew_after_a_success() {
        let [first, most] = [Duration::from_millis(100), Duration::from_millis(350)];
        let mut backoff = Backoff::new(first, most);
        for expected in [100, 200, 350, 350] {
            let wait = backoff.next().as_millis();
            assert!(
                wait <= expected && wait * 2 >= expected,
                "{wait} of {expected}"
            );
        }
        backoff.reset();
        assert!(backoff.next() <= first);
    }
}
