//! What the policy and the annotations of a claimant's own service account give.

use std::sync::Arc;

use crate::cluster::Answer;
use crate::domain::policy::{Case, Grant, WEB_IDENTITY_AUDIENCE, faulty};
use crate::domain::refusal::{Reason, Refusal};

/// What is given for a token of `audience` and the NAME `target`. `account` is the claimant's service account; `None` where its
/// annotations don't count.
///
/// # Errors
/// The refusal that the claimant is told.
pub(super) fn grant(
    case: &Case<'_>,
    audience: &Arc<str>,
    target: Option<&str>,
    account: Option<&Answer>,
) -> Result<Grant, Refusal> {
    let account = match account {
        Some(Answer::Present(account)) => account,
        Some(Answer::Absent) if **audience == *WEB_IDENTITY_AUDIENCE => return Err(gone()),
        Some(Answer::Absent) | None => return case.grant(audience, target, None),
    };
    if case.who().service_account_uid().is_some_and(|uid| uid != account.uid) {
        return Err(made_anew());
    }
    let annotations = account.annotations.as_ref().map_err(faulty)?;
    case.grant(audience, target, Some(annotations))
}

/// Only annotations lead from web identity's audience to a role where no rule does.
fn gone() -> Refusal {
    let advice = "This pod's service account has been deleted, and with it the annotations that could give the pod a role";
    Refusal::new(Reason::NoRole, "no such service account").advice(advice)
}

fn made_anew() -> Refusal {
    let advice = "This pod's service account was deleted and made anew after the pod began: let the pod be replaced";
    Refusal::new(Reason::NoRole, "the service account has another UID than the token").advice(advice)
}
