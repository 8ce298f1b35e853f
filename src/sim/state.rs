//! What the simulated services share.

use std::collections::BTreeMap;

use parking_lot::Mutex;

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

    /// How to behave in one call: as scripted, else as bad luck has it.
    pub(super) fn behaviour(&self, operation: Operation) -> Behaviour {
        let fails = || operation.is_aws() && random::happens(self.conditions.lock().fail_rate);
        let by_luck = || if fails() { Behaviour::Error(bad_luck(operation)) } else { Behaviour::Answer };
        self.script.take(operation).unwrap_or_else(by_luck)
    }
}

fn bad_luck(operation: Operation) -> Fault {
    if operation.protocol() == Protocol::Query { Fault::sts_internal_failure() } else { Fault::internal_server() }
}
