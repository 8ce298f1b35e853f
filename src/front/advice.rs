//! What a refused client is told: for each reason one line, vetted, that says what is wrong and what to do next.
//!
//! botocore and others print it verbatim into the application's log, where the pod's owner finds it. It holds nothing of the
//! request, of AWS or of the cluster.

use crate::domain::refusal::Reason;

/// The line for `reason`.
#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn of(reason: Reason) -> &'static str {
    match reason {
        Reason::ConnCap => "Too many connections to the node's credential agent are open: close idle ones, then try again",
        Reason::SourceForeign => "Only this node's own pods are served: ask the credential agent of the node that you run on",
        Reason::SourceUnknown => "The node can't tell at the moment whether this is one of its own pods: try again",
        Reason::HeadTimeout => "The request's head did not arrive within 10 seconds: send it at once",
        Reason::HeadTooLarge => "The request's head is too large: send at most 64 headers and 32 KiB",
        Reason::HttpMalformed => "The request is not HTTP/1.1: use an AWS SDK or an HTTP client",
        Reason::Body => "Send a plain GET: no body, no Transfer-Encoding, no Upgrade",
        Reason::Path => "Nothing is served at this path: use AWS_CONTAINER_CREDENTIALS_FULL_URI as it was set for the pod",
        Reason::Method => "Only GET is served here",
        Reason::Host => {
            "The Host header is not an address of the credential agent: use AWS_CONTAINER_CREDENTIALS_FULL_URI as it was set for \
             the pod, not a name that leads there"
        }
        Reason::Proxied => {
            "The request came through a proxy, which must not see the pod's token: add 169.254.170.23,fd00:ec2::23 to NO_PROXY \
             and no_proxy of this container"
        }
        Reason::Browser => "Requests made by a browser are not served: use an AWS SDK",
        Reason::TokenMissing => {
            "Send one Authorization header, with the content of the file that AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names"
        }
        Reason::TokenTooLarge => {
            "The Authorization header has more than 16 KiB, which no service account token has: send the content of the file that \
             AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names, and nothing else"
        }
        Reason::TokenMalformed => {
            "The Authorization header is not a service account token: send the content of the file that \
             AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names, and nothing else"
        }
        Reason::VerifyBudget => {
            "Too many invalid tokens came from this address: let the application read its token file anew each time, then try again"
        }
        Reason::Header | Reason::Alg | Reason::Claims | Reason::Subject => {
            "The token is not one that Kubernetes issues to pods: send the content of the file that \
             AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names"
        }
        Reason::UnknownKid | Reason::Signature | Reason::Issuer => {
            "The token was not issued by this cluster: send this pod's own, read anew from the file that \
             AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names"
        }
        Reason::KeysUnavailable => {
            "The cluster's signing keys can't be read at the moment: try again, and tell the cluster's operator if it lasts"
        }
        Reason::Audience => {
            "The token is meant for another audience: project one with audience pods.eks.amazonaws.com into the pod, or \
             sts.amazonaws.com where its role is taken by web identity"
        }
        Reason::NotYetValid => {
            "The token is not valid yet, so the clock of this node or of the API server is wrong: tell the cluster's operator"
        }
        Reason::Expired => {
            "The token is past its life: read it anew from its file for each request, since the kubelet renews it there"
        }
        Reason::Lifetime => {
            "The token was issued for longer than 49 hours: project one with a shorter expirationSeconds into the pod"
        }
        Reason::NotPodBound => {
            "The token is not bound to a pod: use a projected service account token, not one of a Secret or of kubectl create token"
        }
        Reason::WrongNode => "The token belongs to a pod of another node: send this pod's own token",
        Reason::PodGone => "The token's pod has been deleted: send the token of a pod that runs",
        Reason::SourceMismatch => {
            "The token is used from another address than its pod's: send this pod's own token; if it is, tell the cluster's operator"
        }
        Reason::PodRate => "This pod asks too often: let it keep its credentials until they near their end, as AWS SDKs do",
        Reason::ServiceAccountUnavailable => {
            "The annotations of this pod's service account can't be read at the moment: try again, and tell the cluster's operator \
             if it lasts"
        }
        Reason::NoRole => {
            "Nothing gives this pod a role: neither the node's policy nor its service account's annotations do, and its token is \
             not for EKS Pod Identity (audience pods.eks.amazonaws.com)"
        }
        Reason::NoTarget => "This pod's service account has no target of that name: ask the cluster's operator for one",
        Reason::CacheFull => {
            "The node's credential agent holds as many credentials as it may: try again, and tell the cluster's operator if it lasts"
        }
        Reason::UpstreamThrottled => "AWS limits the requests of this node: try again",
        Reason::UpstreamUnavailable => {
            "AWS can't be reached from this node, or fails: try again, and tell the cluster's operator if it lasts"
        }
        Reason::UpstreamTimeout => "AWS has not answered yet: try again, its answer is kept for you",
        Reason::UpstreamMisconfigured => {
            "The node's credential agent has no working access to AWS: tell the cluster's operator, who finds the cause in its log"
        }
        Reason::UpstreamDenied => {
            "AWS refuses a role to this pod's service account: check its EKS Pod Identity association or its role's name, and that \
             the trust policy of each role on the way admits whoever assumes it"
        }
        Reason::UpstreamMismatch => {
            "AWS gave an answer that does not fit this pod: try again, and tell the cluster's operator if it lasts"
        }
        Reason::Internal => "The node's credential agent has failed: try again, and tell the cluster's operator",
    }
}
