//! How many connections are open, in all and from one source address, so that one pod can't take the descriptors of all others.
//!
//! Few pods could still take all of them together. So an eighth of the places is kept for sources that have next to none open: a
//! pod that asks for the first time finds one, whatever the others do.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;

use crate::observe::metrics::Limit;

/// One place in so many is kept for sources with fewer than [`FIRST`] connections: two for each of the 128 pods of a large node.
const KEPT_ONE_IN: usize = 8;
const FIRST: usize = 2;

/// The caps and what counts against them.
#[derive(Debug)]
pub(super) struct Caps {
    total: usize,
    per_source: usize,
    open: Mutex<Open>,
    gauge: Gauge,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_source: HashMap<IpAddr, usize, RandomState>,
}

/// One open connection; it counts until it is dropped, whatever ends it.
#[derive(Debug)]
pub(super) struct Slot {
    caps: Arc<Caps>,
    source: IpAddr,
}

impl Caps {
    /// At most `total` connections, `per_source` of them from one address; `gauge` shows how many there are.
    pub(super) fn new(total: usize, per_source: usize, gauge: Gauge) -> Arc<Self> {
        Arc::new(Self { total, per_source, open: Mutex::default(), gauge })
    }

    /// Counts a connection from `source`, or says which cap it would break.
    pub(super) fn admit(self: &Arc<Self>, source: IpAddr) -> Result<Slot, Limit> {
        let mut open = self.open.lock();
        let (left, kept) = (self.total.saturating_sub(open.total), self.total / KEPT_ONE_IN);
        let of_source = open.by_source.get(&source).copied().unwrap_or_default();
        if of_source >= self.per_source {
            return Err(Limit::SourceConnections);
        }
        if left == 0 || left <= kept && of_source >= FIRST {
            return Err(Limit::Connections);
        }
        open.by_source.insert(source, of_source + 1);
        open.total += 1;
        self.gauge.inc();
        Ok(Slot { caps: Arc::clone(self), source })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.caps.open.lock();
        open.total -= 1;
        self.caps.gauge.dec();
        if let Some(of_source) = open.by_source.get_mut(&self.source) {
            *of_source -= 1;
            if *of_source == 0 {
                open.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    /// As many connections as `source` gets.
    fn fill(caps: &Arc<Caps>, source: IpAddr) -> Vec<Slot> {
        std::iter::from_fn(|| caps.admit(source).ok()).collect()
    }

    #[test]
    fn both_caps_hold_and_a_dropped_slot_is_free_again() {
        let gauge = Gauge::default();
        let caps = Caps::new(5, 2, gauge.clone());
        let of_one = fill(&caps, source(1));
        assert_eq!((of_one.len(), caps.admit(source(1)).unwrap_err()), (2, Limit::SourceConnections));
        let others: Vec<Slot> = (2..5).map(|number| caps.admit(source(number)).unwrap()).collect();
        assert_eq!(caps.admit(source(5)).unwrap_err(), Limit::Connections);
        assert_eq!(gauge.get(), 5);
        drop(of_one);
        assert!(caps.admit(source(5)).is_ok());
        drop(others);
        assert_eq!((gauge.get(), caps.open.lock().total), (0, 0));
        assert!(caps.open.lock().by_source.is_empty(), "nothing is kept of sources that left");
    }

    #[test]
    fn however_many_sources_take_all_they_can_a_newcomer_finds_places() {
        for greedy in [1, 8, 20, 120] {
            let caps = Caps::new(2_048, 256, Gauge::default());
            let held: Vec<_> = (0..greedy).map(|number| fill(&caps, source(number))).collect();
            assert!(held.iter().all(|slots| slots.len() >= 2));
            assert!((500..505).all(|number| fill(&caps, source(number)).len() >= 2), "{greedy}");
        }
    }
}
