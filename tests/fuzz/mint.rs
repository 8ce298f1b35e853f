//! The agent's broker between the issuer's tokens and an AWS that is made up.

use std::sync::Arc;
use std::time::Duration;

use credlet::base::clock::Now;
use credlet::base::secret::Secret;
use credlet::broker::Broker;
use credlet::cache::{self, Cache};
use credlet::cluster::pods::Pods;
use credlet::domain::credential::{Credential, Provenance, Session};
use credlet::domain::mint::{Failure, Mint, Minting, Order};
use credlet::domain::policy::Policy;
use credlet::grants::Grants;
use credlet::limits::pods::{self, PodRates};
use credlet::node::source::binding::SourceBinding;
use credlet::node::source::{Mode, SourceCheck};
use credlet::observe::Context;

use crate::{key_set, verifier};

/// What every call comes to.
pub enum Aws {
    /// Six hours of credentials.
    Issues,
    /// Nothing, for ever.
    Hangs,
    /// This.
    Refuses(Failure),
}

struct MadeUp(Context, Aws);

impl Mint for MadeUp {
    fn mint(&self, _: Order) -> Minting<'_> {
        match &self.1 {
            Aws::Issues => Box::pin(std::future::ready(Ok(credential(self.0.clock.now())))),
            Aws::Hangs => Box::pin(std::future::pending()),
            Aws::Refuses(failure) => Box::pin(std::future::ready(Err(failure.clone()))),
        }
    }
}

/// A broker for good tokens.
pub fn broker(context: &Context, aws: Aws) -> Arc<Broker> {
    let config = cache::Config { capacity: 4, longest_retention: None };
    Arc::new(Broker {
        verifier: verifier(&key_set(), context).expect("a good key set"),
        pods: Pods::unwatched(),
        binding: SourceBinding::new(Mode::Off, &SourceCheck::new(Mode::Off, context)),
        rates: PodRates::new(pods::Config { per_second: f64::MAX }),
        grants: Grants::fixed(Policy::without_rules(Some("demo".into()))),
        cache: Cache::new(config, Arc::new(MadeUp(context.clone(), aws)), context.clone()),
        context: context.clone(),
    })
}

fn credential(now: Now) -> Credential {
    let session = Session {
        access_key_id: "ASIAIOSFODNN7EXAMPLE".into(),
        secret_access_key: Secret::new("s".repeat(40)),
        session_token: Secret::new("t".repeat(40)),
        expires_at: now.wall + Duration::from_secs(6 * 3600),
        assumed_role_arn: "arn:aws:sts::111122223333:assumed-role/app/session".into(),
    };
    Credential::new(&session, Provenance::default(), now).expect("a whole session")
}
