//! A developer's own AWS credentials as a mint: on a laptop an application gets them in the very way in which it gets its role's
//! in a pod.

use std::sync::Arc;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_sts::Client;
use aws_sdk_sts::config::Builder;
use aws_sdk_sts::error::ProvideErrorMetadata;
use aws_sdk_sts::types;
use tokio::time::timeout_at;

use crate::base::clock::{Clock, from_unix_seconds};
use crate::base::secret::Secret;
use crate::domain::credential::{Credential, LEAST_SERVED_LIFE, Provenance, Session};
use crate::domain::mint::{Denial, Failure, Mint, Minting, Order};
use crate::domain::policy::RoleArn;
use crate::egress::aws::Aws;
use crate::egress::fault::{AwsError, own_failure};
use crate::egress::fetch::root_cause;

/// How long a session of long-term keys is asked to last. STS gives the keys of a root user an hour and no more.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_GetSessionToken.html>
const SESSION_SECONDS: i32 = 12 * 3600;

/// Session credentials that bear no expiry, such as pasted ones, are taken to last so long, as the SDKs do.
const UNKNOWN_LIFE: Duration = Duration::from_secs(15 * 60);

/// The longest `RoleSessionName`, in characters.
const SESSION_NAME_CHARS: usize = 64;

/// Makes credentials of an AWS profile, or of a role that it may assume. There is one pod, so nothing is paced.
#[derive(Debug)]
pub struct Developer {
    profile: String,
    role_arn: Option<RoleArn>,
    aws: Arc<Aws>,
    clock: Clock,
}

impl Developer {
    /// Of `profile`, from which `aws` has its credentials; of the role behind it if there is one.
    #[must_use]
    pub fn new(profile: String, role_arn: Option<RoleArn>, aws: Arc<Aws>, clock: Clock) -> Self {
        Self { profile, role_arn, aws, clock }
    }

    /// A new session.
    ///
    /// # Errors
    /// `Misconfigured` tells what to do about the profile; `Denied` when STS refuses the role.
    pub async fn session(&self) -> Result<Session, Failure> {
        let sdk = self.aws.config().await.map_err(|error| Failure::Misconfigured(error.to_string()))?;
        let own = self.credentials(sdk).await?;
        let sts = sts(sdk, own.clone());
        let session = match &self.role_arn {
            Some(role) => self.assume(&sts, role).await,
            None if own.session_token().is_some() => self.as_it_is(&sts, own).await,
            None => self.session_of_keys(&sts).await,
        }?;
        self.lasting(session)
    }

    async fn credentials(&self, sdk: &SdkConfig) -> Result<Credentials, Failure> {
        let provider = sdk.credentials_provider().ok_or_else(|| self.unusable("it has no source of credentials"))?;
        provider.provide_credentials().await.map_err(|error| self.unusable(&root_cause(&error)))
    }

    async fn assume(&self, sts: &Client, role: &RoleArn) -> Result<Session, Failure> {
        let call = sts.assume_role().role_arn(role.as_str()).role_session_name(session_name(&self.profile));
        let answer = call.send().await.map_err(|error| self.refused(&error, role))?;
        let arn = answer.assumed_role_user.map(|user| user.arn).ok_or_else(incomplete)?;
        session(answer.credentials.ok_or_else(incomplete)?, arn)
    }

    /// Session credentials are served as the profile has them.
    async fn as_it_is(&self, sts: &Client, own: Credentials) -> Result<Session, Failure> {
        Ok(Session {
            access_key_id: own.access_key_id().to_owned(),
            secret_access_key: Secret::new(own.secret_access_key().to_owned()),
            session_token: Secret::new(own.session_token().unwrap_or_default().to_owned()),
            expires_at: own.expiry().unwrap_or_else(|| self.clock.now().wall + UNKNOWN_LIFE),
            assumed_role_arn: self.caller(sts).await?,
        })
    }

