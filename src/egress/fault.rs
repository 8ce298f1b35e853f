//! What it means when a call to AWS fails: the SDK's errors and AWS's codes, as a [`Failure`].
//!
//! A failure bears AWS's code and request id and no other text of the answer: messages name principals and may quote what was
//! sent. The SDK models the codes too, but proxies, endpoints and the signature check in front of a service answer with others,
//! so code and status are read instead. What any AWS service may answer is here; what only one of them says, its caller knows.

use std::error::Error;
use std::time::{Duration, SystemTime};

use aws_credential_types::provider::error::CredentialsError;
use aws_runtime::retries::classifiers::{THROTTLING_ERRORS, TRANSIENT_ERRORS};
use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::operation::RequestId;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

use crate::base::clock::{Now, from_unix_seconds};
use crate::domain::mint::{Denial, Failure};
use crate::egress::fetch::root_cause;

/// The error of an AWS client.
pub type AwsError<E> = SdkError<E, HttpResponse>;

/// The longest `Retry-After` that is believed. A deliberate bound, the only one, so that a typo upstream of a day does not outlast
/// every session that the node holds: after it one call asks again, and is told again if it was meant.
const LONGEST_REST: Duration = Duration::from_secs(5 * 60);

/// Codes by which the signature check in front of a service refuses the caller; it uses 401 and 403, and with JSON protocols 400.
const CALLER_REFUSED: [&str; 10] = [
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "IncompleteSignatureException",
    "IncompleteSignature",
    "MissingAuthenticationTokenException",
    "MissingAuthenticationToken",
    "InvalidClientTokenId",
    "RequestExpired",
    "OptInRequired",
];

/// Codes by which any service refuses the credentials that signed, and not how they were used: they have ended, or are not known.
pub(crate) const CREDENTIALS_REFUSED: [&str; 4] =
    ["ExpiredToken", "ExpiredTokenException", "UnrecognizedClientException", "InvalidClientTokenId"];

/// An error answer, reduced to what decides.
#[derive(Debug)]
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// AWS's code; empty when there is none.
    pub code: &'a str,
    /// Read for the names of actions only, never passed on.
    pub message: &'a str,
    /// When it came.
    pub now: Now,
    request_id: Option<&'a str>,
    headers: &'a Headers,
}

/// What `error` means; `service` knows the codes of the service that was called.
pub fn failure<E>(error: &AwsError<E>, now: Now, service: impl FnOnce(&Answer<'_>) -> Option<Failure>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if let Some(failure) = no_credentials(error) {
        return failure;
    }
    match error {
        SdkError::ServiceError(fault) => {
            let answer = Answer::new(fault.err(), fault.raw(), now);
            answer.passing().or_else(|| service(&answer)).unwrap_or_else(|| answer.unknown())
        }
        SdkError::ResponseError(_) => Failure::Unavailable("the answer broke off".into()),
        SdkError::TimeoutError(_) => Failure::Unavailable("timed out".into()),
        SdkError::ConstructionFailure(_) => Failure::Misconfigured(root_cause(error)),
        SdkError::DispatchFailure(_) | _ => Failure::Unavailable(root_cause(error)),
    }
}

/// What `error` means for a call that concerns the agent alone: nobody else can be at fault.
pub fn own_failure<E>(error: &AwsError<E>, now: Now) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    failure(error, now, |answer| (!(200..=299).contains(&answer.status)).then(|| answer.misconfigured()))
}

/// When the answer in `error` was made, by the clock of whoever made it (RFC 9110 §6.6.1).
pub fn answered_at<E>(error: &AwsError<E>) -> Option<SystemTime> {
    http_date(error.raw_response()?.headers().get("date")?)
}

/// The failure of a call that could not be signed.
fn no_credentials(error: &(dyn Error + 'static)) -> Option<Failure> {
    let mut chain = std::iter::successors(Some(error), |&error| error.source());
    let cause = chain.find_map(|error| error.downcast_ref::<CredentialsError>()).map(credentials_cause)?;
    Some(Failure::Misconfigured(format!("no credentials: {cause}")))
}

/// Why there are no credentials. Causes from the SDK's own configuration are told; those from a source of credentials are not,
/// since they may quote what it answered.
pub(crate) fn credentials_cause(error: &CredentialsError) -> String {
    if is_of_configuration(error) { root_cause(error) } else { error.to_string() }
}

/// Whether it is the SDK's own configuration that gives no credentials. It will not until it is changed; a source that it names may.
pub(crate) fn is_of_configuration(error: &CredentialsError) -> bool {
    matches!(error, CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_))
}

