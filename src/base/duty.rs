//! Whether this process serves, or stands by for the one that does.
//!
//! Two agents of a node share its sockets while one follows the other, and only one of them accepts connections and renews
//! credentials. The other has all that it needs to go on in an instant.

use tokio::sync::watch;

/// Whether this process serves. Clones share it.
#[derive(Debug, Clone)]
pub struct Duty(watch::Sender<State>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has not served yet.
    Waiting,
    Serving,
    /// It has handed over.
    Relieved,
}

impl Duty {
    /// Of an agent that serves.
    #[must_use]
    pub fn serving() -> Self {
        Self(watch::Sender::new(State::Serving))
    }

    /// Of an agent that stands by.
    #[must_use]
    pub fn standby() -> Self {
        Self(watch::Sender::new(State::Waiting))
    }

    /// Whether it serves now.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        *self.0.borrow() == State::Serving
    }

    /// Whether it stands by for the one that it has handed over to.
    #[must_use]
    pub fn is_relieved(&self) -> bool {
        *self.0.borrow() == State::Relieved
    }

    /// Has it serve from now on, or stand by until it does.
    pub fn set(&self, serving: bool) {
        self.turn(if serving { State::Serving } else { State::Waiting });
    }

    /// Has it stand by for the one that serves in its place.
    pub fn relieve(&self) {
        self.turn(State::Relieved);
    }

    fn turn(&self, state: State) {
        self.0.send_if_modified(|now| std::mem::replace(now, state) != state);
    }

    /// Completes once it serves, or stands by; at once if it does already.
    pub async fn until(&self, serving: bool) {
        if self.is_serving() != serving {
            // The sender is here, so the wait can't fail.
            let _ = self.0.subscribe().wait_for(|now| (*now == State::Serving) == serving).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_change_is_told_and_who_has_it_does_not_wait() {
        let duty = Duty::standby();
        duty.until(false).await;
        let waiting = tokio::spawn({
            let duty = duty.clone();
            async move { duty.until(true).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished() && !duty.is_serving());
        duty.set(true);
        waiting.await.unwrap();
        assert!(duty.is_serving() && Duty::serving().is_serving());
        assert!(!duty.is_relieved() && !Duty::standby().is_relieved());
        duty.relieve();
        duty.until(false).await;
        assert!(duty.is_relieved() && !duty.is_serving());
    }
}
