//! What to do about a refusal by STS, in one line for the pod's owner: it reaches applications, so it is made of the names in the
//! grant and of verified claims, never of AWS's text.

use crate::domain::identity::Identity;
use crate::domain::policy::{Hop, RoleArn, WebIdentity};
use crate::exchange::role::oidc_provider;

/// What `AssumeRoleWithWebIdentity` asks a role to trust.
#[derive(Debug, Clone, Copy)]
pub(in crate::exchange) struct Trust<'a> {
    pub(in crate::exchange) asked: &'a WebIdentity,
    pub(in crate::exchange) identity: &'a Identity,
    pub(in crate::exchange) audience: &'a str,
}

/// An `AssumeRole` of a chain.
#[derive(Debug, Clone, Copy)]
pub(in crate::exchange) struct Link<'a> {
    pub(in crate::exchange) hop: &'a Hop,
    /// Its place in the chain, from 1.
    pub(in crate::exchange) number: usize,
    /// The assumed-role ARN of the session that calls.
    pub(in crate::exchange) caller: &'a str,
}

impl Trust<'_> {
    pub(super) fn expired(&self) -> String {
        "The token is past its life: read it anew from its file for each request, since the kubelet renews it there".into()
    }

    pub(super) fn provider(&self) -> String {
        let Self { asked: WebIdentity { role, .. }, identity, audience } = self;
        let (issuer, provider) = (&identity.issuer, oidc_provider(role, &identity.issuer));
        format!(
            "AWS takes no token of this cluster for {role}: account {} needs the IAM OIDC provider {provider} with {audience} among its \
             client ids, and STS must be able to read the keys that {issuer} publishes (of a new key it learns within minutes)",
            role.account()
        )
    }

    pub(super) fn policy(&self) -> String {
        let Self { asked: WebIdentity { role, .. }, identity, audience } = self;
        let (provider, subject) = (oidc_provider(role, &identity.issuer), identity.subject());
        format!(
            "AWS refuses {role} to this pod: the role must exist, and its trust policy must allow \"sts:AssumeRoleWithWebIdentity\" to \
             Federated principal {provider}, with conditions that hold for sub {subject} and aud {audience}"
        )
    }

    pub(super) fn parameters(&self, code: &str) -> Option<String> {
        parameters(code, &self.asked.role, self.asked.duration.as_secs())
    }
}

impl Link<'_> {
    /// AWS's `message` tells which of the actions that the call needs is not allowed.
    pub(super) fn denied(&self, message: &str) -> String {
        let Self { hop: Hop { role, .. }, number, caller } = self;
        let lacking = self.lacking(message);
        format!("Hop {number} of the chain, from {caller} to {role}, is refused: {lacking}")
    }

    fn lacking(&self, message: &str) -> String {
        let missing = |action: &str, why: &str| {
            format!(
                "\"{action}\" is missing beside \"sts:AssumeRole\" in the trust policy of {}, or in the caller's own permissions; \
                 it is needed since {why}",
                self.hop.role
            )
        };
        if message.contains("sts:TagSession") {
            return missing(
                "sts:TagSession",
                "session tags are passed or inherited (EKS Pod Identity's sessions carry six transitive ones, unless the \
                 association sets disableSessionTags)",
            );
        }
        if message.contains("sts:SetSourceIdentity") {
            return missing("sts:SetSourceIdentity", "a source identity is passed or inherited");
        }
        let external_id = if self.hop.external_id.is_some() { "an external id is passed" } else { "no external id is passed" };
        format!(
            "the role must exist, its trust policy must allow \"sts:AssumeRole\" (with \"sts:TagSession\" where session tags are \
             passed or inherited) to the caller's role under conditions that hold ({external_id}), and the caller's own permissions \
             must allow it too"
        )
    }

    pub(super) fn parameters(&self, code: &str) -> Option<String> {
        parameters(code, &self.hop.role, self.hop.duration.as_secs())
    }
}

/// What to do when STS refuses what was asked of `role` and not who asks.
fn parameters(code: &str, role: &RoleArn, seconds: u64) -> Option<String> {
    let account = role.account();
    match code {
        "PackedPolicyTooLarge" => Some(format!(
            "The session tags and session policies for {role} are too large once STS has packed them: pass fewer or shorter ones; tags \
             inherited along a chain count too, such as the six of EKS Pod Identity (its association can set disableSessionTags)"
        )),
        "MalformedPolicyDocument" => Some(format!(
            "STS can't apply a session policy to {role}: each of its policyArns must name a managed policy of AWS or of account {account}"
        )),
        "ValidationError" | "InvalidParameterValue" => Some(format!(
            "STS refuses the parameters for {role}: its maximum session duration must be at least the {seconds} s that are asked for, \
             and no tag may be passed that the calling session has as a transitive one"
        )),
        "RegionDisabledException" => Some(format!(
            "STS is switched off for account {account} in this node's region: switch it on in the account settings of IAM"
        )),
        _ => None,
    }
}
