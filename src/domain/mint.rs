//! The one seam: make a credential for a grant. Production makes it at AWS, tests make it up.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::domain::credential::Credential;
use crate::domain::identity::{Presented, Subject};
use crate::domain::policy::Grant;

/// How long to leave AWS alone when it asks for fewer calls and names no time.
pub const DEFAULT_REST: Duration = Duration::from_secs(1);

/// What to make, for whom, and how urgently.
#[derive(Debug, Clone)]
pub struct Order {
    /// For whom.
    pub subject: Arc<Subject>,
    /// The newest token known of that subject.
    pub presented: Arc<Presented>,
    /// By which right and which way.
    pub grant: Grant,
    /// Who waits for it.
    pub urgency: Urgency,
    /// When the caller gives up; no call is begun after it.
    pub deadline: Instant,
}

/// Who waits for a call, most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::EnumIter)]
pub enum Urgency {
    /// A request waits.
    Foreground,
    /// A renewal of what has under [`crate::domain::credential::FRESH_LIFE`] left.
    DueSoon,
    /// Any other renewal.
    Background,
}

/// A mint's answer, some time later.
pub type Minting<'a> = Pin<Box<dyn Future<Output = Result<Credential, Failure>> + Send + 'a>>;

/// Makes credentials.
pub trait Mint: Send + Sync + 'static {
    /// Makes one attempt: each call it needs takes its permit, and nothing is tried twice.
    fn mint(&self, order: Order) -> Minting<'_>;
}

/// Why no credential was made, by what follows from it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Failure {
    /// AWS refuses this identity or role.
    #[error("AWS refuses this identity: {0}")]
    Denied(Denial),
    /// AWS asks for fewer calls.
    #[error("AWS throttles this node")]
    Throttled {
        /// How long it asks to be left alone; [`DEFAULT_REST`] when it does not say.
        retry_after: Option<Duration>,
    },
    /// AWS can't be reached, or fails.
    #[error("AWS is not available: {0}")]
    Unavailable(String),
    /// The agent's own access is at fault: node credentials, region, clock.
    #[error("the agent's own access to AWS is at fault: {0}")]
    Misconfigured(String),
    /// What can't be: an answer that makes no sense, a panic of ours.
    #[error("a bug, at AWS or here: {0}")]
    Bug(String),
}

impl Failure {
    /// What more is known of a refusal than that AWS refuses.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        let Self::Denied(denial) = self else { return None };
        denial.advice.as_deref()
    }
}

/// A refusal by AWS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{cause}")]
pub struct Denial {
    /// AWS's code, for logs.
    pub cause: String,
    /// What the pod's owner should look at, where more is known than that AWS refuses: one line, vetted, no secret.
    pub advice: Option<String>,
}

impl Denial {
    /// A refusal of which no more is known than its code.
    #[must_use]
    pub fn new(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), advice: None }
    }

    /// The same refusal with advice.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}
