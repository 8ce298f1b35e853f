//! Whether a role may be assumed: by its trust policy, and by the policies of the account of who asks.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html>

use std::sync::Arc;

use crate::sim::iam::Iam;
use crate::sim::iam::arn::provider_name;
use crate::sim::iam::condition::Context;
use crate::sim::iam::policy::{Action, Asker, Trust};
use crate::sim::iam::role::Role;
use crate::sim::role_request::RoleRequest;
use crate::sim::sessions::Identity;

impl Iam {
    /// The role that is asked for, if every action that this takes is allowed; else the first one that is not.
    pub(in crate::sim) fn authorize(&self, asker: Asker<'_>, request: &RoleRequest) -> Result<Arc<Role>, Action> {
        let actions = actions(asker, request);
        let first = actions.first().copied().unwrap_or(Action::AssumeRole);
        let role = self.role(&request.role_arn).ok_or(first)?;
        let context = context(asker, request);
        let refused = actions.into_iter().find(|action| !self.allows(&role, *action, asker, &context));
        refused.map_or(Ok(role), Err)
    }

    /// Within an account it is enough that the role names the asker; else the asker's own policies have to allow it too.
    fn allows(&self, role: &Role, action: Action, asker: Asker<'_>, context: &Context) -> bool {
        let trust = role.trust.trust(action, asker, context);
        let Asker::Aws(caller) = asker else { return trust != Trust::None };
        match trust {
            Trust::None => false,
            Trust::Named if caller.account() == role.arn.account() => true,
            Trust::Named | Trust::Account => self.lets_assume(caller, role.arn.as_str()),
        }
    }

    /// Users have all rights, and roles that were never described too.
    fn lets_assume(&self, caller: &Identity, arn: &str) -> bool {
        let role = caller.role_arn.as_deref().and_then(|arn| self.role(arn));
        role.is_none_or(|role| role.lets_assume(arn))
    }
}

/// Tags and a source identity take an action of their own, whether they are passed or inherited.
fn actions(asker: Asker<'_>, request: &RoleRequest) -> Vec<Action> {
    let (inherits_tags, inherits_source) = match asker {
        Asker::Aws(caller) => (!caller.transitive_tag_keys.is_empty(), caller.source_identity.is_some()),
        Asker::Federated { .. } => return vec![Action::AssumeRoleWithWebIdentity],
        Asker::Service(_) => (false, false),
    };
    let needed = [
        (true, Action::AssumeRole),
        (inherits_tags || !request.tags.is_empty(), Action::TagSession),
        (inherits_source || request.source_identity.is_some(), Action::SetSourceIdentity),
    ];
    needed.into_iter().filter_map(|(is_needed, action)| is_needed.then_some(action)).collect()
}

fn context(asker: Asker<'_>, request: &RoleRequest) -> Context {
    let context = Context::default()
        .with("sts:ExternalId", request.external_id.clone())
        .with("sts:RoleSessionName", [request.session_name.clone()])
        .with("sts:SourceIdentity", request.source_identity.clone())
        .with("aws:TagKeys", request.tags.iter().map(|(key, _)| key.clone()))
        .with_tags("aws:RequestTag", &request.tags);
    match asker {
        Asker::Aws(caller) => context.with_tags("aws:PrincipalTag", &caller.tags),
        Asker::Federated { token, .. } => {
            let provider = provider_name(&token.iss);
            context.with(&format!("{provider}:aud"), token.aud.clone()).with(&format!("{provider}:sub"), [token.sub.clone()])
        }
        Asker::Service(_) => context,
    }
}
