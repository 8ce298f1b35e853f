//! From a bearer token to a [`Caller`]: the proof of who asks, made on this node without a call to AWS.
//!
//! ```text
//! token ─► compact ─► header ─► keys: kid, signature ─► claims ─► rules ─► Caller
//!                                 ▲
//!   search ─► sources ─► jwks ─► keyring
//! ```
//!
//! Nothing but the header is parsed before the signature has been verified. Authority is a type: only this module makes a
//! [`Caller`], from a token that it has verified or, in delegated mode, one that names nobody until EKS Auth has.

mod claims;
mod compact;
mod config;
mod eks;
mod header;
mod json;
mod jwks;
mod keyring;
mod keys;
mod memo;
mod rules;
mod search;
mod source;
mod status;
pub mod survey;
#[cfg(test)]
mod testing;
mod verifier;

use std::sync::Arc;

use crate::domain::identity::{Presented, Subject};

pub use config::{ApiServer, Config, IssuerConfig, KeySource, Mode, Standing};
pub use keyring::Keyring;
pub use source::Access;
pub use status::{IssuerStatus, KeyringStatus, SourceStatus};
pub use verifier::Verifier;

/// Who asks, with the token that proves it.
#[derive(Debug, Clone)]
pub struct Caller {
    subject: Arc<Subject>,
    presented: Arc<Presented>,
    audience: Arc<str>,
}

impl Caller {
    /// The verified identity, or the token's digest when verification is delegated.
    #[must_use]
    pub fn subject(&self) -> &Arc<Subject> {
        &self.subject
    }

    /// The token as it was presented.
    #[must_use]
    pub fn presented(&self) -> &Arc<Presented> {
        &self.presented
    }

    /// A caller that was never verified, for tests of what comes after.
    #[cfg(test)]
    pub(crate) fn for_tests(subject: Subject, presented: Presented) -> Self {
        let audience = crate::domain::policy::POD_IDENTITY_AUDIENCE.into();
        Self { subject: Arc::new(subject), presented: Arc::new(presented), audience }
    }

    /// The one configured audience that the token bears.
    #[must_use]
    pub fn audience(&self) -> &Arc<str> {
        &self.audience
    }
}
