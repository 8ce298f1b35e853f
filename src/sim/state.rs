//! What the simulated services share.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::base::bucket::Bucket;
use crate::sim::association::Association;
use crate::sim::calls::Calls;
use crate::sim::cloud::{Conditions, Config};
use crate::sim::fault::Fault;
use crate::sim::iam::Iam;
use crate::sim::issuers::Issuers;
use crate::sim::keys::Keys;
use crate::sim::random;
use crate::sim::script::{Behaviour, Operation, Protocol, Script};
use crate::sim::sessions::Sessions;

#[derive(Debug)]
pub(super) struct State {
    pub(super) config: Config,
    pub(super) issuer: String,
    pub(super) conditions: Mutex<Conditions>,
    /// What is left of the quota, if there is one.
    bucket: Mutex<Option<Bucket>>,
    pub(super) keys: Keys,
    pub(super) issuers: Issuers,
    pub(super) script: Script,
    pub(super) calls: Calls,
    pub(super) sessions: Sessions,
    pub(super) iam: Iam,
    /// What has been said of service accounts, by namespace and name: their association, or that they have none.
    pub(super) associations: Mutex<BTreeMap<(String, String), Option<Association>>>,
}

impl State {
    pub(super) fn new(config: Config, issuer: String) -> Self {
        let keys = Keys::new(&issuer, config.algorithm, config.clock.clone());
        Self {
            conditions: Mutex::new(config.conditions),
            bucket: Mutex::new(full_bucket(&config, config.conditions)),
            issuers: Issuers::new(keys.clone()),
            keys,
            config,
            issuer,
            script: Script::default(),
            calls: Calls::default(),
            sessions: Sessions::new(),
            iam: Iam::default(),
            associations: Mutex::default(),
        }
    }

    /// Changes them from now on; a quota begins unspent.
    pub(super) fn set_conditions(&self, conditions: Conditions) {
        *self.conditions.lock() = conditions;
        *self.bucket.lock() = full_bucket(&self.config, conditions);
    }

    /// How to behave in one call: as scripted, else as the quota says, else as bad luck has it.
    pub(super) fn behaviour(&self, operation: Operation) -> Behaviour {
        self.script.take(operation).unwrap_or_else(|| match operation.is_aws().then(|| self.obstacle(operation)).flatten() {
            Some(fault) => Behaviour::Error(fault),
            None => Behaviour::Answer,
        })
    }

    fn obstacle(&self, operation: Operation) -> Option<Fault> {
        let Conditions { fail_rate, quota, .. } = *self.conditions.lock();
        let now = self.config.clock.now().mono;
        if self.bucket.lock().as_mut().is_some_and(|bucket| !bucket.take(now)) {
            let retry_after = quota.and_then(|quota| quota.retry_after);
            return Some(Fault { retry_after, ..throttling(operation) });
        }
        random::happens(fail_rate).then(|| bad_luck(operation))
    }
}

fn full_bucket(config: &Config, conditions: Conditions) -> Option<Bucket> {
    conditions.quota.map(|quota| Bucket::new(quota.per_second, quota.burst, config.clock.now().mono))
}

fn throttling(operation: Operation) -> Fault {
    if operation.protocol() == Protocol::Query { Fault::sts_throttling() } else { Fault::throttling() }
}

fn bad_luck(operation: Operation) -> Fault {
    if operation.protocol() == Protocol::Query { Fault::sts_internal_failure() } else { Fault::internal_server() }
}
