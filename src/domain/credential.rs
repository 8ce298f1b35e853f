//! What is issued: a session of a role, and the document that SDKs read.
//!
//! A [`Credential`] holds the secrets once only, inside the finished response document, so that a hit copies nothing and 2,000
//! entries stay small.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::macros::format_description;
use zeroize::Zeroizing;

use crate::base::clock::Now;
use crate::base::secret::Secret;

/// A credential with this life or less left is never served: every SDK treats it as expired, or should.
pub const LEAST_SERVED_LIFE: Duration = Duration::from_secs(60);

/// With less life than this left, a request starts a renewal: SDKs refresh up to 15 minutes ahead, and 5 are slack.
pub const FRESH_LIFE: Duration = Duration::from_secs(20 * 60);

/// The longest body every SDK reads: the CRT refuses 10,000 bytes and more.
pub const DOCUMENT_BYTES: usize = 9_999;

/// A role session as an exchange returns it.
#[derive(Debug, Clone)]
pub struct Session {
    /// `AccessKeyId`: an identifier, not a secret; the key to CloudTrail.
    pub access_key_id: String,
    /// `SecretAccessKey`.
    pub secret_access_key: Secret,
    /// `SessionToken`.
    pub session_token: Secret,
    /// When AWS says that it ends.
    pub expires_at: SystemTime,
    /// `arn:PARTITION:sts::ACCOUNT:assumed-role/ROLE/SESSION`.
    pub assumed_role_arn: String,
}

/// Where a session came from, for audit and status; nothing here is secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Namespace and service account for which AWS issued it.
    pub namespace: String,
    /// See `namespace`.
    pub service_account: String,
    /// The assumed-role ARN.
    pub role_arn: String,
    /// The EKS Pod Identity association that decided the role.
    pub association_id: Option<String>,
    /// AWS's request id, for support cases.
    pub upstream_request_id: Option<String>,
    /// Access keys of the sessions that led to it, the exchange's first: the callers that CloudTrail names for each `AssumeRole`.
    pub caller_access_key_ids: Vec<String>,
}

/// Why a session can't be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unservable {
    /// A member that SDKs need is empty.
    #[error("the answer lacks {0}")]
    Missing(&'static str),
    /// The ARN holds no account.
    #[error("the assumed role's ARN is malformed")]
    Arn,
    /// Over [`DOCUMENT_BYTES`].
    #[error("the credentials document would have {0} bytes, more than every SDK reads")]
    TooLarge(usize),
    /// The expiry can't be written as RFC 3339.
    #[error("the expiry is out of range")]
    Expiry,
}

/// A session that is ready to be served.
#[derive(Clone)]
pub struct Credential {
    document: Bytes,
    access_key_id: String,
    obtained_at: SystemTime,
    expires_at: SystemTime,
    provenance: Provenance,
}

/// The members and only those of client-contract §10: no `Code`, no nulls, `Expiration` in whole seconds.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Document<'a> {
    access_key_id: &'a str,
    secret_access_key: &'a str,
    token: &'a str,
    account_id: &'a str,
    expiration: &'a str,
}

impl Credential {
    /// Renders the document of a session obtained at `now`.
    ///
    /// # Errors
    /// When the session lacks what an SDK needs.
    pub fn new(session: &Session, provenance: Provenance, now: Now) -> Result<Self, Unservable> {
        let members = [
            ("AccessKeyId", session.access_key_id.as_str()),
            ("SecretAccessKey", session.secret_access_key.expose()),
            ("Token", session.session_token.expose()),
        ];
        if let Some((name, _)) = members.iter().find(|(_, value)| value.is_empty()) {
            return Err(Unservable::Missing(name));
        }
        let document = Document {
            access_key_id: &session.access_key_id,
            secret_access_key: session.secret_access_key.expose(),
            token: session.session_token.expose(),
            account_id: account_of(&session.assumed_role_arn).ok_or(Unservable::Arn)?,
            expiration: &rfc3339(session.expires_at).ok_or(Unservable::Expiry)?,
        };
        // Sized in advance, so that the buffer does not grow and leave uncleared copies of the secrets behind.
        let mut body = Zeroizing::new(Vec::with_capacity(DOCUMENT_BYTES + 1));
        serde_json::to_writer(&mut *body, &document).map_err(|_| Unservable::TooLarge(usize::MAX))?;
        if body.len() > DOCUMENT_BYTES {
            return Err(Unservable::TooLarge(body.len()));
        }
        let exact = Zeroizing::new(body.to_vec());
        Ok(Self {
            document: Bytes::from_owner(Cleared(exact)),
            access_key_id: session.access_key_id.clone(),
            obtained_at: now.wall,
            expires_at: session.expires_at,
            provenance,
        })
    }