impl<'a> Answer<'a> {
    fn new<E: ProvideErrorMetadata>(error: &'a E, response: &'a HttpResponse, now: Now) -> Self {
        Self {
            status: response.status().as_u16(),
            code: error.code().unwrap_or_default(),
            message: error.message().unwrap_or_default(),
            request_id: response.headers().request_id(),
            headers: response.headers(),
            now,
        }
    }

    /// What passes by itself, by whichever service it is said. STS throttles with status 400.
    fn passing(&self) -> Option<Failure> {
        match (self.status, self.code) {
            (429, _) => Some(self.throttled()),
            (_, code) if THROTTLING_ERRORS.contains(&code) => Some(self.throttled()),
            (408 | 500..=599, _) => Some(self.unavailable()),
            (_, code) if TRANSIENT_ERRORS.contains(&code) => Some(self.unavailable()),
            _ => None,
        }
    }

    /// What the service's own table does not know.
    fn unknown(&self) -> Failure {
        match self.status {
            200..=299 => Failure::Bug("it can't be parsed".into()),
            _ if self.is_foreign() => self.misconfigured(),
            _ => Failure::Bug(self.label()),
        }
    }

    /// Whether it is not the service who answers what its own table does not know, but somebody in front of it: the signature
    /// check, a proxy, a captive portal, a wrong endpoint.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        match self.status {
            200..=299 => false,
            400 => self.code.is_empty() || self.refuses_caller(),
            _ => true,
        }
    }

    /// Whether it is by the signature check, as far as its code tells.
    #[must_use]
    pub fn refuses_caller(&self) -> bool {
        CALLER_REFUSED.contains(&self.code)
    }

    /// Whether it is of the credentials that signed. A service's own table comes first: its codes may be of another token.
    #[must_use]
    pub fn refuses_credentials(&self) -> bool {
        CREDENTIALS_REFUSED.contains(&self.code)
    }

    /// A refusal of identity or role.
    #[must_use]
    pub fn denied(&self) -> Failure {
        Failure::Denied(Denial::new(self.label()))
    }

    /// The same, of which more is known.
    #[must_use]
    pub fn denied_with(&self, advice: String) -> Failure {
        Failure::Denied(Denial::new(self.label()).advice(advice))
    }

    fn throttled(&self) -> Failure {
        Failure::Throttled { retry_after: retry_after(self.headers, self.now) }
    }

    /// AWS is not well.
    #[must_use]
    pub fn unavailable(&self) -> Failure {
        Failure::Unavailable(self.label())
    }

    /// No answer to the question that was asked, for `cause`.
    #[must_use]
    pub fn unavailable_since(&self, cause: &str) -> Failure {
        Failure::Unavailable(format!("{cause}: {}", self.label()))
    }

    /// The agent's own access is at fault.
    #[must_use]
    pub fn misconfigured(&self) -> Failure {
        Failure::Misconfigured(self.label())
    }

    /// Status, code and request id, as far as they look like such.
    #[must_use]
    pub fn label(&self) -> String {
        let code = Some(self.code).filter(|code| is_word(code)).unwrap_or("no known code");
        let request = self.request_id.filter(|id| is_word(id)).unwrap_or("none");
        format!("{code}, status {}, request {request}", self.status)
    }
}

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// `Retry-After` (RFC 9110 §10.2.3) in seconds or as a date, else AWS's own `x-amz-retry-after` in milliseconds.
fn retry_after(headers: &Headers, now: Now) -> Option<Duration> {
    let standard = headers.get("retry-after").and_then(|value| seconds(value).or_else(|| until(value, now)));
    let own = || headers.get("x-amz-retry-after")?.trim().parse().ok().map(Duration::from_millis);
    Some(standard.or_else(own)?.min(LONGEST_REST))
}

fn seconds(value: &str) -> Option<Duration> {
    value.trim().parse().ok().map(Duration::from_secs)
}

fn until(date: &str, now: Now) -> Option<Duration> {
    Some(now.until(http_date(date)?))
}

fn http_date(date: &str) -> Option<SystemTime> {
    from_unix_seconds(DateTime::from_str(date.trim(), Format::HttpDate).ok()?.secs())
}
