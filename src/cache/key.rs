//! What a credential is kept by.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::domain::identity::Subject;
use crate::domain::policy::Grant;

/// What a credential is kept by: verified facts and the grant.
#[derive(Debug, Clone)]
pub(super) struct EntryKey {
    pub(super) subject: Arc<Subject>,
    pub(super) grant: Grant,
}

/// The facts of a subject that make it another one for AWS.
fn essence(subject: &Subject) -> (&str, &str, &[u8]) {
    match subject {
        Subject::Verified(identity) => (&identity.issuer, &identity.service_account_uid, identity.pod_uid.as_bytes()),
        Subject::Delegated(digest) => ("", "", digest.as_bytes()),
    }
}

impl PartialEq for EntryKey {
    fn eq(&self, other: &Self) -> bool {
        // A token that is seen again has the very subject by which its entry is kept: most strings are never compared.
        let same = Arc::ptr_eq(&self.subject, &other.subject) || essence(&self.subject) == essence(&other.subject);
        same && self.grant == other.grant
    }
}

impl Eq for EntryKey {}

impl Hash for EntryKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.subject, &self.grant).hash(state);
    }
}
