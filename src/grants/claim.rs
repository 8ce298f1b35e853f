//! A proven claim to a role, and what the policy and the annotations of the claimant's own service account give for it.

use std::sync::Arc;

use crate::cluster::Answer;
use crate::domain::credential::Provenance;
use crate::domain::identity::Identity;
use crate::domain::policy::{Claimant, Grant, Policy};
use crate::domain::refusal::{Reason, Refusal};

/// Who claims.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    pub(super) who: Claimant,
    /// The UID of its service account; nobody tells that of one whom AWS has verified.
    pub(super) uid: Option<&'a str>,
}

impl Claim<'_> {
    /// What `policy` gives for a token of `audience` and the NAME `target`. `account` is the claimant's service account, if its
    /// annotations count.
    ///
    /// # Errors
    /// The refusal that the claimant is told.
    pub(super) fn grant(
        &self,
        policy: &Policy,
        audience: &Arc<str>,
        target: Option<&str>,
        account: Option<&Answer>,
    ) -> Result<Grant, Refusal> {
        match account {
            None => policy.grant(&self.who, audience, target, None),
            Some(Answer::Absent) => policy.grant(&self.who, audience, target, None).map_err(|_| gone()),
            Some(Answer::Present(account)) if self.uid.is_some_and(|uid| uid != account.uid) => Err(made_anew()),
            Some(Answer::Present(account)) => {
                let annotations = account.annotations.as_ref().map_err(|faults| faults.refusal())?;
                policy.grant(&self.who, audience, target, Some(annotations))
            }
        }
    }
}

impl<'a> From<&'a Identity> for Claim<'a> {
    fn from(identity: &'a Identity) -> Self {
        Self { who: identity.into(), uid: Some(&identity.service_account_uid) }
    }
}

impl From<&Provenance> for Claim<'_> {
    /// The one whom AWS named when it gave the credential.
    fn from(confirmed: &Provenance) -> Self {
        Self { who: Claimant::new(&*confirmed.namespace, &*confirmed.service_account), uid: None }
    }
}

fn gone() -> Refusal {
    let advice = "This pod's service account has been deleted, and with it the annotations that could give the pod a role";
    Refusal::new(Reason::NoRole, "no such service account").advice(advice)
}

fn made_anew() -> Refusal {
    let advice = "This pod's service account was deleted and made anew after the pod began: let the pod be replaced";
    Refusal::new(Reason::NoRole, "the service account has another UID than the token").advice(advice)
}
