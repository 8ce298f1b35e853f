//! What limits turn away: each time is counted, and each limit writes a line a minute at most, whatever comes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::bucket::Bucket;
use crate::base::clock::Now;
use crate::observe::metrics::{Limit, Metrics};

/// Counts and tells.
#[derive(Debug)]
pub struct Sheds {
    metrics: Arc<Metrics>,
    lines: Mutex<HashMap<Limit, Line>>,
}

/// Of one limit.
#[derive(Debug)]
struct Line {
    budget: Bucket,
    /// Since the last line was written.
    times: u64,
}

impl Sheds {
    /// Nothing has been turned away yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, lines: Mutex::default() }
    }

    /// `limit` has turned somebody away, who came from `source` if it was a request or a connection.
    pub fn shed(&self, limit: Limit, source: Option<IpAddr>, now: Now) {
        self.metrics.front.shed(limit);
        let Some(times) = self.line(limit, now) else { return };
        let (limit, source) = (<&'static str>::from(limit), source.map(tracing::field::display));
        tracing::warn!(limit, source, times, "a limit sheds load");
    }

    /// How often since the last line, if there may be one now.
    fn line(&self, limit: Limit, now: Now) -> Option<u64> {
        let mut lines = self.lines.lock();
        let line = lines.entry(limit).or_insert_with(|| Line { budget: Bucket::once_a_minute(now.mono), times: 0 });
        line.times += 1;
        line.budget.take(now.mono).then(|| std::mem::take(&mut line.times))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::Clock;

    #[tokio::test(start_paused = true)]
    async fn each_limit_has_a_line_a_minute_that_says_how_often() {
        let sheds = Sheds::new(Arc::default());
        let line = |limit| sheds.line(limit, Clock::System.now());
        assert_eq!((line(Limit::PodRate), line(Limit::Connections)), (Some(1), Some(1)));
        assert_eq!((line(Limit::PodRate), line(Limit::PodRate)), (None, None));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!((line(Limit::PodRate), line(Limit::PodRate), line(Limit::Connections)), (Some(3), None, Some(1)));
    }
}
