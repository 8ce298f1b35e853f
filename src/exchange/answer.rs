//! Whether what AWS answered may be used: it must be complete, for the one who asked, and live neither too short nor too long.
//! One answer that is another's would give one pod the role of another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use aws_smithy_types::DateTime;

use crate::base::clock::{Now, from_unix_seconds};
use crate::base::secret::Secret;
use crate::domain::credential::{LEAST_SERVED_LIFE, LONGEST_LIFE, Provenance, Session, account_of};
use crate::domain::mint::Failure;

/// What is wrong with an answer. Only names of members, no values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("it lacks {0}")]
    Missing(&'static str),
    #[error("its {0} is not the token's")]
    Mismatch(&'static str),
    #[error("its role and session name are not those that were asked for")]
    Role,
    #[error("its assumed role has no ARN of an assumed role")]
    Arn,
    #[error("its expiration is not after the next 60 s and within 12 h 5 min")]
    Expiration,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Bug(fault.to_string())
    }
}

/// What AWS issued: a session, and where it came from.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) session: Session,
    pub(super) provenance: Provenance,
    disowned: AtomicBool,
}

impl Issued {
    pub(super) fn new(session: Session, provenance: Provenance) -> Self {
        Self { session, provenance, disowned: AtomicBool::new(false) }
    }

    /// Whether it may make another call.
    pub(super) fn is_usable(&self, now: Now) -> bool {
        !self.disowned.load(Ordering::Relaxed) && now.until(self.session.expires_at) > LEAST_SERVED_LIFE
    }

    /// AWS no longer knows the session: it is not used again.
    pub(super) fn disown(&self) {
        self.disowned.store(true, Ordering::Relaxed);
    }
}

/// An answer's credentials, which EKS Auth and STS name alike.
pub(super) struct Keys {
    pub(super) access_key_id: String,
    pub(super) secret_access_key: Secret,
    pub(super) session_token: Secret,
    /// May have a fraction, which rounding down takes away.
    pub(super) expiration: DateTime,
}

impl Keys {
    /// The session of the role that the answer names.
    pub(super) fn session(self, assumed_role_arn: String, now: Now) -> Result<Session, Fault> {
        let members = [
            ("AccessKeyId", self.access_key_id.as_str()),
            ("SecretAccessKey", self.secret_access_key.expose()),
            ("SessionToken", self.session_token.expose()),
            ("AssumedRoleUser.Arn", &assumed_role_arn),
        ];
        for (name, value) in members {
            present(name, value)?;
        }
        if !is_assumed_role(&assumed_role_arn) {
            return Err(Fault::Arn);
        }
        Ok(Session {
            access_key_id: self.access_key_id,
            secret_access_key: self.secret_access_key,
            session_token: self.session_token,
            expires_at: expiry(self.expiration.secs(), now)?,
            assumed_role_arn,
        })
    }
}

/// Checks that `answered` is there and what the token says.
pub(super) fn check(name: &'static str, answered: &str, of_token: &str) -> Result<(), Fault> {
    present(name, answered)?;
    if answered == of_token { Ok(()) } else { Err(Fault::Mismatch(name)) }
}

/// Checks that a member that must be there is not empty.
pub(super) fn present(name: &'static str, value: &str) -> Result<(), Fault> {
    if value.is_empty() { Err(Fault::Missing(name)) } else { Ok(()) }
}

/// Whether `arn` is one of a role session and of its alphabet, so that logs and advice may show it.
fn is_assumed_role(arn: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&byte);
    account_of(arn).is_some() && arn.contains(":assumed-role/") && arn.bytes().all(is_known)
}

fn expiry(seconds: i64, now: Now) -> Result<SystemTime, Fault> {
    let expires_at = from_unix_seconds(seconds).ok_or(Fault::Expiration)?;
    let life = now.until(expires_at);
    if life > LEAST_SERVED_LIFE && life <= LONGEST_LIFE { Ok(expires_at) } else { Err(Fault::Expiration) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    #[test]
    fn an_expiry_is_within_bounds() {
        let now = Clock::System.now();
        let with_life = |life: i64| expiry(now.unix() + life, Now { wall: from_unix_seconds(now.unix()).unwrap(), ..now });
        for life in [61, 3600, 43_500] {
            assert_eq!(with_life(life), Ok(from_unix_seconds(now.unix() + life).unwrap()));
        }
        for life in [43_501, 60, 0, -3600, -now.unix(), -now.unix() - 1, 1 << 40] {
            assert_eq!(with_life(life), Err(Fault::Expiration), "{life}");
        }
    }
}
