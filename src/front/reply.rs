//! What leaves: statuses, codes, bodies. The only place that knows them.
//!
//! A refusal says what the pod's owner can do next; its private cause stays here. Statuses and codes are chosen by what SDKs do
//! with them: 503 is tried again by all that try statuses again, 429 by few, and codes that sound like throttling, time-outs or
//! expiry make some try a final answer again.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, Response, StatusCode};
use serde::Serialize;
use strum::IntoEnumIterator;

use crate::domain::refusal::{Reason, Refusal};
use crate::front::advice;
use crate::observe::metrics::Outcome;

/// A response whose body is ready.
pub(super) type Reply = Response<Full<Bytes>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const CLOSE: HeaderValue = HeaderValue::from_static("close");
const GET: HeaderValue = HeaderValue::from_static("GET");

/// The bodies of all refusals, made once.
#[derive(Debug)]
pub(super) struct Replies {
    bodies: HashMap<Reason, Bytes>,
}

/// Kinds of refusals, as clients tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    InvalidRequest,
    TooLarge,
    InvalidToken,
    AccessDenied,
    NotFound,
    MethodNotAllowed,
    ServiceUnavailable,
    InternalError,
}

/// SDKs differ in the case of what they read, so each member is there twice.
#[derive(Serialize)]
struct Body<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(rename = "Code")]
    code_again: &'a str,
    #[serde(rename = "Message")]
    message_again: &'a str,
}

impl Replies {
    /// Renders the bodies.
    pub(super) fn new() -> Self {
        Self { bodies: Reason::iter().map(|reason| (reason, body(reason, advice::of(reason)))).collect() }
    }

    /// 200 with a credentials document. `headers` is any map that has served its purpose: its memory is used again.
    pub(super) fn document(document: Bytes, headers: HeaderMap) -> Reply {
        with_body(StatusCode::OK, document, headers)
    }

    /// 204: this process is the one that was asked for.
    pub(super) fn own(mut headers: HeaderMap) -> Reply {
        headers.clear();
        headers.insert(CACHE_CONTROL, NO_STORE);
        reply(StatusCode::NO_CONTENT, Bytes::new(), headers)
    }

    /// The answer to a refused request; `headers` as for [`Replies::document`].
    pub(super) fn refusal(&self, refusal: &Refusal, headers: HeaderMap) -> Reply {
        let kind = kind(refusal.reason);
        let general = || self.bodies.get(&refusal.reason).cloned().unwrap_or_default();
        let body = refusal.advice.as_deref().map_or_else(general, |advice| body(refusal.reason, advice));
        let mut reply = with_body(kind.status(), body, headers);
        let headers = reply.headers_mut();
        if kind == Kind::ServiceUnavailable {
            headers.insert(RETRY_AFTER, retry_after(refusal.retry_after));
        }
        if kind == Kind::MethodNotAllowed {
            headers.insert(ALLOW, GET);
        }
        if refusal.reason == Reason::Body {
            // What follows on the connection may be that body.
            return last(reply);
        }
        reply
    }
}

/// The same answer, after which the connection ends.
pub(super) fn last(mut reply: Reply) -> Reply {
    reply.headers_mut().insert(CONNECTION, CLOSE);
    reply
}

/// How metrics count a refusal.
pub(super) fn outcome(reason: Reason) -> Outcome {
    match kind(reason) {
        Kind::ServiceUnavailable => Outcome::Unavailable,
        Kind::InternalError => Outcome::Error,
        Kind::InvalidRequest
        | Kind::TooLarge
        | Kind::InvalidToken
        | Kind::AccessDenied
        | Kind::NotFound
        | Kind::MethodNotAllowed => Outcome::Refused,
    }
}

fn with_body(status: StatusCode, body: Bytes, mut headers: HeaderMap) -> Reply {
    headers.clear();
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(CACHE_CONTROL, NO_STORE);
    reply(status, body, headers)
}

fn reply(status: StatusCode, body: Bytes, headers: HeaderMap) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    *reply.headers_mut() = headers;
    reply
}

/// Whole seconds (RFC 9110 §10.2.3), at least one.
fn retry_after(delay: Option<Duration>) -> HeaderValue {
    let delay = delay.unwrap_or_default();
    let seconds = delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0));
    HeaderValue::from(seconds.max(1))
}

fn body(reason: Reason, message: &str) -> Bytes {
    let code = kind(reason).code();
    let body = Body { code, message, code_again: code, message_again: message };
    serde_json::to_vec(&body).map(Bytes::from).unwrap_or_default()
}

