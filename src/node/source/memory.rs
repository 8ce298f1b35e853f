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
pub(super) const LIFE: Duration = Duration::from_secs(5);

/// Answers remembered: many times the pods of a node. With one more all are forgotten, which costs each of them a look-up.
const PLACES: usize = 4_096;

/// Answers by what was asked for.
#[derive(Debug)]
pub(super) struct Memory<K, V> {
    known: Mutex<HashMap<K, Arc<Known<V>>, RandomState>>,
}

/// What is known of one key.
#[derive(Debug)]
struct Known<V> {
    /// There once it has come.
    answer: OnceCell<Dated<V>>,
    before: Option<Dated<V>>,
}

/// An answer and when it was asked for.
#[derive(Debug, Clone)]
struct Dated<V> {
    value: V,
    since: Instant,
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
        let dated = async || Ok(Dated { value: look_up().await?, since: now });
        Ok(known.answer.get_or_try_init(dated).await?.value.clone())
    }

    /// The last answer for `key`, if it was asked for less than `age` ago.
    pub(super) fn last(&self, key: &K, now: Instant, age: Duration) -> Option<V> {
        let known = self.known.lock();
        let last = known.get(key)?.last()?;
        last.is_within(age, now).then(|| last.value.clone())
    }

    /// What is known of `key`, with an answer that is fresh or still to come.
    fn known(&self, key: K, now: Instant) -> Arc<Known<V>> {
        let mut known = self.known.lock();
        let before = match known.get(&key) {
            Some(known) if known.answer.get().is_none_or(|answer| answer.is_within(LIFE, now)) => return Arc::clone(known),
            Some(known) => known.last().cloned(),
            None => None,
        };
        if known.len() >= PLACES {
            known.retain(|_, known| known.last().is_some_and(|last| last.is_within(LIFE, now)));
        }
        if known.len() >= PLACES {
            known.clear();
        }
        let new = Arc::new(Known { answer: OnceCell::new(), before });
        known.insert(key, Arc::clone(&new));
        new
    }
}

impl<V> Known<V> {
    fn last(&self) -> Option<&Dated<V>> {
        self.answer.get().or(self.before.as_ref())
    }
}

impl<V> Dated<V> {
    fn is_within(&self, age: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < age
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::ready;

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
    async fn the_last_answer_stays_until_there_is_another() {
        let kernel = Kernel::default();
        let last = |age| kernel.memory.last(&1, now(), Duration::from_secs(age));
        assert_eq!((kernel.find(1, Err(())).await, last(60)), (Err(()), None));
        assert_eq!((kernel.find(1, Ok("own")).await, last(1)), (Ok("own"), Some("own")));
        tokio::time::advance(Duration::from_secs(50)).await;
        assert_eq!(kernel.find(1, Err(())).await, Err(()));
        assert_eq!((last(50), last(60)), (None, Some("own")));
        assert_eq!((kernel.find(1, Ok("foreign")).await, last(1)), (Ok("foreign"), Some("foreign")));
    }

    #[tokio::test(start_paused = true)]
    async fn no_flood_of_peers_grows_it() {
        let memory = Memory::<usize, usize>::default();
        let learn = async |key| memory.recall(key, now(), || ready(Ok::<_, ()>(key))).await.unwrap();
        for key in 0..10_000 {
            learn(key).await;
        }
        assert!(memory.known.lock().len() <= PLACES);
        tokio::time::advance(LIFE).await;
        for key in 0..PLACES {
            learn(key).await;
        }
        assert!((0..PLACES).all(|key| memory.last(&key, now(), LIFE).is_some()), "the old make room first");
        (0..10_000).for_each(|key| drop(memory.known(key, now())));
        assert!(memory.known.lock().len() <= PLACES, "with no answers either");
    }
}
