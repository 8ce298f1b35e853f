//! What limits turn away: each time is counted, and each limit writes a line a minute at most, whatever comes.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::clock::Now;
use crate::base::repeats::Repeats;
use crate::observe::metrics::{Limit, Metrics};

/// Counts and tells.
#[derive(Debug)]
pub struct Sheds {
    metrics: Arc<Metrics>,
    lines: Mutex<Repeats<Limit>>,
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
        let Some(times) = self.lines.lock().line(limit, now.mono) else { return };
        let (limit, source) = (<&'static str>::from(limit), source.map(tracing::field::display));
        tracing::warn!(limit, source, times, "a limit sheds load");
    }
}
