//! Whether this process serves, or stands by for the one that does.
//!
//! Two agents of a node share its sockets while one follows the other, and only one of them accepts connections and renews
//! credentials. The other has all that it needs to go on in an instant.

use tokio::sync::watch;

/// Whether this process serves. Clones share it.
#[derive(Debug, Clone)]
pub struct Duty(watch::Sender<bool>);

impl Duty {
    /// Of an agent that serves.
    #[must_use]
    pub fn serving() -> Self {
        Self(watch::Sender::new(true))
    }

    /// Of an agent that stands by.
    #[must_use]
    pub fn standby() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Whether it serves now.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        *self.0.borrow()
    }

    /// Has it serve from now on, or stand by.
    pub fn set(&self, serving: bool) {
        self.0.send_if_modified(|now| std::mem::replace(now, serving) != serving);
    }

    /// Completes once it serves, or stands by; at once if it does already.
    pub async fn until(&self, serving: bool) {
        if self.is_serving() != serving {
            // The sender is here, so the wait can't fail.
            let _ = self.0.subscribe().wait_for(|now| *now == serving).await;
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
    }
}
