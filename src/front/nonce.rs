//! Proof that an answer came from this very process, for its own readiness probe.
//!
//! A redirected address (a Service's externalIPs, a DNAT rule) answers connections too, and so does another agent of the node;
//! only this process knows the nonces that it issued a moment ago.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::base::clock::Clock;

/// How long a nonce is known.
const LIFE: Duration = Duration::from_secs(5);

/// Nonces known at most; the oldest make room.
const KNOWN: usize = 64;

/// The nonces of this process.
#[derive(Debug)]
pub struct Nonces {
    clock: Clock,
    issued: Mutex<VecDeque<Issued>>,
}

#[derive(Debug)]
struct Issued {
    nonce: String,
    at: Instant,
}

impl Nonces {
    /// None yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, issued: Mutex::default() }
    }

    /// A new nonce: 128 random bits as 32 hexadecimal digits, for `GET /v1/self/NONCE` within 5 s.
    pub fn issue(&self) -> String {
        let nonce = format!("{:032x}", rand::random::<u128>());
        let mut issued = self.issued.lock();
        if issued.len() == KNOWN {
            issued.pop_front();
        }
        issued.push_back(Issued { nonce: nonce.clone(), at: self.clock.now().mono });
        nonce
    }

    /// Whether this process issued `nonce` in the last 5 s.
    #[must_use]
    pub fn is_own(&self, nonce: &str) -> bool {
        let now = self.clock.now().mono;
        self.issued.lock().iter().any(|issued| issued.nonce == nonce && now <= issued.at + LIFE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_nonce_is_known_for_five_seconds() {
        let nonces = Nonces::new(Clock::System);
        let nonce = nonces.issue();
        assert_eq!(nonce.len(), 32);
        assert!(nonces.is_own(&nonce) && nonces.is_own(&nonce));
        assert!(!nonces.is_own("") && !nonces.is_own(&nonce.to_uppercase().replace(|c: char| c.is_ascii_digit(), "x")));
        assert!(!Nonces::new(Clock::System).is_own(&nonce), "another process does not know it");
        tokio::time::advance(LIFE).await;
        assert!(nonces.is_own(&nonce));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!nonces.is_own(&nonce));
    }

    #[test]
    fn memory_is_bounded() {
        let nonces = Nonces::new(Clock::System);
        let first = nonces.issue();
        let last = (0..KNOWN).map(|_| nonces.issue()).last().unwrap();
        assert_eq!(nonces.issued.lock().len(), KNOWN);
        assert!(nonces.is_own(&last) && !nonces.is_own(&first));
    }
}
