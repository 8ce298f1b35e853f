//! Errors as AWS words them: the modelled ones of EKS Auth (API model 2023-11-26), those of STS, and the common ones that any
//! service gives for a request whose signature it does not accept.

use std::time::Duration;

use serde_json::{Value, json};

use crate::sim::xml;

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// HTTP status.
    pub status: u16,
    /// AWS's code.
    pub code: String,
    /// AWS's text.
    pub message: String,
    /// Sent as `Retry-After`, in whole seconds.
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// Any error.
    #[must_use]
    pub fn new(status: u16, code: &str, message: &str) -> Self {
        Self { status, code: code.to_owned(), message: message.to_owned(), retry_after: None }
    }

    /// The same error with `Retry-After`.
    #[must_use]
    pub fn retry_after(self, delay: Duration) -> Self {
        Self { retry_after: Some(delay), ..self }
    }

    /// EKS Auth: too many calls.
    #[must_use]
    pub fn throttling() -> Self {
        Self::new(429, "ThrottlingException", "Rate exceeded")
    }

    /// EKS Auth: a fault of its own.
    #[must_use]
    pub fn internal_server() -> Self {
        Self::new(500, "InternalServerException", "An internal error occurred")
    }

    /// EKS Auth: not available for now.
    #[must_use]
    pub fn service_unavailable() -> Self {
        Self::new(503, "ServiceUnavailableException", "The service is unavailable, back off and retry")
    }

    /// EKS Auth: the pod may not have the role, or the node may not call; with status 400, as the model says.
    #[must_use]
    pub fn access_denied() -> Self {
        Self::new(400, "AccessDeniedException", "Unauthorized Exception! EKS is not authorized to assume the role")
    }

    /// EKS Auth: the request makes no sense.
    #[must_use]
    pub fn invalid_request() -> Self {
        Self::new(400, "InvalidRequestException", "The request is invalid")
    }

    /// EKS Auth: a member of the request makes no sense.
    #[must_use]
    pub fn invalid_parameter() -> Self {
        Self::new(400, "InvalidParameterException", "A parameter is invalid")
    }

    /// EKS Auth: the pod's token is not accepted; `reason` says why.
    #[must_use]
    pub fn invalid_token(reason: &str) -> Self {
        Self::new(400, "InvalidTokenException", &format!("Invalid token: {reason}"))
    }

    /// EKS Auth: the pod's token has expired.
    #[must_use]
    pub fn expired_token() -> Self {
        Self::new(400, "ExpiredTokenException", "Token has expired")
    }

    /// EKS Auth: no such cluster, or no association for the service account.
    #[must_use]
    pub fn resource_not_found(message: &str) -> Self {
        Self::new(404, "ResourceNotFoundException", message)
    }

    /// EKS and EKS Auth: no cluster of this name.
    #[must_use]
    pub fn no_cluster(name: &str) -> Self {
        Self::resource_not_found(&format!("No cluster found for name: {name}."))
    }

    /// EKS Auth: the session that signed the request has expired; 403 tells it from the pod's own [`Fault::expired_token`].
    #[must_use]
    pub fn expired_caller() -> Self {
        Self::new(403, "ExpiredTokenException", "The security token included in the request is expired")
    }

    /// EKS Auth: the access key that signed the request is not known.
    #[must_use]
    pub fn unrecognized_client() -> Self {
        Self::new(403, "UnrecognizedClientException", "The security token included in the request is invalid.")
    }

    /// EKS Auth: the signature does not match, or is older or younger than five minutes.
    #[must_use]
    pub fn invalid_signature(message: &str) -> Self {
        Self::new(403, "InvalidSignatureException", message)
    }

    /// STS: too many calls; with status 400.
    #[must_use]
    pub fn sts_throttling() -> Self {
        Self::new(400, "Throttling", "Rate exceeded")
    }

    /// STS: a fault of its own.
    #[must_use]
    pub fn sts_internal_failure() -> Self {
        Self::new(500, "InternalFailure", "The request processing has failed because of an unknown error")
    }

    /// STS: not available for now.
    #[must_use]
    pub fn sts_service_unavailable() -> Self {
        Self::new(503, "ServiceUnavailable", "The request has failed due to a temporary failure of the server")
    }

    /// STS: the session that signed the request has expired.
    #[must_use]
    pub fn sts_expired_token() -> Self {
        Self::new(403, "ExpiredToken", "The security token included in the request is expired")
    }

    /// STS: the access key that signed the request is not known.
    #[must_use]
    pub fn sts_invalid_client_token_id() -> Self {
        Self::new(403, "InvalidClientTokenId", "The security token included in the request is invalid")
    }

    /// STS: the signature does not match, or is older or younger than five minutes.
    #[must_use]
    pub fn sts_signature_does_not_match(message: &str) -> Self {
        Self::new(403, "SignatureDoesNotMatch", message)
    }

    /// STS: the caller may not assume the role; `message` says which action is missing.
    #[must_use]
    pub fn sts_access_denied(message: &str) -> Self {
        Self::new(403, "AccessDenied", message)
    }

    /// STS: a parameter is against the API's model, or a duration against a limit.
    #[must_use]
    pub fn sts_validation(message: &str) -> Self {
        Self::new(400, "ValidationError", message)
    }

    /// STS: parameters contradict each other or the calling session.
    #[must_use]
    pub fn sts_invalid_parameter_value(message: &str) -> Self {
        Self::new(400, "InvalidParameterValue", message)
    }

    /// STS: the web identity token is not accepted; `message` says why.
    #[must_use]
    pub fn sts_invalid_identity_token(message: &str) -> Self {
        Self::new(400, "InvalidIdentityToken", message)
    }

    /// STS: the web identity token expired at `exp`; both are Unix seconds.
    #[must_use]
    pub fn sts_expired_web_identity(now: i64, exp: i64) -> Self {
        let message = format!("Token expired: current date/time {now} must be before the expiration date/time {exp}");
        Self::new(400, "ExpiredTokenException", &message)
    }

    /// STS: a claim of the web identity token does not hold.
    #[must_use]
    pub fn sts_idp_rejected_claim() -> Self {
        Self::new(403, "IDPRejectedClaim", "The identity provider (IdP) reported that authentication failed")
    }

    /// STS: it could not reach the issuer; to be tried again.
    #[must_use]
    pub fn sts_idp_communication_error() -> Self {
        Self::new(400, "IDPCommunicationError", "The identity provider that was asked to verify the token could not be reached")
    }

    /// STS: a session policy is not JSON.
    #[must_use]
    pub fn sts_malformed_policy_document() -> Self {
        Self::new(400, "MalformedPolicyDocument", "Syntax errors in policy.")
    }

    /// STS: session tags and policies take more than all of what is allotted.
    #[must_use]
    pub fn sts_packed_policy_too_large(percent: usize) -> Self {
        let message = format!("Packed size of session tags consumes {percent}% of allotted space.");
        Self::new(400, "PackedPolicyTooLarge", &message)
    }

    /// STS: it is not activated in the Region for the role's account.
    #[must_use]
    pub fn sts_region_disabled() -> Self {
        Self::new(403, "RegionDisabledException", "STS is not activated in this region for account")
    }

    /// The body of the rest-json protocol; the code goes into the header `x-amzn-ErrorType`.
    pub(super) fn json(&self) -> Value {
        json!({ "message": self.message })
    }

    /// The body of the query protocol.
    pub(super) fn xml(&self, request_id: &str) -> String {
        let kind = if self.status < 500 { "Sender" } else { "Receiver" };
        xml::error(kind, &self.code, &self.message, request_id)
    }
}
