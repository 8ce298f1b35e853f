//! What STS's codes mean (API version 2011-06-15). It refuses identity, role and parameters alike with 400 or 403, so the code
//! alone decides.
//!
//! Its calls are signed by the session before them or by nobody, so nothing that is answered to them tells anything about the
//! node's own credentials: none of it is [`Failure::Misconfigured`].

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

const NO_KEYS: &str = "STS can't read the keys of the tokens' issuer";
const WRONG_CLOCK: &str = "STS takes a token that is alive for expired, as it does where this node's clock is wrong";
const SIGNATURE_REFUSED: &str =
    "the signature by the session before is refused, as it is where this node's clock is wrong or a proxy alters requests";
const NOT_STS: &str = "whoever answers does not look like STS, but like a proxy or a wrong endpoint";

/// What `answer` means for `order`, if STS has given it to `AssumeRoleWithWebIdentity`.
pub(in crate::exchange) fn web_identity(answer: &Answer<'_>, order: &Order, trust: &Trust<'_>) -> Option<Failure> {
    match answer.code {
        "IDPCommunicationError" => Some(answer.unavailable_since(NO_KEYS)),
        "InvalidIdentityToken" if answer.message.contains(KEYS_NOT_READ) => Some(answer.unavailable_since(NO_KEYS)),
        "ExpiredToken" | "ExpiredTokenException" => Some(match Expired::of(order, answer.now) {
            Expired::PodToken => answer.denied_with(trust.expired()),
            Expired::NodeAccess => answer.unavailable_since(WRONG_CLOCK),
        }),
        "InvalidIdentityToken" | "IDPRejectedClaim" => Some(answer.denied_with(trust.provider())),
        "AccessDenied" | "AccessDeniedException" => Some(answer.denied_with(trust.policy())),
        code => trust.parameters(code).map(|advice| answer.denied_with(advice)).or_else(|| foreign(answer, NOT_STS)),
    }
}

/// What `answer` means if STS has given it to the `AssumeRole` of `link`.
pub(in crate::exchange) fn assume_role(answer: &Answer<'_>, link: &Link<'_>) -> Option<Failure> {
    match answer.code {
        code if SESSION_REFUSED.contains(&code) => Some(answer.unavailable()),
        "AccessDenied" | "AccessDeniedException" => Some(answer.denied_with(link.denied(answer.message))),
        _ if answer.refuses_caller() => foreign(answer, SIGNATURE_REFUSED),
        code => link.parameters(code).map(|advice| answer.denied_with(advice)).or_else(|| foreign(answer, NOT_STS)),
    }
}

/// What `answer` means if it is not STS's own. What is held outlives that for a while.
fn foreign(answer: &Answer<'_>, looks: &str) -> Option<Failure> {
    answer.is_foreign().then(|| answer.unavailable_since(looks))
}

/// Whether AWS refused the session that made the call, so that a new one is needed.
pub(in crate::exchange) fn refuses_session<E: ProvideErrorMetadata>(error: &AwsError<E>) -> bool {
    matches!(error, SdkError::ServiceError(fault) if fault.err().code().is_some_and(|code| SESSION_REFUSED.contains(&code)))
}
