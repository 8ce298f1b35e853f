//! When this agent may join the one who serves again: a join costs that one all that it knows, packed and sent, so joins that end at
//! once come ever more seldom. The seat is tried all the while.

use std::time::Duration;

use tokio::time::Instant;

use crate::base::backoff::doubled;
use crate::node::handover::machine::PAUSE;

/// From one join to the next at most. One that has lasted for longer was no failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Joins in a row of which none has lasted.
#[derive(Debug)]
pub(super) struct Joins {
    in_a_row: u32,
    not_before: Instant,
}

impl Joins {
    pub(super) fn new(now: Instant) -> Self {
        Self { in_a_row: 0, not_before: now }
    }

    /// When another one may begin.
    pub(super) fn next(&self, now: Instant) -> Instant {
        now.max(self.not_before)
    }

    /// Whether it may now.
    pub(super) fn may_begin(&self, now: Instant) -> bool {
        self.next(now) == now
    }

    /// One begins.
    pub(super) fn begun(&mut self, now: Instant) {
        let has_lasted = now.saturating_duration_since(self.not_before) > LONGEST_PAUSE;
        self.in_a_row = if has_lasted { 1 } else { self.in_a_row.saturating_add(1) };
        self.not_before = now + doubled(PAUSE, self.in_a_row, LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    #[test]
    fn joins_that_end_at_once_come_ever_more_seldom_until_one_lasts() {
        let mut now = Clock::System.now().mono;
        let mut joins = Joins::new(now);
        let mut begin = |joins: &mut Joins, lasts: Duration| {
            let since = now;
            now += lasts;
            while !joins.may_begin(now) {
                now += PAUSE;
            }
            joins.begun(now);
            now - since
        };
        let pauses: Vec<_> = (0..11).map(|_| begin(&mut joins, Duration::ZERO).as_millis()).collect();
        assert_eq!(pauses, [0, 20, 40, 80, 160, 320, 640, 1280, 2560, 5000, 5000]);
        let lasting = LONGEST_PAUSE * 2 + PAUSE;
        assert_eq!(begin(&mut joins, lasting), lasting);
        assert_eq!(begin(&mut joins, Duration::ZERO), PAUSE);
    }
}
