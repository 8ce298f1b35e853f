//! One look at the sources of keys, by the same search and the same fetches as the verifier's.

use std::sync::Arc;

use tokio::time::Instant;

use crate::domain::mint::Failure;
use crate::observe::Context;
use crate::token::eks::Eks;
use crate::token::keyring::Keyring;
use crate::token::{Access, Config, KeyringStatus};

/// What an agent of this configuration holds once each source has been asked, or at `deadline`. What it starts runs until the
/// tasks of `context` are told to end.
pub async fn survey(config: &Config, access: Access, context: &Context, deadline: Instant) -> KeyringStatus {
    let keyring = Keyring::new(config.mode, context);
    keyring.start(config, access);
    keyring.attempted(deadline).await;
    keyring.status()
}

/// The issuer of `cluster`, as `eks:DescribeCluster` tells it, within 5 s.
///
/// # Errors
/// When EKS does not tell it.
pub async fn describe(cluster: &str, access: Access, context: &Context) -> Result<Arc<str>, Failure> {
    Eks::new(access.aws, access.budget, context.clock.clone()).issuer_of(cluster).await
}