    /// Long-term keys have no session token, without which the SDKs take no container credentials.
    async fn session_of_keys(&self, sts: &Client) -> Result<Session, Failure> {
        let arn = self.caller(sts).await?;
        let answer = sts.get_session_token().duration_seconds(SESSION_SECONDS).send().await;
        let answer = answer.map_err(|error| self.failure(&error))?;
        session(answer.credentials.ok_or_else(incomplete)?, arn)
    }

    /// The ARN of whose credentials these are; it names the account.
    async fn caller(&self, sts: &Client) -> Result<String, Failure> {
        let answer = sts.get_caller_identity().send().await.map_err(|error| self.failure(&error))?;
        answer.arn.ok_or_else(incomplete)
    }

    fn lasting(&self, session: Session) -> Result<Session, Failure> {
        let life = self.clock.now().until(session.expires_at);
        if life > LEAST_SERVED_LIFE { Ok(session) } else { Err(self.unusable("its credentials have ended")) }
    }

    fn refused<E>(&self, error: &AwsError<E>, role: &RoleArn) -> Failure
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let failure = self.failure(error);
        let Failure::Misconfigured(cause) = &failure else { return failure };
        if error.code() != Some("AccessDenied") {
            return failure;
        }
        let advice = format!("STS refuses {role} to profile {}: does the role's trust policy name who that is?", self.profile);
        Failure::Denied(Denial::new(cause).advice(advice))
    }

    fn failure<E>(&self, error: &AwsError<E>) -> Failure
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let failure = own_failure(error, self.clock.now());
        if let Failure::Misconfigured(cause) = &failure { self.unusable(cause) } else { failure }
    }

    fn unusable(&self, cause: &str) -> Failure {
        let name = &self.profile;
        Failure::Misconfigured(format!("profile {name}: {cause} (if single sign-on is over: aws sso login --profile {name})"))
    }

    async fn credential(&self, order: &Order) -> Result<Credential, Failure> {
        let late = |_| Failure::Unavailable("timed out".into());
        let session = timeout_at(order.deadline, self.session()).await.map_err(late)??;
        let pod = order.subject.identity();
        let provenance = Provenance {
            namespace: pod.map(|pod| pod.namespace.clone()).unwrap_or_default(),
            service_account: pod.map(|pod| pod.service_account.clone()).unwrap_or_default(),
            role_arn: session.assumed_role_arn.clone(),
            ..Provenance::default()
        };
        Credential::new(&session, provenance, self.clock.now()).map_err(|fault| Failure::Bug(fault.to_string()))
    }
}

impl Mint for Developer {
    fn mint(&self, order: Order) -> Minting<'_> {
        Box::pin(async move { self.credential(&order).await })
    }
}

fn sts(sdk: &SdkConfig, credentials: Credentials) -> Client {
    Client::from_conf(Builder::from(sdk).credentials_provider(credentials).build())
}

fn session(credentials: types::Credentials, assumed_role_arn: String) -> Result<Session, Failure> {
    Ok(Session {
        access_key_id: credentials.access_key_id,
        secret_access_key: Secret::new(credentials.secret_access_key),
        session_token: Secret::new(credentials.session_token),
        expires_at: from_unix_seconds(credentials.expiration.secs()).ok_or_else(incomplete)?,
        assumed_role_arn,
    })
}

fn incomplete() -> Failure {
    Failure::Bug("the answer of STS is incomplete".into())
}

/// Always the same for a profile, of the characters that STS takes.
fn session_name(profile: &str) -> String {
    let allowed = |char: char| char.is_ascii_alphanumeric() || "+=,.@-_".contains(char);
    let profile = profile.chars().map(|char| if allowed(char) { char } else { '-' });
    "credlet-".chars().chain(profile).take(SESSION_NAME_CHARS).collect()
}

#[cfg(test)]
#[path = "developer_tests.rs"]
mod tests;
