//! A token bucket, as a pure function of time: the one form of rate limit in credlet.

use std::time::Duration;

use tokio::time::Instant;

/// The longest wait that [`Bucket::next`] tells: a rate may be so low that the true one is no time at all.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// A rate and a burst, and what is left of them.
#[derive(Debug, Clone)]
pub struct Bucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    filled_at: Instant,
}

impl Bucket {
    /// A full bucket. A burst below one would let nothing through at any rate, so it is one at least.
    #[must_use]
    pub fn new(per_second: f64, burst: f64, now: Instant) -> Self {
        let burst = burst.max(1.0);
        Self { per_second, burst, tokens: burst, filled_at: now }
    }

    /// For log lines that a flood would repeat: one now, and one a minute.
    #[must_use]
    pub fn once_a_minute(now: Instant) -> Self {
        Self::new(1.0 / 60.0, 1.0, now)
    }

    /// Takes a token if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let has = self.has(now);
        if has {
            self.tokens -= 1.0;
        }
        has
    }

    /// Whether there is a token to take.
    pub fn has(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.tokens >= 1.0
    }

    /// When the next token will be there, or to look again; `now` if one is.
    pub fn next(&mut self, now: Instant) -> Instant {
        self.fill(now);
        let missing = (1.0 - self.tokens).max(0.0);
        let wait = Duration::try_from_secs_f64(missing / self.per_second.max(f64::MIN_POSITIVE));
        now + wait.map_or(LONGEST_WAIT, |wait| wait.min(LONGEST_WAIT))
    }

    /// Whether nothing has been taken of late, so that forgetting it changes nothing.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.tokens >= self.burst
    }

    /// Changes the rate from now on.
    pub fn set_rate(&mut self, per_second: f64, now: Instant) {
        self.fill(now);
        self.per_second = per_second;
    }

    /// Takes all tokens away: a rate that has proved too high starts again from nothing.
    pub fn drain(&mut self, now: Instant) {
        self.tokens = 0.0;
        self.filled_at = now;
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = passed.mul_add(self.per_second, self.tokens).min(self.burst);
        self.filled_at = self.filled_at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    #[test]
    fn burst_then_rate() {
        let start = Clock::System.now().mono;
        let mut bucket = Bucket::new(2.0, 3.0, start);
        assert_eq!((0..5).filter(|_| bucket.take(start)).count(), 3);
        assert_eq!(bucket.next(start), start + Duration::from_millis(500));
        assert!(!bucket.take(start + Duration::from_millis(499)));
        assert!(bucket.take(start + Duration::from_millis(501)));
        assert!(!bucket.is_full(start + Duration::from_secs(1)));
        assert!(bucket.is_full(start + Duration::from_secs(10)));
    }

    #[test]
    fn a_slow_rate_lets_one_through_at_a_time() {
        let start = Clock::System.now().mono;
        let mut bucket = Bucket::new(0.1, 0.2, start);
        assert!(bucket.take(start) && !bucket.take(start));
        assert!(!bucket.take(start + Duration::from_millis(9_999)));
        assert!(bucket.take(start + Duration::from_millis(10_001)));
    }

    #[test]
    fn no_rate_is_too_low_to_tell_when_to_look_again() {
        let start = Clock::System.now().mono;
        for rate in [0.0, 1e-20, f64::MIN_POSITIVE] {
            let mut bucket = Bucket::new(rate, 1.0, start);
            assert_eq!(bucket.next(start), start);
            assert!(bucket.take(start));
            assert_eq!(bucket.next(start), start + LONGEST_WAIT, "{rate}");
        }
    }

    #[test]
    fn a_new_rate_counts_from_now() {
        let start = Clock::System.now().mono;
        let mut bucket = Bucket::new(10.0, 10.0, start);
        bucket.drain(start);
        bucket.set_rate(1.0, start);
        assert!(!bucket.has(start + Duration::from_millis(900)));
        assert!(bucket.has(start + Duration::from_millis(1001)));
    }
}
