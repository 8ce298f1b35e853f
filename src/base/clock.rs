//! The only place that reads a clock.
//!
//! Age rules need two clocks: the wall clock for what AWS and Kubernetes stamp (`exp`, `Expiration`), read at each use so that an
//! NTP step is seen, and the monotonic one for waiting. A simulated clock ties the first to tokio's, so that
//! `tokio::time::advance` moves both together in tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The wall clock, for expiries stamped by others.
    pub wall: SystemTime,
    /// The monotonic clock, for delays and deadlines.
    pub mono: Instant,
}

impl Now {
    /// Wall clock as whole seconds since the Unix epoch, the unit of JWT `NumericDate` (RFC 7519 §2).
    #[must_use]
    pub fn unix(&self) -> i64 {
        unix_seconds(self.wall)
    }

    /// Life left until `expiry`; zero when it has passed.
    #[must_use]
    pub fn until(&self, expiry: SystemTime) -> Duration {
        expiry.duration_since(self.wall).unwrap_or(Duration::ZERO)
    }
}

/// A source of [`Now`].
#[derive(Debug, Clone)]
pub enum Clock {
    /// The machine's clocks.
    System,
    /// A wall clock that follows tokio's (pausable) one.
    Simulated(Simulated),
}

/// The state of a simulated wall clock.
#[derive(Debug, Clone)]
pub struct Simulated {
    wall_at_start: SystemTime,
    start: Instant,
    step_seconds: Arc<AtomicI64>,
}

impl Clock {
    /// A wall clock that stands at `wall` now and moves as tokio's does. Call it inside a runtime.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn simulated(wall: SystemTime) -> Self {
        Self::Simulated(Simulated { wall_at_start: wall, start: Instant::now(), step_seconds: Arc::default() })
    }

    /// Reads both clocks.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn now(&self) -> Now {
        let mono = Instant::now();
        match self {
            Self::System => Now { wall: SystemTime::now(), mono },
            Self::Simulated(simulated) => Now { wall: simulated.wall(mono), mono },
        }
    }

    /// Steps a simulated wall clock by `seconds`, as NTP might; the machine's own clock is never set.
    pub fn step(&self, seconds: i64) {
        if let Self::Simulated(simulated) = self {
            simulated.step_seconds.fetch_add(seconds, Ordering::Relaxed);
        }
    }
}

impl Simulated {
    fn wall(&self, mono: Instant) -> SystemTime {
        let moved = self.wall_at_start + mono.saturating_duration_since(self.start);
        let step = self.step_seconds.load(Ordering::Relaxed);
        let size = Duration::from_secs(step.unsigned_abs());
        if step < 0 { moved - size } else { moved + size }
    }
}

/// Whole seconds since the Unix epoch, rounded down; 0 for times before it.
#[must_use]
pub fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The time `seconds` after the Unix epoch; `None` when it is negative or out of the platform's range.
#[must_use]
pub fn from_unix_seconds(seconds: i64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_simulated_wall_clock_follows_tokio_and_steps() {
        let clock = Clock::simulated(UNIX_EPOCH + Duration::from_secs(1000));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(clock.now().unix(), 1005);
        clock.step(-7200);
        assert_eq!(clock.now().unix(), 0, "before the epoch reads as the epoch");
        clock.step(7300);
        assert_eq!(clock.now().unix(), 1105);
    }

    #[test]
    fn seconds_round_down_and_refuse_negatives() {
        assert_eq!(unix_seconds(UNIX_EPOCH + Duration::from_millis(1999)), 1);
        assert_eq!(from_unix_seconds(-1), None);
        assert_eq!(from_unix_seconds(7), Some(UNIX_EPOCH + Duration::from_secs(7)));
    }
}
