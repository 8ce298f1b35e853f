//! Whether what EKS Auth answered may be served: it must be complete, for the one who asked, and live neither too short nor too
//! long. One answer that is another's would give one pod the role of another.

use std::time::{Duration, SystemTime};

use aws_sdk_eksauth::operation::RequestId;
use aws_sdk_eksauth::operation::assume_role_for_pod_identity::AssumeRoleForPodIdentityOutput;
use aws_sdk_eksauth::types::{Credentials, Subject as Answered};

use crate::base::clock::{Now, from_unix_seconds};
use crate::base::secret::Secret;
use crate::domain::credential::{Credential, LEAST_SERVED_LIFE, Provenance, Session, Unservable};
use crate::domain::identity::Subject;
use crate::domain::policy::POD_IDENTITY_AUDIENCE;

/// The longest session of any role is 12 hours; the rest is for clocks that differ.
const LONGEST_LIFE: Duration = Duration::from_secs(12 * 3600 + 5 * 60);

/// What is wrong with an answer. Only names of members, no values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("it lacks {0}")]
    Missing(&'static str),
    #[error("its {0} is not the token's")]
    Mismatch(&'static str),
    #[error("its expiration is not after the next 60 s and within 12 h 5 min")]
    Expiration,
    #[error(transparent)]
    Unservable(#[from] Unservable),
}

/// The credential in `answer`, if that is for `asked`.
pub(super) fn credential(answer: AssumeRoleForPodIdentityOutput, asked: &Subject, now: Now) -> Result<Credential, Fault> {
    let upstream_request_id = answer.request_id().map(str::to_owned);
    let subject = answer.subject.ok_or(Fault::Missing("subject"))?;
    check_subject(&subject, asked)?;
    if answer.audience != POD_IDENTITY_AUDIENCE {
        return Err(Fault::Mismatch("audience"));
    }
    let association = answer.pod_identity_association.ok_or(Fault::Missing("podIdentityAssociation"))?;
    let role = answer.assumed_role_user.ok_or(Fault::Missing("assumedRoleUser"))?;
    let session = session(answer.credentials.ok_or(Fault::Missing("credentials"))?, role.arn, now)?;
    let provenance = Provenance {
        namespace: subject.namespace,
        service_account: subject.service_account,
        role_arn: session.assumed_role_arn.clone(),
        association_id: Some(present("associationId", association.association_id)?),
        upstream_request_id,
    };
    Ok(Credential::new(&session, provenance, now)?)
}

fn check_subject(answered: &Answered, asked: &Subject) -> Result<(), Fault> {
    let of_token = asked.identity().map(|identity| (&identity.namespace, &identity.service_account));
    let (namespace, service_account) = of_token.unwrap_or((&answered.namespace, &answered.service_account));
    for (name, answered, asked) in [
        ("subject.namespace", &answered.namespace, namespace),
        ("subject.serviceAccount", &answered.service_account, service_account),
    ] {
        if answered.is_empty() {
            return Err(Fault::Missing(name));
        }
        if answered != asked {
            return Err(Fault::Mismatch(name));
        }
    }
    Ok(())
}

fn session(credentials: Credentials, assumed_role_arn: String, now: Now) -> Result<Session, Fault> {
    Ok(Session {
        access_key_id: credentials.access_key_id,
        secret_access_key: Secret::new(credentials.secret_access_key),
        session_token: Secret::new(credentials.session_token),
        expires_at: expiry(credentials.expiration.secs(), now)?,
        assumed_role_arn,
    })
}

/// `expiration` is in Unix seconds and may have a fraction, which rounding down takes away.
fn expiry(seconds: i64, now: Now) -> Result<SystemTime, Fault> {
    let expires_at = from_unix_seconds(seconds).ok_or(Fault::Expiration)?;
    let life = now.until(expires_at);
    if life > LEAST_SERVED_LIFE && life <= LONGEST_LIFE { Ok(expires_at) } else { Err(Fault::Expiration) }
}

fn present(name: &'static str, value: String) -> Result<String, Fault> {
    if value.is_empty() { Err(Fault::Missing(name)) } else { Ok(value) }
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