impl Kind {
    fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::InvalidToken => StatusCode::UNAUTHORIZED,
            Self::AccessDenied => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(self) -> &'static str {
        match self {
            Self::InvalidRequest | Self::TooLarge => "InvalidRequest",
            Self::InvalidToken => "InvalidToken",
            Self::AccessDenied => "AccessDenied",
            Self::NotFound => "NotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::InternalError => "InternalError",
        }
    }
}

fn kind(reason: Reason) -> Kind {
    match reason {
        Reason::HeadTimeout | Reason::HttpMalformed | Reason::Body | Reason::TokenMissing | Reason::TokenMalformed => {
            Kind::InvalidRequest
        }
        Reason::HeadTooLarge | Reason::TokenTooLarge => Kind::TooLarge,
        Reason::Path => Kind::NotFound,
        Reason::Method => Kind::MethodNotAllowed,
        Reason::SourceForeign
        | Reason::Host
        | Reason::Proxied
        | Reason::Browser
        | Reason::WrongNode
        | Reason::SourceMismatch
        | Reason::NoRole
        | Reason::NoTarget
        | Reason::UpstreamDenied => Kind::AccessDenied,
        Reason::Header
        | Reason::Alg
        | Reason::UnknownKid
        | Reason::Signature
        | Reason::Claims
        | Reason::Issuer
        | Reason::Audience
        | Reason::NotYetValid
        | Reason::Expired
        | Reason::Lifetime
        | Reason::Subject
        | Reason::NotPodBound
        | Reason::PodGone => Kind::InvalidToken,
        Reason::ConnCap
        | Reason::SourceUnknown
        | Reason::VerifyBudget
        | Reason::KeysUnavailable
        | Reason::PodRate
        | Reason::ServiceAccountUnavailable
        | Reason::CacheFull
        | Reason::UpstreamThrottled
        | Reason::UpstreamUnavailable
        | Reason::UpstreamTimeout
        | Reason::UpstreamMisconfigured
        | Reason::UpstreamMismatch => Kind::ServiceUnavailable,
        Reason::Internal => Kind::InternalError,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn text(reply: Reply) -> String {
        String::from_utf8(reply.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn an_error_has_the_shape_that_every_sdk_reads() {
        let mut old = HeaderMap::new();
        old.insert("authorization", "left over".parse().unwrap());
        let reply = Replies::new().refusal(&Refusal::new(Reason::Method, "private"), old);
        assert_eq!(reply.status(), 405);
        let headers: Vec<_> = reply.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(headers, [("content-type", "application/json"), ("cache-control", "no-store"), ("allow", "GET")]);
        let message = "Only GET is served here";
        let expected =
            format!(r#"{{"code":"MethodNotAllowed","message":"{message}","Code":"MethodNotAllowed","Message":"{message}"}}"#);
        assert_eq!(text(reply).await, expected);
    }

    #[tokio::test]
    async fn every_reason_has_a_line_of_advice_and_a_code_that_is_not_tried_again_in_vain() {
        let replies = Replies::new();
        // Codes that Go retries whatever the status, in part or whole.
        let retried =
            ["throttl", "limit", "slowdown", "timeout", "expired", "toomany", "priorrequest", "inprogress", "bandwidth"];
        for reason in Reason::iter() {
            let reply = replies.refusal(&Refusal::new(reason, "private cause"), HeaderMap::new());
            let (status, waits) = (reply.status().as_u16(), reply.headers().contains_key(RETRY_AFTER));
            assert!([400, 401, 403, 404, 405, 431, 500, 503].contains(&status), "{reason:?} {status}");
            assert_eq!(status == 503, waits, "{reason:?}");
            assert_eq!(status == 503, outcome(reason) == Outcome::Unavailable);
            let body: serde_json::Value = serde_json::from_str(&text(reply).await).unwrap();
            let (code, message) = (body["code"].as_str().unwrap(), body["message"].as_str().unwrap());
            assert!(!retried.iter().any(|word| code.to_lowercase().contains(word)), "{code}");
            assert!(
                (20..=230).contains(&message.len()) && !message.contains(['\n', '"']) && !message.contains("  "),
                "{message}"
            );
            assert!(!message.contains("private"));
        }
    }

    #[test]
    fn retry_after_is_rounded_up_to_whole_seconds() {
        for (milliseconds, expected) in
            [(None, "1"), (Some(0), "1"), (Some(999), "1"), (Some(1000), "1"), (Some(1001), "2"), (Some(60_000), "60")]
        {
            assert_eq!(retry_after(milliseconds.map(Duration::from_millis)), expected, "{milliseconds:?}");
        }
    }

    #[test]
    fn only_an_announced_body_costs_the_connection() {
        let replies = Replies::new();
        for reason in Reason::iter() {
            let reply = replies.refusal(&reason.into(), HeaderMap::new());
            assert_eq!(reply.headers().contains_key(CONNECTION), reason == Reason::Body);
        }
    }
}
