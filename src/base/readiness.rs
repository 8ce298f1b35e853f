//! Readiness as a latch of named parts.
//!
//! Each part that must work before the node may be called ready holds a [`Part`] and says what it waits for, or that it is
//! done. Parts that the node can do without are advisory: they are told, but hold nothing up.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

type Reasons = BTreeMap<String, String>;

/// What the whole process still waits for, by the name of the part.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    pending: Arc<Mutex<Reasons>>,
    advice: Arc<Mutex<Reasons>>,
    changed: watch::Sender<()>,
}

/// One part's own line in the list.
#[derive(Debug, Clone)]
pub struct Part {
    name: String,
    list: Arc<Mutex<Reasons>>,
    changed: watch::Sender<()>,
}

impl Readiness {
    /// Adds a part that is pending for `reason` until it says otherwise.
    #[must_use]
    pub fn part(&self, name: impl Into<String>, reason: impl Into<String>) -> Part {
        let part = Part { name: name.into(), list: Arc::clone(&self.pending), changed: self.changed.clone() };
        part.pending(reason);
        part
    }

    /// Adds a part that never holds readiness up; it works until it says otherwise.
    #[must_use]
    pub fn advisory(&self, name: impl Into<String>) -> Part {
        Part { name: name.into(), list: Arc::clone(&self.advice), changed: self.changed.clone() }
    }

    /// Name and reason of each pending part; empty when ready.
    #[must_use]
    pub fn pending(&self) -> Reasons {
        self.pending.lock().clone()
    }

    /// Completes once no part is pending.
    pub async fn complete(&self) {
        let mut changed = self.changed.subscribe();
        while !self.pending.lock().is_empty() {
            // The sender is here, so the wait can't fail.
            let _ = changed.changed().await;
        }
    }

    /// Name and reason of each advisory part that does not work.
    #[must_use]
    pub fn advice(&self) -> Reasons {
        self.advice.lock().clone()
    }
}

impl Part {
    /// This part works.
    pub fn ready(&self) {
        if self.list.lock().remove(&self.name).is_some() {
            self.changed.send_replace(());
        }
    }

    /// This part waits for something; `reason` tells an operator for what.
    pub fn pending(&self, reason: impl Into<String>) {
        self.list.lock().insert(self.name.clone(), reason.into());
        self.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_every_part_is() {
        let readiness = Readiness::default();
        let (keys, socket) = (readiness.part("keys", "first fetch"), readiness.part("socket", "bind"));
        keys.ready();
        assert_eq!(readiness.pending().into_iter().collect::<Vec<_>>(), [("socket".into(), "bind".into())]);
        socket.ready();
        assert!(readiness.pending().is_empty());
        keys.pending("lost");
        assert!(!readiness.pending().is_empty());
    }

    #[tokio::test]
    async fn who_waits_for_all_parts_is_told() {
        let readiness = Readiness::default();
        readiness.complete().await;
        let (keys, socket) = (readiness.part("keys", "first fetch"), readiness.part("socket", "bind"));
        let complete = readiness.complete();
        tokio::pin!(complete);
        let mut is_complete = async || tokio::time::timeout(std::time::Duration::from_millis(1), &mut complete).await.is_ok();
        keys.ready();
        assert!(!is_complete().await);
        socket.ready();
        assert!(is_complete().await);
    }

    #[test]
    fn advice_holds_nothing_up() {
        let readiness = Readiness::default();
        readiness.advisory("metrics").pending("port taken");
        assert!(readiness.pending().is_empty());
        assert_eq!(readiness.advice().len(), 1);
    }
}
