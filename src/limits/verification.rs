//! The budget for failed verifications: a signature check costs tens of microseconds, and a pod that floods the node with forged
//! tokens may not take them from its neighbours.
//!
//! Only failures are charged, since pods may share a source address, and a verified token costs its check once.

use std::collections::HashMap;
use std::net::IpAddr;

use parking_lot::Mutex;

use crate::base::bucket::Bucket;
use crate::base::clock::{Clock, Now};

/// How many tokens that prove nothing are looked at.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    source_per_second: f64,
    source_burst: f64,
    node_per_second: f64,
    node_burst: f64,
}

/// For signatures checked here, which cost CPU.
pub const LOCAL: Rates = Rates { source_per_second: 20.0, source_burst: 40.0, node_per_second: 500.0, node_burst: 1_000.0 };
/// For tokens that only EKS Auth can verify, each of which costs a call of the node's budget and a place in the cache for minutes.
pub const DELEGATED: Rates = Rates { source_per_second: 1.0, source_burst: 10.0, node_per_second: 10.0, node_burst: 200.0 };

/// Sources remembered. A source's bucket is full again after 2 s, and the node's budget lets no more than 2,000 failures pass in
/// that time: among this many there are full ones to forget.
const SOURCES: usize = 4_096;

/// Who has failed how often of late.
#[derive(Debug)]
pub struct VerificationBudget {
    rates: Rates,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    node: Bucket,
    sources: HashMap<IpAddr, Bucket>,
}

impl VerificationBudget {
    /// A budget of which nothing is spent.
    #[must_use]
    pub fn new(rates: Rates, clock: &Clock) -> Self {
        let node = Bucket::new(rates.node_per_second, rates.node_burst, clock.now().mono);
        Self { rates, buckets: Mutex::new(Buckets { node, sources: HashMap::new() }) }
    }

    /// Whether a token from `source` may be verified.
    #[must_use]
    pub fn admits(&self, source: IpAddr, now: Now) -> bool {
        let mut buckets = self.buckets.lock();
        buckets.node.has(now.mono) && buckets.sources.get_mut(&source).is_none_or(|bucket| bucket.has(now.mono))
    }

    /// Counts a failed verification against `source` and the node.
    pub fn charge(&self, source: IpAddr, now: Now) {
        let mut buckets = self.buckets.lock();
        buckets.node.take(now.mono);
        if buckets.sources.len() >= SOURCES {
            buckets.sources.retain(|_, bucket| !bucket.is_full(now.mono));
        }
        let Rates { source_per_second, source_burst, .. } = self.rates;
        buckets.sources.entry(source).or_insert_with(|| Bucket::new(source_per_second, source_burst, now.mono)).take(now.mono);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn source(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(number))
    }

    /// How many of `tries` failures of each source are admitted.
    fn admitted(budget: &VerificationBudget, clock: &Clock, sources: std::ops::Range<u32>, tries: usize) -> usize {
        let attempt = |number| {
            let admitted = budget.admits(source(number), clock.now());
            if admitted {
                budget.charge(source(number), clock.now());
            }
            admitted
        };
        sources.flat_map(|number| std::iter::repeat_n(number, tries)).filter(|number| attempt(*number)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn one_source_spends_its_own_share_only() {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH);
        let budget = VerificationBudget::new(LOCAL, &clock);
        assert_eq!(admitted(&budget, &clock, 0..1, 100), 40);
        assert!(budget.admits(source(1), clock.now()), "a neighbour is not affected");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(admitted(&budget, &clock, 0..1, 100), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn all_sources_together_spend_no_more_than_the_nodes() {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH);
        let budget = VerificationBudget::new(LOCAL, &clock);
        assert_eq!(admitted(&budget, &clock, 0..100, 40), 1_000);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(admitted(&budget, &clock, 100..200, 40), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn sources_are_forgotten_once_their_buckets_are_full() {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH);
        let budget = VerificationBudget::new(LOCAL, &clock);
        for round in 0..20 {
            admitted(&budget, &clock, round * 1_000..(round + 1) * 1_000, 1);
            tokio::time::advance(Duration::from_secs(2)).await;
        }
        assert!(budget.buckets.lock().sources.len() <= SOURCES);
    }
}
