//! STS `AssumeRole`, from role to role: each hop is called with the credentials of the session before it, never with the node's.

use aws_config::identity::IdentityCache;
use aws_credential_types::Credentials;
use aws_sdk_sts::Client;
use aws_sdk_sts::config::Builder;
use aws_sdk_sts::operation::RequestId;
use aws_sdk_sts::operation::assume_role::AssumeRoleOutput;
use aws_sdk_sts::operation::assume_role::builders::AssumeRoleFluentBuilder;
use aws_sdk_sts::types::Tag;

use crate::base::clock::Now;
use crate::domain::credential::{Provenance, Session};
use crate::domain::mint::{Failure, Order};
use crate::domain::policy::Hop;
use crate::egress::fault::failure;
use crate::exchange::answer::{Fault, Issued};
use crate::exchange::fault;
use crate::exchange::fault::advice::Link;
use crate::exchange::sts::{Sts, policies, seconds, session, unless_empty};
use crate::observe::metrics::Operation;

/// Goes from the session of `caller` to the role of `hop`, the `number`th of the order's chain, in one call.
pub(super) async fn assume(sts: &Sts, order: &Order, (number, hop): (usize, &Hop), caller: &Issued) -> Result<Issued, Failure> {
    let link = Link { hop, number, caller: &caller.session.assumed_role_arn };
    let client = sts.client(order.deadline).await?;
    sts.calls.make(Operation::AssumeRole, order, attempt(sts, client, &link, caller)).await
}

async fn attempt(sts: &Sts, client: &Client, link: &Link<'_>, caller: &Issued) -> Result<Issued, Failure> {
    let request = request(client, link.hop).set_tags(tags(link.hop)?);
    let answered = request.customize().config_override(signed_by(&caller.session)).send().await;
    let now = sts.calls.context.clock.now();
    let answer = answered.map_err(|error| {
        if fault::sts::refuses_session(&error) {
            caller.disown();
        }
        failure(&error, now, |answer| fault::sts::assume_role(answer, link))
    })?;
    Ok(issued(answer, link, caller, now)?)
}

fn request(client: &Client, hop: &Hop) -> AssumeRoleFluentBuilder {
    client
        .assume_role()
        .role_arn(hop.role.as_str())
        .role_session_name(&hop.session_name)
        .duration_seconds(seconds(hop.duration))
        .set_external_id(hop.external_id.clone())
        .set_source_identity(hop.source_identity.clone())
        .set_transitive_tag_keys(unless_empty(hop.transitive_tags.clone()))
        .set_policy_arns(policies(&hop.policy_arns))
}

fn tags(hop: &Hop) -> Result<Option<Vec<Tag>>, Failure> {
    let tags = hop.tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build());
    tags.collect::<Result<_, _>>().map(unless_empty).map_err(|error| Failure::Bug(error.to_string()))
}

/// The credentials of one call. Nothing is cached: each session would leave its own partition behind in the client's cache.
fn signed_by(session: &Session) -> Builder {
    let secret = session.secret_access_key.expose();
    let token = session.session_token.expose().to_owned();
    let credentials = Credentials::new(&session.access_key_id, secret, Some(token), None, "credlet");
    Builder::new().credentials_provider(credentials).identity_cache(IdentityCache::no_cache())
}

/// What `answer` holds, if that is of the role that was asked for.
fn issued(answer: AssumeRoleOutput, link: &Link<'_>, caller: &Issued, now: Now) -> Result<Issued, Fault> {
    let upstream_request_id = answer.request_id().map(str::to_owned);
    let asked = (&link.hop.role, link.hop.session_name.as_str());
    let session = session(answer.assumed_role_user, answer.credentials, asked, now)?;
    let role_arn = session.assumed_role_arn.clone();
    let mut provenance = Provenance { role_arn, upstream_request_id, ..caller.provenance.clone() };
    provenance.caller_access_key_ids.push(caller.session.access_key_id.clone());
    Ok(Issued::new(session, provenance))
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
