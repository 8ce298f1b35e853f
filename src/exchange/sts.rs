//! The client of STS that both its operations share. It has no credentials: those of the node must never make a call here, so
//! each `AssumeRole` brings its own, and one without fails before it leaves.

use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::identity::IdentityCache;
use aws_sdk_sts::Client;
use aws_sdk_sts::config::Builder;
use aws_sdk_sts::types::{AssumedRoleUser, Credentials, PolicyDescriptorType};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::base::clock::Now;
use crate::base::secret::Secret;
use crate::domain::credential::Session;
use crate::domain::mint::Failure;
use crate::domain::policy::RoleArn;
use crate::exchange::answer::{Fault, Keys};
use crate::exchange::call::Calls;
use crate::exchange::role::is_session;

/// Access to STS.
#[derive(Debug)]
pub(super) struct Sts {
    pub(super) calls: Arc<Calls>,
    client: OnceCell<Client>,
}

impl Sts {
    pub(super) fn new(calls: Arc<Calls>) -> Self {
        Self { calls, client: OnceCell::new() }
    }

    pub(super) async fn client(&self, deadline: Instant) -> Result<&Client, Failure> {
        self.calls.client(&self.client, deadline, connect).await
    }
}

fn connect(sdk: &SdkConfig) -> Client {
    let mut sdk = sdk.clone().into_builder();
    sdk.set_credentials_provider(None);
    Client::from_conf(Builder::from(&sdk.build()).identity_cache(IdentityCache::no_cache()).build())
}

/// `DurationSeconds`.
pub(super) fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

/// `PolicyArns`.
pub(super) fn policies(arns: &[String]) -> Option<Vec<PolicyDescriptorType>> {
    unless_empty(arns.iter().map(|arn| PolicyDescriptorType::builder().arn(arn).build()).collect())
}

/// A list as a parameter: an empty one would be sent as an empty value, which is none of STS's lists.
pub(super) fn unless_empty<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

/// The session in an answer, if that is of `role` and bears the name that was asked for.
pub(super) fn session(
    user: Option<AssumedRoleUser>,
    credentials: Option<Credentials>,
    (role, session_name): (&RoleArn, &str),
    now: Now,
) -> Result<Session, Fault> {
    let user = user.ok_or(Fault::Missing("AssumedRoleUser"))?;
    let session = Keys::from(credentials.ok_or(Fault::Missing("Credentials"))?).session(user.arn, now)?;
    if is_session(&session.assumed_role_arn, role, session_name) { Ok(session) } else { Err(Fault::Role) }
}

impl From<Credentials> for Keys {
    fn from(credentials: Credentials) -> Self {
        Self {
            access_key_id: credentials.access_key_id,
            secret_access_key: Secret::new(credentials.secret_access_key),
            session_token: Secret::new(credentials.session_token),
            expiration: credentials.expiration,
        }
    }
}