    /// The response body. Cloning it copies no byte.
    #[must_use]
    pub fn document(&self) -> Bytes {
        self.document.clone()
    }

    /// The access key's identifier, by which CloudTrail names the session.
    #[must_use]
    pub fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    /// When it was obtained.
    #[must_use]
    pub fn obtained_at(&self) -> SystemTime {
        self.obtained_at
    }

    /// When AWS says that it ends.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }

    /// Its whole life, L: from when it was obtained until it ends.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.expires_at.duration_since(self.obtained_at).unwrap_or_default()
    }

    /// Where it came from.
    #[must_use]
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Whether it may still be served.
    #[must_use]
    pub fn is_servable(&self, now: Now) -> bool {
        now.until(self.expires_at) > LEAST_SERVED_LIFE
    }

    /// Whether it has less life left than SDKs like to have. A session of under 40 minutes ages in its second half: nothing is
    /// won by renewing it earlier.
    #[must_use]
    pub fn is_aging(&self, now: Now) -> bool {
        now.until(self.expires_at) < FRESH_LIFE.min(self.lifetime() / 2)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("access_key_id", &self.access_key_id)
            .field("expires_at", &self.expires_at)
            .field("provenance", &self.provenance)
            .finish_non_exhaustive()
    }
}

/// What a parcel holds of a [`Session`]. It can't be printed.
#[derive(Serialize, Deserialize)]
pub struct PackedSession<'a> {
    access_key_id: &'a str,
    secret_access_key: &'a str,
    session_token: &'a str,
    expires_at: SystemTime,
    assumed_role_arn: &'a str,
}

impl<'a> From<&'a Session> for PackedSession<'a> {
    fn from(session: &'a Session) -> Self {
        Self {
            access_key_id: &session.access_key_id,
            secret_access_key: session.secret_access_key.expose(),
            session_token: session.session_token.expose(),
            expires_at: session.expires_at,
            assumed_role_arn: &session.assumed_role_arn,
        }
    }
}

impl PackedSession<'_> {
    /// What was packed.
    #[must_use]
    pub fn unpack(&self) -> Session {
        Session {
            access_key_id: self.access_key_id.to_owned(),
            secret_access_key: Secret::new(self.secret_access_key.to_owned()),
            session_token: Secret::new(self.session_token.to_owned()),
            expires_at: self.expires_at,
            assumed_role_arn: self.assumed_role_arn.to_owned(),
        }
    }
}

/// What a parcel holds of a [`Credential`]. It can't be printed.
#[derive(Serialize, Deserialize)]
pub struct PackedCredential<'a> {
    document: &'a [u8],
    access_key_id: &'a str,
    obtained_at: SystemTime,
    expires_at: SystemTime,
    provenance: Cow<'a, Provenance>,
}

impl<'a> From<&'a Credential> for PackedCredential<'a> {
    fn from(credential: &'a Credential) -> Self {
        Self {
            document: &credential.document,
            access_key_id: &credential.access_key_id,
            obtained_at: credential.obtained_at,
            expires_at: credential.expires_at,
            provenance: Cow::Borrowed(&credential.provenance),
        }
    }
}

