//! Where peers are, remembered for seconds: a connection a request is the rule for command line tools, a question to the kernel
//! for each would not be.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::node::source::{Origin, Peer};

/// How long an answer counts. A pod's address may be given to another one, but to none of another node so soon.
const LIFE: Duration = Duration::from_secs(5);

/// Peers remembered: many times the pods of a node. With one more all are forgotten, which costs each of them a look-up.
const PEERS: usize = 4_096;

/// What the kernel said of late.
#[derive(Debug, Default)]
pub(super) struct Memory {
    known: Mutex<HashMap<Peer, Arc<Known>, RandomState>>,
}

/// One peer: asked for since, and the answer once it is there.
#[derive(Debug)]
struct Known {
    since: Instant,
    origin: OnceCell<Origin>,
}

impl Memory {
    /// Where `peer` is: from memory, else by `look_up`, of which one runs for a peer at a time. A failure is not remembered.
    pub(super) async fn recall<E, F>(&self, peer: Peer, now: Instant, look_up: impl FnOnce() -> F) -> Result<Origin, E>
    where
        F: Future<Output = Result<Origin, E>>,
    {
        let known = self.known(peer, now);
        known.origin.get_or_try_init(look_up).await.cloned()
    }

    fn known(&self, peer: Peer, now: Instant) -> Arc<Known> {
        let mut known = self.known.lock();
        if let Some(fresh) = known.get(&peer).filter(|known| known.is_fresh(now)) {
            return Arc::clone(fresh);
        }
        if known.len() >= PEERS {
            known.retain(|_, known| known.is_fresh(now));
        }
        if known.len() >= PEERS {
            known.clear();
        }
        let new = Arc::new(Known { since: now, origin: OnceCell::new() });
        known.insert(peer, Arc::clone(&new));
        new
    }
}

impl Known {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < LIFE
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::base::clock::Clock;

    fn peer(number: u32) -> Peer {
        Peer { address: IpAddr::V4(Ipv4Addr::from(number)), link: 0 }
    }

    fn now() -> Instant {
        Clock::System.now().mono
    }

    #[derive(Default)]
    struct Kernel {
        memory: Memory,
        asked: Cell<usize>,
    }

    impl Kernel {
        /// Asks for `peer`, which is found after a while.
        async fn find(&self, peer: Peer, origin: Result<Origin, ()>) -> Result<Origin, ()> {
            let look_up = async || {
                self.asked.set(self.asked.get() + 1);
                tokio::time::sleep(Duration::from_millis(1)).await;
                origin
            };
            self.memory.recall(peer, now(), look_up).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_for_seconds() {
        let kernel = Kernel::default();
        assert_eq!(kernel.find(peer(1), Ok(Origin::Own)).await, Ok(Origin::Own));
        let foreign = Ok(Origin::Foreign("eth0".into()));
        assert_eq!(kernel.find(peer(1), foreign.clone()).await, Ok(Origin::Own));
        assert_eq!(kernel.find(peer(2), foreign.clone()).await, foreign);
        assert_eq!(kernel.asked.get(), 2);
        tokio::time::advance(LIFE).await;
        assert_eq!(kernel.find(peer(1), foreign.clone()).await, foreign);
    }

    #[tokio::test(start_paused = true)]
    async fn one_question_for_all_who_wait() {
        let kernel = Kernel::default();
        let (first, second) = tokio::join!(kernel.find(peer(1), Ok(Origin::Own)), kernel.find(peer(1), Err(())));
        assert_eq!((first, second, kernel.asked.get()), (Ok(Origin::Own), Ok(Origin::Own), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_or_a_connection_that_leaves_is_not_remembered() {
        let kernel = Kernel::default();
        assert_eq!(kernel.find(peer(1), Err(())).await, Err(()));
        assert!(tokio::time::timeout(Duration::ZERO, kernel.find(peer(1), Err(()))).await.is_err());
        assert_eq!(kernel.find(peer(1), Ok(Origin::Own)).await, Ok(Origin::Own));
        assert_eq!(kernel.asked.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn no_flood_of_peers_grows_it() {
        let memory = Memory::default();
        for number in 0..30_000 {
            memory.known(peer(number), now());
        }
        assert!(memory.known.lock().len() <= PEERS);
        tokio::time::advance(LIFE).await;
        (0..4_096).for_each(|number| drop(memory.known(peer(number), now())));
        assert!(memory.known.lock().values().all(|known| known.is_fresh(now())), "the old make room first");
    }
}
