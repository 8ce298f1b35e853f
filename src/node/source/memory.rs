//! What the kernel said, remembered for seconds: a connection a request is the rule for command line tools, and a question to the
//! kernel for each would cost more than the request.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// How long an answer counts. A pod's address may be given to another pod, but to none of another node so soon.
const LIFE: Duration = Duration::from_secs(5);

/// Answers remembered: many times the pods of a node. With one more all are forgotten, which costs each of them a look-up.
const PLACES: usize = 4_096;

/// Answers by what was asked for.
#[derive(Debug)]
pub(super) struct Memory<K, V> {
    known: Mutex<HashMap<K, Arc<Known<V>>, RandomState>>,
}

/// One answer: asked for since, and there once it has come.
#[derive(Debug)]
struct Known<V> {
    since: Instant,
    answer: OnceCell<V>,
}

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Self { known: Mutex::default() }
    }
}

impl<K: Eq + Hash, V: Clone> Memory<K, V> {
    /// The answer for `key`: from memory, else by `look_up`, of which one runs for a key at a time. A failure is not remembered.
    pub(super) async fn recall<E, F>(&self, key: K, now: Instant, look_up: impl FnOnce() -> F) -> Result<V, E>
    where
        F: Future<Output = Result<V, E>>,
    {
        let known = self.known(key, now);
        known.answer.get_or_try_init(look_up).await.cloned()
    }

    fn known(&self, key: K, now: Instant) -> Arc<Known<V>> {
        let mut known = self.known.lock();
        if let Some(fresh) = known.get(&key).filter(|known| known.is_fresh(now)) {
            return Arc::clone(fresh);
        }
        if known.len() >= PLACES {
            known.retain(|_, known| known.is_fresh(now));
        }
        if known.len() >= PLACES {
            known.clear();
        }
        let new = Arc::new(Known { since: now, answer: OnceCell::new() });
        known.insert(key, Arc::clone(&new));
        new
    }
}

impl<V> Known<V> {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < LIFE
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::base::clock::Clock;

    type Answer = Result<&'static str, ()>;

    fn now() -> Instant {
        Clock::System.now().mono
    }

    #[derive(Default)]
    struct Kernel {
        memory: Memory<u32, &'static str>,
        asked: Cell<usize>,
    }

    impl Kernel {
        /// Asks for `key`, whose `answer` takes a while.
        async fn find(&self, key: u32, answer: Answer) -> Answer {
            let look_up = async || {
                self.asked.set(self.asked.get() + 1);
                tokio::time::sleep(Duration::from_millis(1)).await;
                answer
            };
            self.memory.recall(key, now(), look_up).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_for_seconds() {
        let kernel = Kernel::default();
        assert_eq!(kernel.find(1, Ok("own")).await, Ok("own"));
        assert_eq!(kernel.find(1, Ok("foreign")).await, Ok("own"));
        assert_eq!(kernel.find(2, Ok("foreign")).await, Ok("foreign"));
        assert_eq!(kernel.asked.get(), 2);
        tokio::time::advance(LIFE).await;
        assert_eq!(kernel.find(1, Ok("foreign")).await, Ok("foreign"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_question_for_all_who_wait() {
        let kernel = Kernel::default();
        let answers = tokio::join!(kernel.find(1, Ok("own")), kernel.find(1, Err(())));
        assert_eq!((answers, kernel.asked.get()), ((Ok("own"), Ok("own")), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_or_a_connection_that_leaves_is_not_remembered() {
        let kernel = Kernel::default();
        assert_eq!(kernel.find(1, Err(())).await, Err(()));
        assert!(tokio::time::timeout(Duration::ZERO, kernel.find(1, Err(()))).await.is_err());
        assert_eq!(kernel.find(1, Ok("own")).await, Ok("own"));
        assert_eq!(kernel.asked.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn no_flood_of_peers_grows_it() {
        let memory = Memory::<usize, ()>::default();
        (0..30_000).for_each(|key| drop(memory.known(key, now())));
        assert!(memory.known.lock().len() <= PLACES);
        tokio::time::advance(LIFE).await;
        (0..PLACES).for_each(|key| drop(memory.known(key, now())));
        assert!(memory.known.lock().values().all(|known| known.is_fresh(now())), "the old make room first");
    }
}
