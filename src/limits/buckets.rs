//! One bucket for each of many: what sources, pods and identities are limited by.

use std::collections::HashMap;
use std::hash::Hash;

use foldhash::quality::RandomState;
use tokio::time::Instant;

use crate::base::bucket::Bucket;

/// Buckets of one rate and burst. Whoever has not come of late has a full one, which needs no place.
#[derive(Debug)]
pub(super) struct Buckets<K> {
    per_second: f64,
    burst: f64,
    most: usize,
    by_key: HashMap<K, Bucket, RandomState>,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    /// All are full. Beyond `most` of them, those that are full again are forgotten, which changes nothing.
    pub(super) fn new(per_second: f64, burst: f64, most: usize) -> Self {
        Self { per_second, burst, most, by_key: HashMap::default() }
    }

    /// Whether there is a token for `key`; `None` if it has never taken one, as far as that is remembered.
    pub(super) fn has(&mut self, key: &K, now: Instant) -> Option<bool> {
        self.by_key.get_mut(key).map(|bucket| bucket.has(now))
    }

    /// Takes a token of `key` if there is one.
    pub(super) fn take(&mut self, key: &K, now: Instant) -> bool {
        if let Some(bucket) = self.by_key.get_mut(key) {
            return bucket.take(now);
        }
        if self.by_key.len() >= self.most {
            self.by_key.retain(|_, bucket| !bucket.is_full(now));
        }
        let mut bucket = Bucket::new(self.per_second, self.burst, now);
        let taken = bucket.take(now);
        self.by_key.insert(key.clone(), bucket);
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::Clock;

    #[test]
    fn each_has_its_own_and_full_ones_are_forgotten() {
        let start = Clock::System.now().mono;
        let mut buckets: Buckets<u32> = Buckets::new(1.0, 2.0, 10);
        assert_eq!(buckets.has(&7, start), None);
        assert_eq!((0..5).filter(|_| buckets.take(&7, start)).count(), 2);
        assert_eq!((buckets.has(&7, start), buckets.take(&8, start)), (Some(false), true));
        for key in 100..200 {
            buckets.take(&key, start + Duration::from_secs(u64::from(key)));
            assert!(buckets.by_key.len() <= 10);
        }
    }
}
