//! Log lines that would come again and again: of each kind one a minute, which says how often it would have come.

use std::collections::HashMap;
use std::hash::Hash;

use tokio::time::Instant;

use crate::base::bucket::Bucket;

/// Kinds of lines, and when each was last written.
#[derive(Debug)]
pub struct Repeats<K>(HashMap<K, Kind>);

#[derive(Debug)]
struct Kind {
    budget: Bucket,
    /// Since the last line was written.
    times: u64,
}

impl<K: Eq + Hash> Repeats<K> {
    /// It has happened: how often since the last line, if there may be one now.
    pub fn line(&mut self, kind: K, now: Instant) -> Option<u64> {
        let kind = self.0.entry(kind).or_insert_with(|| Kind { budget: Bucket::once_a_minute(now), times: 0 });
        kind.times += 1;
        kind.budget.take(now).then(|| std::mem::take(&mut kind.times))
    }
}

impl<K> Default for Repeats<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::Clock;

    #[test]
    fn each_kind_has_a_line_a_minute_that_says_how_often() {
        let (mut repeats, now) = (Repeats::default(), Clock::System.now().mono);
        let mut line = |kind, passed| repeats.line(kind, now + Duration::from_secs(passed));
        assert_eq!((line('a', 0), line('b', 0)), (Some(1), Some(1)));
        assert_eq!((line('a', 1), line('a', 2)), (None, None));
        assert_eq!((line('a', 61), line('a', 61), line('b', 61)), (Some(3), None, Some(1)));
    }
}
