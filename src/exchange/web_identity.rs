//! STS `AssumeRoleWithWebIdentity`: the role's trust policy decides. The token is all the proof there is, so the call is not
//! signed, and a node without any credentials of its own can make it.

use aws_sdk_sts::Client;
use aws_sdk_sts::operation::RequestId;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityOutput;

use crate::base::clock::Now;
use crate::domain::credential::Provenance;
use crate::domain::mint::{Failure, Order};
use crate::domain::policy::WebIdentity;
use crate::egress::fault::failure;
use crate::exchange::answer::{Fault, Issued, check};
use crate::exchange::fault;
use crate::exchange::fault::advice::Trust;
use crate::exchange::sts::{Sts, policies, seconds, session};
use crate::observe::metrics::Operation;

/// Trades the order's token for a session of the role in `asked`, in one call. The grant chose that role for a subject, so the
/// subject must have been verified before.
pub(super) async fn exchange(sts: &Sts, order: &Order, asked: &WebIdentity) -> Result<Issued, Failure> {
    let identity = order.subject.identity();
    let identity = identity.ok_or_else(|| Failure::Bug("web identity for a token that was not verified here".into()))?;
    let trust = Trust { asked, identity, audience: order.grant.audience() };
    let client = sts.client(order.deadline).await?;
    sts.calls.make(Operation::AssumeRoleWithWebIdentity, order, attempt(sts, client, order, &trust)).await
}

async fn attempt(sts: &Sts, client: &Client, order: &Order, trust: &Trust<'_>) -> Result<Issued, Failure> {
    let request = client.assume_role_with_web_identity().web_identity_token(order.presented.token.expose());
    let request = request.role_arn(trust.asked.role.as_str()).role_session_name(&trust.asked.session_name);
    let request = request.duration_seconds(seconds(trust.asked.duration)).set_policy_arns(policies(&trust.asked.policy_arns));
    let answered = request.send().await;
    let now = sts.calls.context.clock.now();
    let answer = answered.map_err(|error| failure(&error, now, |answer| fault::sts::web_identity(answer, order, trust)))?;
    Ok(issued(answer, trust, now)?)
}

/// What `answer` holds, if that is for the token's subject and of the role that was asked for.
fn issued(answer: AssumeRoleWithWebIdentityOutput, trust: &Trust<'_>, now: Now) -> Result<Issued, Fault> {
    let upstream_request_id = answer.request_id().map(str::to_owned);
    let subject = answer.subject_from_web_identity_token.unwrap_or_default();
    check("SubjectFromWebIdentityToken", &subject, &trust.identity.subject())?;
    if let Some(audience) = &answer.audience {
        check("Audience", audience, trust.audience)?;
    }
    let asked = (&trust.asked.role, trust.asked.session_name.as_str());
    let session = session(answer.assumed_role_user, answer.credentials, asked, now)?;
    let provenance = Provenance {
        namespace: trust.identity.namespace.clone(),
        service_account: trust.identity.service_account.clone(),
        role_arn: session.assumed_role_arn.clone(),
        upstream_request_id,
        ..Provenance::default()
    };
    Ok(Issued::new(session, provenance))
}

#[cfg(test)]
#[path = "web_identity_tests.rs"]
mod tests;
