//! Why a request got no credential: one closed list, which is also the label set of `credlet_refusals_total`.

use std::time::Duration;

use strum::{EnumIter, IntoStaticStr};

/// Every way a request can end without a credential, in the order in which a request can meet them. The label value is the
/// variant in `snake_case` and never changes once released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, EnumIter, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Reason {
    /// Too many connections, from one source or in all.
    ConnCap,
    /// The connection came from outside this node.
    SourceForeign,
    /// Where the connection came from could not be found out.
    SourceUnknown,
    /// The head was not complete in time.
    HeadTimeout,
    /// The head is over the size or the number of headers allowed.
    HeadTooLarge,
    /// Not HTTP/1.
    HttpMalformed,
    /// A request body, or a header that announces one.
    Body,
    /// Unknown path.
    Path,
    /// A method other than GET.
    Method,
    /// Host is missing, doubled or not an address that is served.
    Host,
    /// The request came through a proxy.
    Proxied,
    /// The request came from a browser.
    Browser,
    /// No `Authorization`, or several.
    TokenMissing,
    /// `Authorization` is not a JWT by its bytes.
    TokenMalformed,
    /// The token is longer than any that Kubernetes issues.
    TokenTooLarge,
    /// Too many failed verifications, from one source or in all.
    VerifyBudget,
    /// The JOSE header has unknown, doubled or mistyped members.
    Header,
    /// The algorithm is not allowed, or not the key's.
    Alg,
    /// No issuer has published this key.
    UnknownKid,
    /// The key is not known and the key sets are too old to say that it does not exist.
    KeysUnavailable,
    /// The signature does not match.
    Signature,
    /// A claim is missing, doubled or mistyped.
    Claims,
    /// The key belongs to another issuer.
    Issuer,
    /// No configured audience, several, or one that is not configured.
    Audience,
    /// `nbf` or `iat` lies in the future.
    NotYetValid,
    /// `exp` has passed.
    Expired,
    /// The token was issued for longer than Kubernetes allows for pods.
    Lifetime,
    /// `sub` disagrees with the other claims, or a name is not one of Kubernetes.
    Subject,
    /// The token is not bound to a pod.
    NotPodBound,
    /// The token belongs to a pod of another node.
    WrongNode,
    /// The token's pod has been deleted.
    PodGone,
    /// The token comes from elsewhere than its pod.
    SourceMismatch,
    /// One pod asks more often than `--pod-rate`.
    PodRate,
    /// The API server does not tell what this caller's service account is annotated with, and nothing is known of it.
    ServiceAccountUnavailable,
    /// Nothing gives this service account a role.
    NoRole,
    /// This caller has no target of that name.
    NoTarget,
    /// As many credentials are held as `--max-cache-size` allows, and this pod's can't be added for the moment.
    CacheFull,
    /// AWS limits this node or account.
    UpstreamThrottled,
    /// AWS can't be reached or fails.
    UpstreamUnavailable,
    /// AWS has not answered yet; the call goes on.
    UpstreamTimeout,
    /// The agent's own AWS access is at fault: node credentials, region, clock.
    UpstreamMisconfigured,
    /// AWS refuses this identity.
    UpstreamDenied,
    /// AWS answered for another identity, or incompletely.
    UpstreamMismatch,
    /// A bug in credlet.
    Internal,
}

impl Reason {
    /// The label value.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.into()
    }
}

/// A refused request: the public reason and advice, and the private cause for logs, which never leaves the process.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The public reason.
    pub reason: Reason,
    /// For whoever reads the logs; never a token, a header or an unvetted upstream text.
    pub cause: String,
    /// What the caller is told in place of the reason's general advice, where more is known: one line, vetted, no secret.
    pub advice: Option<String>,
    /// When asking again makes sense, for reasons that pass.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal with a private cause.
    #[must_use]
    pub fn new(reason: Reason, cause: impl Into<String>) -> Self {
        Self { reason, cause: cause.into(), advice: None, retry_after: None }
    }

    /// The same refusal with advice of its own.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// The same refusal with a time after which asking again makes sense.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::new(reason, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_snake_case() {
        assert_eq!(Reason::KeysUnavailable.label(), "keys_unavailable");
        assert_eq!(Reason::UnknownKid.label(), "unknown_kid");
    }
}
