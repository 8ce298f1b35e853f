//! The budget for failed verifications: a signature check costs tens of microseconds, and a pod that floods the node with forged
//! tokens may not take them from its neighbours.
//!
//! Only failures are charged, since pods may share a source address, and a verified token costs its check once. A share of the
//! node's budget is kept for sources that have not failed, so that those that have can't spend what a new pod needs.

use std::net::IpAddr;

use parking_lot::Mutex;

use crate::base::bucket::Bucket;
use crate::base::clock::{Clock, Now};
use crate::limits::buckets::Buckets;

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

/// Of the node's budget, what is kept for sources that have not failed.
const KEPT_SHARE: f64 = 0.2;

/// Sources remembered. A source's bucket is full again after 2 s, and the node's budget lets no more than 2,000 failures pass in
/// that time: among this many there are full ones to forget.
const SOURCES: usize = 4_096;

/// Who has failed how often of late.
#[derive(Debug)]
pub struct VerificationBudget {
    spent: Mutex<Spent>,
}

#[derive(Debug)]
struct Spent {
    node: Bucket,
    kept: Bucket,
    sources: Buckets<IpAddr>,
}

impl VerificationBudget {
    /// A budget of which nothing is spent.
    #[must_use]
    pub fn new(rates: Rates, clock: &Clock) -> Self {
        let Rates { source_per_second, source_burst, node_per_second, node_burst } = rates;
        let share = |share| Bucket::new(share * node_per_second, share * node_burst, clock.now().mono);
        let sources = Buckets::new(source_per_second, source_burst, SOURCES);
        Self { spent: Mutex::new(Spent { node: share(1.0 - KEPT_SHARE), kept: share(KEPT_SHARE), sources }) }
    }

    /// Whether a token from `source` may be verified.
    #[must_use]
    pub fn admits(&self, source: IpAddr, now: Now) -> bool {
        let Spent { node, kept, sources } = &mut *self.spent.lock();
        match sources.has(&source, now.mono) {
            Some(source_has) => source_has && node.has(now.mono),
            None => node.has(now.mono) || kept.has(now.mono),
        }
    }

    /// Counts a failed verification against `source` and the node.
    pub fn charge(&self, source: IpAddr, now: Now) {
        let Spent { node, kept, sources } = &mut *self.spent.lock();
        if !node.take(now.mono) && sources.has(&source, now.mono).is_none() {
            kept.take(now.mono);
        }
        sources.take(&source, now.mono);
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
        assert_eq!(admitted(&budget, &clock, 0..1_000, 40), 1_000);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(admitted(&budget, &clock, 1_000..2_000, 40), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn sources_that_failed_leave_a_share_to_those_that_have_not() {
        let clock = Clock::simulated(SystemTime::UNIX_EPOCH);
        let budget = VerificationBudget::new(LOCAL, &clock);
        admitted(&budget, &clock, 0..100, 1);
        for _ in 0..10 {
            admitted(&budget, &clock, 0..100, 1_000);
            assert!((0..100).all(|number| !budget.admits(source(number), clock.now())), "nothing is left to them");
            assert!(budget.admits(source(200), clock.now()), "a new source is looked at");
            tokio::time::advance(Duration::from_millis(100)).await;
        }
    }
}
