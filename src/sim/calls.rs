//! The record of calls. It names tokens by fingerprint only, so that it can be printed.

use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use serde_json::Value;
use tokio::sync::watch;

use crate::domain::identity::TokenDigest;
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
    /// The answer; `None` as long as there is none.
    pub answer: Option<Answer>,
}

/// What a call was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// When it was sent.
    pub at: SystemTime,
    /// How long the caller was asked to stay away.
    pub retry_after: Option<Duration>,
    /// The session that it bears.
    pub issued: Option<Issued>,
}

/// A session that was given away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Its access key id.
    pub access_key_id: String,
    /// Fingerprint of its token.
    pub session_token: String,
    /// When it ends, to the fraction of a second.
    pub expires_at: SystemTime,
}

impl Call {
    /// The HTTP status of the answer; `None` as long as there is none.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.answer.as_ref().map(|answer| answer.status)
    }

    /// The session that the answer bears.
    #[must_use]
    pub fn issued(&self) -> Option<&Issued> {
        self.answer.as_ref()?.issued.as_ref()
    }
}

impl Issued {
    /// The session in an answer of EKS Auth or STS, whose members differ in their first letter.
    pub(super) fn of(answer: &Value) -> Option<Self> {
        let member = |object: &Value, names: [&str; 2]| names.iter().find_map(|name| object.get(*name).cloned());
        let credentials = member(answer, ["credentials", "Credentials"])?;
        let text = |names| Some(member(&credentials, names)?.as_str()?.to_owned());
        Some(Self {
            access_key_id: text(["accessKeyId", "AccessKeyId"])?,
            session_token: TokenDigest::of(text(["sessionToken", "SessionToken"])?.as_bytes()).fingerprint(),
            expires_at: timestamp(&member(&credentials, ["expiration", "Expiration"])?)?,
        })
    }
}

/// Unix seconds, or RFC 3339.
fn timestamp(value: &Value) -> Option<SystemTime> {
    let seconds = || value.as_f64().map(DateTime::from_secs_f64);
    let text = value.as_str().and_then(|text| DateTime::from_str(text, Format::DateTime).ok());
    text.or_else(seconds)?.try_into().ok()
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
    pub(super) fn answered(&self, place: usize, answer: Answer) -> Option<Call> {
        let mut answered = None;
        self.record.send_modify(|record| {
            answered = record.get_mut(place).map(|call| {
                call.answer = Some(answer);
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
