//! Readiness as a latch of named parts.
//!
//! Each part that must work before the node may be called ready holds a [`Part`] and says what it waits for, or that it is
//! done. The probe reads the list; nothing else does.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// What the whole process still waits for, by the name of the part.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    pending: Arc<Mutex<BTreeMap<String, String>>>,
}

/// One part's own line in the list.
#[derive(Debug, Clone)]
pub struct Part {
    name: String,
    readiness: Readiness,
}

impl Readiness {
    /// Adds a part that is pending for `reason` until it says otherwise.
    #[must_use]
    pub fn part(&self, name: impl Into<String>, reason: impl Into<String>) -> Part {
        let part = Part { name: name.into(), readiness: self.clone() };
        part.pending(reason);
        part
    }

    /// Name and reason of each pending part; empty when ready.
    #[must_use]
    pub fn pending(&self) -> BTreeMap<String, String> {
        self.pending.lock().clone()
    }
}

impl Part {
    /// This part works.
    pub fn ready(&self) {
        self.readiness.pending.lock().remove(&self.name);
    }

    /// This part waits for something; `reason` tells an operator for what.
    pub fn pending(&self, reason: impl Into<String>) {
        self.readiness.pending.lock().insert(self.name.clone(), reason.into());
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
}
