//! What it means when a call fails that the agent makes on its own behalf: nothing in it is about a pod.
//!
//! Of an answer only AWS's code and request id are told, never its message, which may quote what was sent.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_runtime::retries::classifiers::{THROTTLING_ERRORS, TRANSIENT_ERRORS};
use aws_sdk_eks::operation::RequestId;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::domain::mint::Failure;
use crate::egress::fetch::root_cause;

/// The error of an AWS client.
pub type AwsError<E> = SdkError<E, HttpResponse>;

/// The failure behind `error`, for a call that concerns the agent alone.
pub fn own_failure<E>(error: &AwsError<E>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if let Some(cause) = no_credentials(error) {
        return Failure::Misconfigured(format!("no credentials of its own: {cause}"));
    }
    match error {
        SdkError::ServiceError(service) => answered(service.err().code(), service.raw()),
        SdkError::ResponseError(_) => Failure::Unavailable("the answer broke off".into()),
        SdkError::TimeoutError(_) => Failure::Unavailable("timed out".into()),
        SdkError::ConstructionFailure(_) => Failure::Misconfigured(root_cause(error)),
        SdkError::DispatchFailure(_) | _ => Failure::Unavailable(root_cause(error)),
    }
}

fn answered(code: Option<&str>, answer: &HttpResponse) -> Failure {
    let (status, word) = (answer.status().as_u16(), code.unwrap_or_default());
    let label = || label(code, answer);
    match status {
        429 => Failure::Throttled { retry_after: None },
        _ if THROTTLING_ERRORS.contains(&word) => Failure::Throttled { retry_after: None },
        408 | 500..=599 => Failure::Unavailable(label()),
        _ if TRANSIENT_ERRORS.contains(&word) => Failure::Unavailable(label()),
        200..=299 => Failure::Bug("it can't be parsed".into()),
        _ => Failure::Misconfigured(label()),
    }
}

/// Code, status and request id, as far as they look like such.
fn label(code: Option<&str>, answer: &HttpResponse) -> String {
    let code = code.filter(|code| is_word(code)).unwrap_or("no known code");
    let request = answer.headers().request_id().filter(|id| is_word(id)).unwrap_or("none");
    format!("{code}, status {}, request {request}", answer.status().as_u16())
}

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Why a call could not be signed, if that is what `error` is about.
fn no_credentials(error: &(dyn Error + 'static)) -> Option<String> {
    let mut chain = std::iter::successors(Some(error), |&error| error.source());
    chain.find_map(|error| error.downcast_ref::<CredentialsError>()).map(credentials_cause)
}

/// Why there are no credentials. Causes from the SDK's own configuration are told; those from a source of credentials are not,
/// since they may quote what it answered.
pub(crate) fn credentials_cause(error: &CredentialsError) -> String {
    let is_ours = matches!(error, CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_));
    if is_ours { root_cause(error) } else { error.to_string() }
}
