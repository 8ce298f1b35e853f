//! How often one pod may ask, so that a busy loop in one does not take the node's CPU from the others.

use std::collections::HashMap;

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use crate::base::bucket::Bucket;
use crate::base::clock::Now;
use crate::domain::identity::Subject;

/// Pods remembered at once; more than run on any node. Beyond it, those that have been quiet are forgotten, which changes nothing.
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
    config: Config,
    buckets: Mutex<HashMap<Box<[u8]>, Bucket, RandomState>>,
}

impl PodRates {
    /// No pod has asked yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, buckets: Mutex::default() }
    }

    /// Whether `subject` may ask once more at `now`. Without a verified pod, each token is limited for itself.
    pub fn admits(&self, subject: &Subject, now: Now) -> bool {
        let pod = match subject {
            Subject::Verified(identity) => identity.pod_uid.as_bytes(),
            Subject::Delegated(digest) => digest.as_bytes(),
        };
        let mut buckets = self.buckets.lock();
        if let Some(bucket) = buckets.get_mut(pod) {
            return bucket.take(now.mono);
        }
        if buckets.len() >= MOST_REMEMBERED {
            buckets.retain(|_, bucket| !bucket.is_full(now.mono));
        }
        let mut bucket = Bucket::new(self.config.per_second, 2.0 * self.config.per_second, now.mono);
        let admitted = bucket.take(now.mono);
        buckets.insert(pod.into(), bucket);
        admitted
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
        let (a, b) = (Subject::Delegated(TokenDigest::of(b"a")), Subject::Delegated(TokenDigest::of(b"b")));
        assert_eq!((0..100).filter(|_| rates.admits(&a, clock.now())).count(), 20);
        assert!(rates.admits(&b, clock.now()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((0..100).filter(|_| rates.admits(&a, clock.now())).count(), 10);
    }
}
