//! Grants over a cache: what a change of the policy takes away, what it leaves, and who is granted what by AWS's word alone.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use tempfile::TempDir;

use super::*;
use crate::base::clock::Clock;
use crate::base::secret::Secret;
use crate::cache;
use crate::cache::{Found, How};
use crate::domain::credential::{Credential, Session};
use crate::domain::identity::{BearerToken, Presented, Subject, TokenDigest};
use crate::domain::mint::{Mint, Minting, Order};
use crate::domain::policy::POD_IDENTITY_AUDIENCE;

const HOUR: Duration = Duration::from_secs(3600);
/// Two looks at the file, and then some.
const NOTICED: Duration = Duration::from_millis(2_500);

/// Gives every order a credential whose key is its number.
struct MadeUp {
    clock: Clock,
    orders: AtomicUsize,
}

impl Mint for MadeUp {
    fn mint(&self, order: Order) -> Minting<'_> {
        let number = self.orders.fetch_add(1, Ordering::Relaxed);
        let session = Session {
            access_key_id: format!("ASIA{number}"),
            secret_access_key: Secret::new("s".into()),
            session_token: Secret::new("t".into()),
            expires_at: self.clock.now().wall + HOUR,
            assumed_role_arn: "arn:aws:sts::111122223333:assumed-role/r/s".into(),
        };
        let named = order.subject.identity().map_or("app", |identity| &identity.service_account).to_owned();
        let provenance = Provenance { namespace: "default".into(), service_account: named, ..Provenance::default() };
        Box::pin(std::future::ready(Ok(Credential::new(&session, provenance, self.clock.now()).unwrap())))
    }
}

struct World {
    folder: TempDir,
    context: Context,
    mint: Arc<MadeUp>,
    cache: Cache,
    grants: Grants,
}

impl World {
    fn with(policy: &str) -> Self {
        Self::with_accounts_of(None, policy)
    }

    fn with_accounts_of(service_accounts: Option<Arc<ApiServer>>, policy: &str) -> Self {
        let context = Context::new(Clock::simulated(UNIX_EPOCH + 1000 * HOUR));
        let mint = Arc::new(MadeUp { clock: context.clock.clone(), orders: AtomicUsize::new(0) });
        let config = cache::Config { capacity: 100, longest_retention: None };
        let cache = Cache::new(config, Arc::<MadeUp>::clone(&mint), context.clone());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        std::fs::write(&path, policy).unwrap();
        let cluster_name: Option<Arc<str>> = Some("demo".into());
        let policy = Some(PolicyFile::open(&path, cluster_name.clone()).unwrap());
        let grants = Grants::start(Config { cluster_name, policy, service_accounts }, &cache, &context);
        Self { folder, context, mint, cache, grants }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("policy.yaml")
    }

    fn write(&self, policy: &str) {
        std::fs::write(self.path(), policy).unwrap();
    }

    async fn grant(&self, caller: &Caller, target: Option<&str>) -> Result<Grant, Refusal> {
        let identity = caller.subject().identity().unwrap();
        self.grants.verified(caller, identity, target, self.context.clock.now()).await
    }

    async fn ask(&self, service_account: &str) -> Found {
        let caller = pod_of(service_account);
        let grant = self.grant(&caller, None).await.unwrap();
        self.cache.credential(&caller, &grant, self.context.clock.now()).await.unwrap()
    }

    fn calls(&self) -> usize {
        self.mint.orders.load(Ordering::Relaxed)
    }

    fn shows(&self, line: &str) -> bool {
        self.context.metrics.encode().unwrap().lines().any(|shown| shown == line)
    }
}

/// An API server that nobody can ask.
fn nowhere() -> Arc<ApiServer> {
    let [token_file, ca_file] = ["token", "ca.crt"].map(|file| ["/nowhere", file].iter().collect());
    Arc::new(ApiServer { url: "https://127.0.0.1:1".parse().unwrap(), token_file, ca_file })
}

fn caller(subject: Subject) -> Caller {
    let token = BearerToken::parse(b"aaaaaaaaaa.bbbbbbbbbb.cccccccccc").unwrap();
    Caller::for_tests(subject, Presented { token, expires_at: Some(UNIX_EPOCH + 1100 * HOUR), token_id: "jti".into() })
}

fn pod_of(service_account: &str) -> Caller {
    caller(Subject::Verified(Identity {
        issuer: "https://issuer".into(),
        namespace: "default".into(),
        service_account: service_account.into(),
        service_account_uid: format!("{service_account}-uid"),
        pod: format!("{service_account}-0"),
        pod_uid: format!("{service_account}-pod-uid"),
        node: None,
    }))
}

