//! Verification of AWS Signature Version 4: the request is signed again with the caller's secret and must come out the same.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use hyper::Request;
use hyper::header::AUTHORIZATION;
use time::PrimitiveDateTime;
use time::macros::format_description;

use crate::base::clock::Now;
use crate::base::secret::Secret;

/// How far the time of a signature may lie from the service's own.
const SKEW: Duration = Duration::from_secs(5 * 60);

const DATE: &str = "x-amz-date";
const SECURITY_TOKEN: &str = "x-amz-security-token";

/// For which service a request must be signed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// Why a request does not prove who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unauthenticated {
    /// It is not signed.
    Missing,
    /// Its signature headers can't be read.
    Malformed,
    /// No such access key, or not with that session token.
    UnknownKey,
    /// The session has ended.
    Expired,
    /// It was signed more than five minutes ago or ahead.
    Skewed,
    /// It was signed otherwise: another secret, region, service or request.
    Mismatch,
}

/// The signature headers of a request, read but not proved.
#[derive(Debug)]
pub(super) struct Signature<'a> {
    request: &'a Request<Bytes>,
    pub(super) access_key_id: &'a str,
    pub(super) session_token: Option<&'a str>,
    signed_headers: Vec<&'a str>,
    signature: &'a str,
    signed_at: SystemTime,
}

impl<'a> Signature<'a> {
    pub(super) fn of(request: &'a Request<Bytes>) -> Result<Self, Unauthenticated> {
        let authorization = header(request, AUTHORIZATION.as_str()).ok_or(Unauthenticated::Missing)?;
        Self::parse(request, authorization).ok_or(Unauthenticated::Malformed)
    }

    fn parse(request: &'a Request<Bytes>, authorization: &'a str) -> Option<Self> {
        let fields = authorization.strip_prefix("AWS4-HMAC-SHA256 ")?;
        let field = |name: &str| fields.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='));
        Some(Self {
            request,
            access_key_id: field("Credential")?.split('/').next()?,
            session_token: header(request, SECURITY_TOKEN),
            signed_headers: field("SignedHeaders")?.split(';').collect(),
            signature: field("Signature")?,
            signed_at: signing_time(header(request, DATE)?)?,
        })
    }

    /// Whether `secret` made this signature for `scope`, and not long from now.
    pub(super) fn verify(&self, secret: &Secret, scope: Scope<'_>, now: Now) -> Result<(), Unauthenticated> {
        let skew = now.wall.duration_since(self.signed_at).unwrap_or_else(|ahead| ahead.duration());
        if skew > SKEW {
            return Err(Unauthenticated::Skewed);
        }
        match self.sign_again(secret, scope) {
            Some(signature) if signature == self.signature => Ok(()),
            _ => Err(Unauthenticated::Mismatch),
        }
    }

    fn sign_again(&self, secret: &Secret, scope: Scope<'_>) -> Option<String> {
        let token = self.session_token.map(str::to_owned);
        let credentials = Credentials::new(self.access_key_id, secret.expose(), token, None, "sim");
        let identity = credentials.into();
        let mut settings = SigningSettings::default();
        settings.excluded_headers = None;
        let params = v4::SigningParams::builder().identity(&identity).region(scope.region).name(scope.service);
        let params = params.time(self.signed_at).settings(settings).build().ok()?;
        let output = sign(self.signable()?, &params.into()).ok()?;
        Some(output.signature().to_owned())
    }

    /// The request as its sender signed it; the signer adds date and session token of its own accord.
    fn signable(&self) -> Option<SignableRequest<'a>> {
        let signed = |name: &str| self.signed_headers.contains(&name) && name != DATE && name != SECURITY_TOKEN;
        let headers = self.request.headers().iter().filter(|(name, _)| signed(name.as_str()));
        let headers = headers.map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect::<Option<Vec<_>>>()?;
        let names_host = headers.iter().any(|(name, _)| *name == "host");
        let uri = self.request.uri().path_and_query()?.as_str();
        let body = SignableBody::Bytes(self.request.body());
        let request = SignableRequest::new(self.request.method().as_str(), uri, headers.into_iter(), body).ok()?;
        names_host.then_some(request)
    }
}

fn header<'a>(request: &'a Request<Bytes>, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

fn signing_time(text: &str) -> Option<SystemTime> {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    Some(PrimitiveDateTime::parse(text, format).ok()?.assume_utc().into())
}
