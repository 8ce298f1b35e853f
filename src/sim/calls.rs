//! The record of calls. It names tokens by fingerprint only, so that it can be printed.

use std::time::SystemTime;

use tokio::sync::watch;

use crate::sim::role_request::RoleRequest;
use crate::sim::script::Operation;

/// One request that arrived.
#[derive(Debug, Clone)]
pub struct Call {
    /// What was asked.
    pub operation: Operation,
    /// When it arrived.
    pub at: SystemTime,
    /// The access key id that signed it, unproved.
    pub signer: Option<String>,
    /// For whom, as the token that it bore claims: its `sub`.
    pub subject: Option<String>,
    /// Fingerprint of that token.
    pub token: Option<String>,
    /// What it asked STS for, when it assumes a role.
    pub role: Option<RoleRequest>,
    /// The request id of the answer.
    pub request_id: String,
    /// The HTTP status of the answer; `None` as long as there is none.
    pub status: Option<u16>,
}

/// All calls, in the order in which they arrived.
#[derive(Debug, Default)]
pub(super) struct Calls {
    record: watch::Sender<Vec<Call>>,
}

impl Calls {
    /// Adds a call and returns its place.
    pub(super) fn arrived(&self, call: Call) -> usize {
        let mut place = 0;
        self.record.send_modify(|record| {
            place = record.len();
            record.push(call);
        });
        place
    }

    /// Notes the answer to the call at `place`, and returns the call.
    pub(super) fn answered(&self, place: usize, status: u16) -> Option<Call> {
        let mut answered = None;
        self.record.send_modify(|record| {
            answered = record.get_mut(place).map(|call| {
                call.status = Some(status);
                call.clone()
            });
        });
        answered
    }

    pub(super) fn all(&self) -> Vec<Call> {
        self.record.borrow().clone()
    }

    pub(super) fn count(&self, operation: Operation) -> usize {
        count(&self.record.borrow(), operation)
    }

    /// Completes once `operation` has been called `least` times.
    pub(super) async fn reach(&self, operation: Operation, least: usize) {
        // It fails only when the sender is gone, which `self` holds.
        let _ = self.record.subscribe().wait_for(|record| count(record, operation) >= least).await;
    }
}

fn count(record: &[Call], operation: Operation) -> usize {
    record.iter().filter(|call| call.operation == operation).count()
}
