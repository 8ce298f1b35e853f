//! What STS's codes mean (API version 2011-06-15). It refuses identity, role and parameters alike with 400 or 403, so the code
//! alone decides.

use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::domain::mint::{Failure, Order};
use crate::egress::fault::{Answer, AwsError};
use crate::exchange::fault::Expired;
use crate::exchange::fault::advice::{Link, Trust};

/// Codes by which STS refuses the session that calls: it has ended, or is not known any more.
const SESSION_REFUSED: [&str; 3] = ["ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId"];

/// In the message of an `InvalidIdentityToken` that says nothing about the token: STS could not fetch the issuer's keys.
const KEYS_NOT_READ: &str = "retrieve verification key";

/// What `answer` means for `order`, if STS has given it to `AssumeRoleWithWebIdentity`.
pub(in crate::exchange) fn web_identity(answer: &Answer<'_>, order: &Order, trust: &Trust<'_>) -> Option<Failure> {
    match answer.code {
        "IDPCommunicationError" => Some(issuer_unavailable(answer)),
        "InvalidIdentityToken" if answer.message.contains(KEYS_NOT_READ) => Some(issuer_unavailable(answer)),
        "ExpiredToken" | "ExpiredTokenException" => Some(match Expired::of(order, answer.now) {
            Expired::PodToken => answer.denied_with(trust.expired()),
            Expired::NodeAccess => answer.misconfigured(),
        }),
        "InvalidIdentityToken" | "IDPRejectedClaim" => Some(answer.denied_with(trust.provider())),
        "AccessDenied" | "AccessDeniedException" => Some(answer.denied_with(trust.policy())),
        code => trust.parameters(code).map(|advice| answer.denied_with(advice)),
    }
}

/// What `answer` means if STS has given it to the `AssumeRole` of `link`.
pub(in crate::exchange) fn assume_role(answer: &Answer<'_>, link: &Link<'_>) -> Option<Failure> {
    match answer.code {
        code if SESSION_REFUSED.contains(&code) => Some(answer.unavailable()),
        "AccessDenied" | "AccessDeniedException" => Some(answer.denied_with(link.denied(answer.message))),
        code => link.parameters(code).map(|advice| answer.denied_with(advice)),
    }
}

/// Credentials that are held outlive an issuer that is down for a while.
fn issuer_unavailable(answer: &Answer<'_>) -> Failure {
    Failure::Unavailable(format!("STS can't read the keys of the tokens' issuer: {}", answer.label()))
}

/// Whether AWS refused the session that made the call, so that a new one is needed.
pub(in crate::exchange) fn refuses_session<E: ProvideErrorMetadata>(error: &AwsError<E>) -> bool {
    matches!(error, SdkError::ServiceError(fault) if fault.err().code().is_some_and(|code| SESSION_REFUSED.contains(&code)))
}
