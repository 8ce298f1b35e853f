//! How often one pod may ask, so that a busy loop in one does not take the node's CPU from the others.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::clock::Now;
use crate::domain::identity::Subject;
use crate::limits::buckets::Buckets;

/// Pods remembered at once; more than run on any node.
const MOST_REMEMBERED: usize = 8_192;

/// `--pod-rate`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Requests a second of one pod; the burst is twice that.
    pub per_second: f64,
}

/// A bucket for each pod that asked of late.
#[derive(Debug)]
pub struct PodRates {
    buckets: Mutex<Buckets<Arc<Subject>>>,
}

impl PodRates {
    /// No pod has asked yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { buckets: Mutex::new(Buckets::new(config.per_second, 2.0 * config.per_second, MOST_REMEMBERED)) }
    }

    /// Whether `subject` may ask once more at `now`. Without a verified pod, each token is limited for itself.
    pub fn admits(&self, subject: &Arc<Subject>, now: Now) -> bool {
        self.buckets.lock().take(subject, now.mono)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::Clock;
    use crate::domain::identity::TokenDigest;

    #[tokio::test(start_paused = true)]
    async fn each_pod_has_its_own_burst_and_rate() {
        let clock = Clock::System;
        let rates = PodRates::new(Config { per_second: 10.0 });
        let (a, b) = (Arc::new(Subject::Delegated(TokenDigest::of(b"a"))), Arc::new(Subject::Delegated(TokenDigest::of(b"b"))));
        assert_eq!((0..100).filter(|_| rates.admits(&a, clock.now())).count(), 20);
        assert!(rates.admits(&b, clock.now()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((0..100).filter(|_| rates.admits(&a, clock.now())).count(), 10);
    }
}
