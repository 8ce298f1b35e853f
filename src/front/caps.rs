//! How many connections are open, in all and from one source address, so that one pod can't take the descriptors of all others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;

use crate::observe::metrics::Limit;

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
        if open.total >= self.total {
            return Err(Limit::Connections);
        }
        let of_source = open.by_source.entry(source).or_default();
        if *of_source >= self.per_source {
            return Err(Limit::SourceConnections);
        }
        *of_source += 1;
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

    #[test]
    fn both_caps_hold_and_a_dropped_slot_is_free_again() {
        let gauge = Gauge::default();
        let caps = Caps::new(3, 2, gauge.clone());
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse::<IpAddr>().unwrap());
        let of_a = [caps.admit(a).unwrap(), caps.admit(a).unwrap()];
        assert_eq!(caps.admit(a).unwrap_err(), Limit::SourceConnections);
        let of_b = caps.admit(b).unwrap();
        assert_eq!(caps.admit(b).unwrap_err(), Limit::Connections);
        assert_eq!(gauge.get(), 3);
        drop(of_a);
        assert!(caps.admit(b).is_ok());
        drop(of_b);
        assert_eq!((gauge.get(), caps.open.lock().total), (0, 0));
        assert!(caps.open.lock().by_source.is_empty(), "nothing is kept of sources that left");
    }
}
