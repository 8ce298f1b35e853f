//! Which roles and OpenID Connect providers there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::sim::iam::arn::provider_name;
use crate::sim::iam::role::Role;

/// The simulated accounts.
#[derive(Debug, Default)]
pub(in crate::sim) struct Iam {
    roles: Mutex<BTreeMap<String, Arc<Role>>>,
    /// Client ids by account and issuer, without its scheme.
    providers: Mutex<BTreeMap<(String, String), Vec<String>>>,
}

impl Iam {
    pub(in crate::sim) fn put_role(&self, role: Role) {
        self.roles.lock().insert(role.arn.as_str().to_owned(), Arc::new(role));
    }

    pub(in crate::sim) fn role(&self, arn: &str) -> Option<Arc<Role>> {
        self.roles.lock().get(arn).cloned()
    }

    pub(in crate::sim) fn put_provider(&self, account: &str, issuer: &str, client_ids: &[&str]) {
        let client_ids = client_ids.iter().map(ToString::to_string).collect();
        self.providers.lock().insert(provider_key(account, issuer), client_ids);
    }

    /// The client ids of an issuer's provider in an account.
    pub(in crate::sim) fn client_ids(&self, account: &str, issuer: &str) -> Option<Vec<String>> {
        self.providers.lock().get(&provider_key(account, issuer)).cloned()
    }
}

fn provider_key(account: &str, issuer: &str) -> (String, String) {
    (account.to_owned(), provider_name(issuer).to_owned())
}
