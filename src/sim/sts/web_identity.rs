//! `AssumeRoleWithWebIdentity`: unsigned, for whoever bears a token of an issuer that is a provider in the role's account. Session
//! tags that a token may carry are not simulated: Kubernetes issues none.

use serde_json::{Value, json};

use crate::sim::fault::Fault;
use crate::sim::form::Form;
use crate::sim::iam::arn::RoleArn;
use crate::sim::iam::policy::Asker;
use crate::sim::issuers::Known;
use crate::sim::jwt::{Jwt, Rejected, TokenClaims};
use crate::sim::role_request::RoleRequest;
use crate::sim::sessions::Identity;
use crate::sim::state::State;
use crate::sim::sts::assume_role::{Granted, grant, role_arn};
use crate::sim::sts::constraints;

/// What the bearer of a token is granted, and the members that only this action's answer has.
pub(super) fn assume_role(state: &State, form: &Form) -> Result<(Granted, Value), Fault> {
    let request = RoleRequest::of(form);
    let token = form.get("WebIdentityToken").unwrap_or_default();
    constraints::check(&request)?;
    constraints::check_token(&token)?;
    let arn = role_arn(&request)?;
    let (claims, audience) = verify(state, &arn, &token)?;
    let provider = arn.provider(&claims.iss);
    let asker = Asker::Federated { provider: &provider, token: &claims };
    let role = state.iam.authorize(asker, &request).map_err(|_| denied())?;
    let granted = grant(&Identity::default(), &role, &request)?;
    Ok((granted, json!({ "SubjectFromWebIdentityToken": claims.sub, "Audience": audience, "Provider": provider })))
}

/// The claims of a token that the provider in the role's account vouches for, and the one of its client ids that they name.
fn verify(state: &State, role: &RoleArn, token: &str) -> Result<(TokenClaims, String), Fault> {
    let now = state.config.clock.now().unix();
    let issuer = Jwt::parse(token).map_err(|why| rejected(why, now))?.issuer().to_owned();
    let client_ids = state.iam.client_ids(role.account(), &issuer).ok_or_else(|| no_provider(&issuer))?;
    let claims = state.issuers.verify(token, Known::Published, now).map_err(|why| rejected(why, now))?;
    let audience = claims.aud.iter().find(|audience| client_ids.contains(audience)).cloned();
    let audience = audience.ok_or_else(|| rejected(Rejected::Audience, now))?;
    Ok((claims, audience))
}

fn denied() -> Fault {
    Fault::sts_access_denied("Not authorized to perform sts:AssumeRoleWithWebIdentity")
}

fn no_provider(issuer: &str) -> Fault {
    Fault::sts_invalid_identity_token(&format!("No OpenIDConnect provider found in your account for {issuer}"))
}

fn rejected(why: Rejected, now: i64) -> Fault {
    let message = match why {
        Rejected::Expired(exp) => return Fault::sts_expired_web_identity(now, exp),
        Rejected::NotYetValid => return Fault::sts_idp_rejected_claim(),
        Rejected::Malformed | Rejected::MissingClaims => "The ID Token provided is not a valid JWT.",
        Rejected::UnknownIssuer | Rejected::UnknownKey => {
            "Couldn't retrieve verification key from your identity provider,  please reference AssumeRoleWithWebIdentity \
             documentation for requirements"
        }
        Rejected::Signature => "Provided Token's signature is not valid",
        Rejected::Audience => "Incorrect token audience",
    };
    Fault::sts_invalid_identity_token(message)
}