impl PackedCredential<'_> {
    /// The very credential that another agent of this node had from AWS: nothing is rendered or decided anew.
    #[must_use]
    pub fn unpack(self) -> Credential {
        Credential {
            document: Bytes::from_owner(Cleared(Zeroizing::new(self.document.to_vec()))),
            access_key_id: self.access_key_id.to_owned(),
            obtained_at: self.obtained_at,
            expires_at: self.expires_at,
            provenance: self.provenance.into_owned(),
        }
    }
}

/// Bytes that are cleared when the last response that holds them is gone.
struct Cleared(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Cleared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The account in `arn:PARTITION:SERVICE:REGION:ACCOUNT:RESOURCE`; `None` unless it has twelve digits.
#[must_use]
pub fn account_of(arn: &str) -> Option<&str> {
    let account = arn.strip_prefix("arn:")?.split(':').nth(3)?;
    (account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit())).then_some(account)
}

/// UTC, whole seconds rounded down: the one form that every SDK parses.
#[must_use]
pub fn rfc3339(time: SystemTime) -> Option<String> {
    OffsetDateTime::from(time).format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z")).ok()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::base::clock::Clock;

    fn session() -> Session {
        Session {
            access_key_id: "ASIAEXAMPLE".into(),
            secret_access_key: Secret::new("s\"ecret".into()),
            session_token: Secret::new("token".into()),
            expires_at: UNIX_EPOCH + Duration::from_millis(1_767_323_045_999),
            assumed_role_arn: "arn:aws:sts::111122223333:assumed-role/role/session".into(),
        }
    }

    fn at(wall: SystemTime) -> Now {
        Now { wall, mono: Clock::System.now().mono }
    }

    #[test]
    fn the_document_is_exactly_what_sdks_read() {
        let credential = Credential::new(&session(), Provenance::default(), at(UNIX_EPOCH)).unwrap();
        assert_eq!(
            credential.document(),
            r#"{"AccessKeyId":"ASIAEXAMPLE","SecretAccessKey":"s\"ecret","Token":"token","AccountId":"111122223333","Expiration":"2026-01-02T03:04:05Z"}"#
        );
    }

    #[test]
    fn an_incomplete_session_is_refused() {
        let make = |session: &Session| Credential::new(session, Provenance::default(), at(UNIX_EPOCH)).unwrap_err();
        assert_eq!(make(&Session { access_key_id: String::new(), ..session() }), Unservable::Missing("AccessKeyId"));
        assert_eq!(make(&Session { session_token: Secret::new(String::new()), ..session() }), Unservable::Missing("Token"));
        assert_eq!(make(&Session { assumed_role_arn: "arn:aws:sts::12:x".into(), ..session() }), Unservable::Arn);
        let huge = Session { session_token: Secret::new("t".repeat(10_000)), ..session() };
        assert!(matches!(make(&huge), Unservable::TooLarge(_)));
    }

    #[test]
    fn sixty_seconds_of_life_are_too_few_to_serve() {
        let credential = Credential::new(&session(), Provenance::default(), at(UNIX_EPOCH)).unwrap();
        let before = |left: Duration| at(credential.expires_at() - left);
        assert!(!credential.is_servable(before(Duration::from_secs(60))));
        assert!(credential.is_servable(before(Duration::from_millis(60_001))));
        assert!(!credential.is_servable(at(credential.expires_at() + Duration::from_secs(1))));
        assert!(!credential.is_aging(before(FRESH_LIFE)));
        assert!(credential.is_aging(before(FRESH_LIFE - Duration::from_secs(1))));
    }

    #[test]
    fn debug_shows_no_secret() {
        let credential = Credential::new(&session(), Provenance::default(), at(UNIX_EPOCH)).unwrap();
        let shown = format!("{credential:?}{:?}", session());
        assert!(!shown.contains("ecret\"") && !shown.contains("\"token\""), "{shown}");
    }
}