/// A rule that leads the service account over Pod Identity to `role`.
fn rule(service_account: &str, role: &str) -> String {
    format!(
        "  - match: {{ namespace: default, serviceAccount: {service_account} }}\n    exchange: pod-identity\n    \
         chain: [ {{ role: 'arn:aws:iam::222222222222:role/{role}' }} ]\n    \
         targets: {{ alpha: {{ chain: [ {{ role: 'arn:aws:iam::333333333333:role/alpha' }} ] }} }}\n"
    )
}

fn policy(rules: &[String]) -> String {
    format!("rules:\n{}", rules.concat())
}

#[tokio::test(start_paused = true)]
async fn a_change_drops_what_it_changes_and_nothing_else() {
    let world = World::with(&policy(&[rule("app", "one"), rule("other", "one")]));
    for service_account in ["app", "other", "unruled"] {
        world.ask(service_account).await;
    }
    world.write(&policy(&[rule("app", "two"), rule("other", "one")]));
    tokio::time::sleep(NOTICED).await;
    assert!(world.shows("credlet_cache_evictions_total{cause=\"revoked\"} 1"));
    for (service_account, how) in [("other", How::Held), ("unruled", How::Held), ("app", How::Loaded)] {
        assert_eq!(world.ask(service_account).await.how, how, "{service_account}");
    }
    assert_eq!(world.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_another_agent_granted_by_another_policy_goes_once_this_one_serves() {
    let before = World::with(&policy(&[rule("app", "one"), rule("other", "one")]));
    let after = World::with(&policy(&[rule("other", "one")]));
    after.context.duty.set(false);
    for service_account in ["app", "other"] {
        before.ask(service_account).await;
    }
    before.cache.export().for_each(|entry| after.cache.import(&entry).unwrap());
    assert!(after.shows("credlet_cache_entries 2"));
    after.context.duty.set(true);
    tokio::time::sleep(NOTICED).await;
    assert!(after.shows("credlet_cache_evictions_total{cause=\"revoked\"} 1"));
    assert_eq!(after.ask("other").await.how, How::Held);
}

/// Nothing is known of the account, which nobody had to read: what a rule gave must not stay for want of an answer.
#[tokio::test(start_paused = true)]
async fn a_rule_that_is_gone_keeps_nothing_where_annotations_count() {
    let world = World::with_accounts_of(Some(nowhere()), &policy(&[rule("app", "one"), rule("other", "one")]));
    world.ask("app").await;
    world.ask("other").await;
    world.write(&policy(&[rule("other", "one")]));
    tokio::time::sleep(NOTICED).await;
    assert!(world.shows("credlet_cache_evictions_total{cause=\"revoked\"} 1"));
    assert_eq!(world.ask("other").await.how, How::Held);
}

/// What the agent before read of annotations stays, whatever changes for others.
#[tokio::test(start_paused = true)]
async fn what_annotations_gave_at_another_agent_stays_when_something_else_changes() {
    let rules = policy(&[rule("other", "one")]);
    let (before, after) = (World::with(&rules), World::with_accounts_of(Some(nowhere()), &rules));
    before.ask("app").await;
    before.cache.export().for_each(|entry| after.cache.import(&entry).unwrap());
    after.write(&policy(&[rule("other", "two")]));
    tokio::time::sleep(NOTICED).await;
    assert!(after.shows("credlet_cache_entries 1"));
    after.write(&policy(&[rule("app", "one")]));
    tokio::time::sleep(NOTICED).await;
    assert!(after.shows("credlet_cache_evictions_total{cause=\"revoked\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_bad_or_missing_file_changes_nothing_but_what_operators_see() {
    let good = policy(&[rule("app", "one")]);
    let world = World::with(&good);
    let before = world.ask("app").await.credential;
    let faults = || world.grants.status().policy.map_or(0, |policy| policy.faults.len());
    world.write("rules: [ { match: { namespace: x }, colour: red } ]");
    tokio::time::sleep(NOTICED).await;
    assert!(faults() > 1 && world.shows(&format!("credlet_policy_faults {}", faults())));
    assert!(world.context.readiness.advice()["policy"].contains("line 1: "));
    std::fs::remove_file(world.path()).unwrap();
    tokio::time::sleep(NOTICED).await;
    assert_eq!((faults(), world.shows("credlet_policy_faults 1")), (1, true));
    assert_eq!(world.ask("app").await.credential.access_key_id(), before.access_key_id());

    let loaded = world.context.metrics.policy.loaded.get();
    world.write(&good);
    tokio::time::sleep(NOTICED).await;
    assert!(world.shows("credlet_policy_faults 0") && faults() == 0 && world.context.readiness.advice().is_empty());
    assert!(world.context.metrics.policy.loaded.get() > loaded);
    assert_eq!(world.ask("app").await.credential.access_key_id(), before.access_key_id());
    assert_eq!(world.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_request_leaves_that_was_granted_before_a_change_goes_too() {
    let world = World::with(&policy(&[rule("app", "one")]));
    let caller = pod_of("app");
    let late = world.grant(&caller, None).await.unwrap();
    world.write(&policy(&[rule("app", "two")]));
    let loaded = world.context.metrics.policy.loaded.get();
    while world.context.metrics.policy.loaded.get() == loaded {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.cache.credential(&caller, &late, world.context.clock.now()).await.unwrap();
    assert!(world.shows("credlet_cache_entries 1"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(world.shows("credlet_cache_entries 0"));
}

#[tokio::test(start_paused = true)]
async fn a_target_is_its_own_callers_only() {
    let world = World::with(&policy(&[rule("app", "one")]));
    let (app, other) = (pod_of("app"), pod_of("other"));
    assert_eq!(world.grant(&app, Some("alpha")).await.unwrap().target(), Some("alpha"));
    assert_eq!(world.grant(&app, Some("alpha")).await.unwrap().target(), Some("alpha"), "recalled");
    assert_eq!(world.grant(&app, None).await.unwrap().target(), None);
    for (caller, target) in [(&app, "beta"), (&app, ""), (&other, "alpha")] {
        assert_eq!(world.grant(caller, Some(target)).await.unwrap_err().reason, Reason::NoTarget, "{target}");
    }
}

#[tokio::test(start_paused = true)]
async fn whom_aws_names_has_what_the_policy_gives_by_way_of_pod_identity() {
    let web = "  - match: { namespace: default, serviceAccount: web }\n    exchange: web-identity\n    \
               role: arn:aws:iam::222222222222:role/web\n";
    let world = World::with(&policy(&[rule("app", "one"), web.to_owned()]));
    let audience: Arc<str> = POD_IDENTITY_AUDIENCE.into();
    let confirm = async |service_account: &str, target: Option<&str>| {
        let named = Provenance { namespace: "default".into(), service_account: service_account.into(), ..Provenance::default() };
        world.grants.confirmed(&named, &audience, target, world.context.clock.now()).await.map_err(|refusal| refusal.reason)
    };
    assert_eq!(confirm("app", None).await.unwrap().chain().len(), 1);
    assert_eq!(confirm("app", Some("alpha")).await.unwrap().target(), Some("alpha"));
    let unruled = world.grants.unruled(&audience).unwrap();
    assert!(unruled.leads_on(), "one call for what it leads to as well");
    assert_eq!(confirm("other", None).await, Ok(unruled));
    assert_eq!(confirm("web", None).await, Err(Reason::NoRole));
    assert_eq!(confirm("other", Some("alpha")).await, Err(Reason::NoTarget));
}

#[tokio::test(start_paused = true)]
async fn a_sweep_does_not_hold_up_the_runtime() {
    let rules: Vec<String> =
        (0..10_000).map(|number| format!("  - match: {{ namespace: '*-{number}', serviceAccount: x }}\n")).collect();
    let world = World::with(&policy(&rules));
    for number in 0..20 {
        world.ask(&format!("app-{number}")).await;
    }
    let policy = world.grants.shared.memo.basis().policy;
    let (sweep, requests) = (world.grants.sweep(&world.cache, &policy), std::future::ready(()));
    tokio::select! {
        biased;
        () = sweep => panic!("all rules for each entry, before anyone else had a turn"),
        () = requests => (),
    }
}

#[tokio::test(start_paused = true)]
async fn what_aws_gave_for_a_token_stays_and_what_follows_from_it_may_go() {
    let world = World::with(&policy(&[rule("app", "one")]));
    let caller = caller(Subject::Delegated(TokenDigest::of(b"token")));
    let unruled = world.grants.unruled(caller.audience()).unwrap();
    let found = world.cache.credential(&caller, &unruled, world.context.clock.now()).await.unwrap();
    let now = world.context.clock.now();
    let chained = world.grants.confirmed(found.credential.provenance(), caller.audience(), None, now).await.unwrap();
    world.cache.credential(&caller, &chained, world.context.clock.now()).await.unwrap();
    world.write(&policy(&[rule("app", "two")]));
    tokio::time::sleep(NOTICED).await;
    assert!(world.shows("credlet_cache_evictions_total{cause=\"revoked\"} 1") && world.shows("credlet_cache_entries 1"));
    let found = world.cache.credential(&caller, &unruled, world.context.clock.now()).await.unwrap();
    assert_eq!(found.how, How::Held);
}
