//! Whether a pod notices what another one does to the agent of their node (R8), wherever the two are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use credlet::base::clock::Clock;
use credlet::domain::policy::POD_IDENTITY_AUDIENCE;
use credlet::sim::cloud::Cloud;
use credlet::sim::iam::role::Role;
use credlet::sim::pod::PodSpec;
use credlet::sim::script::Operation;
use strum::IntoEnumIterator;

use crate::harness::abuse::{Abuse, Place, TARGETS};
use crate::harness::agent::Agent;

/// What R8 promises a neighbour, of a release build. A debug build is several times slower and shares its cores with its abuser,
/// the simulated AWS and whatever else is tested, so that milliseconds tell of those; what no answer may take there either is the
/// deadline of all answers.
const P99: Duration = Duration::from_millis(if cfg!(debug_assertions) { 900 } else { 5 });
/// How long each abuse lasts.
const EACH: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1_500 } else { 10_000 });
/// Memory that stays with the agent after all of it: allocator's pages, buckets, the audit's and the memo's entries. In KiB.
const GROWTH: u64 = 12 * 1024;
/// However many keys are not known.
const BETWEEN_FETCHES: Duration = Duration::from_secs(30);

/// The policy by which service account `default/abuser` has as many targets, in `folder`; their roles are put into `cloud`.
pub(crate) fn policy(cloud: &Cloud, folder: &Path) -> anyhow::Result<PathBuf> {
    let chain = |number| format!("      target-{number}: {{ chain: [ {{ role: '{}' }} ] }}\n", role(number));
    let targets: String = (0..TARGETS).map(chain).collect();
    let rule = "- match: { namespace: default, serviceAccount: abuser }\n    exchange: pod-identity\n    targets:\n";
    let path = folder.join("policy.yaml");
    std::fs::write(
        &path,
        format!("rules:\n  {rule}{targets}  - match: {{ namespace: '*', serviceAccount: '*' }}\n    exchange: pod-identity\n"),
    )?;
    for number in 0..TARGETS {
        cloud.put_role(Role::new(&role(number), TRUST)?);
    }
    Ok(path)
}

fn role(number: usize) -> String {
    format!("arn:aws:iam::222222222222:role/target-{number}")
}

/// By which the roles of all associations may assume a role.
const TRUST: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},
    "Action":["sts:AssumeRole","sts:TagSession"]}]}"#;

/// The tokens of an abuser and of its neighbour.
pub(crate) fn tokens(cloud: &Cloud) -> [String; 2] {
    ["abuser", "app"].map(|service_account| {
        let pod = PodSpec::new("default", service_account, &format!("{service_account}-0"));
        cloud.keys().token(&pod, POD_IDENTITY_AUDIENCE, Duration::from_secs(86_400))
    })
}

/// Whether `neighbour` notices nothing while `abuser` does all it can, and what AWS and the agent's memory notice.
pub(crate) async fn prove(agent: &Agent, cloud: &Cloud, [abuser, neighbour]: [&Place; 2]) -> anyhow::Result<()> {
    for place in [abuser, neighbour] {
        let first = place.ask_for(EACH / 5).await?;
        ensure!(first.failed == 0, "{first:?}");
    }
    let (before, begun) = (agent.resident()?, Clock::System.now().mono);
    for abuse in Abuse::iter() {
        let at_work = abuser.begin(abuse)?;
        let notice = neighbour.ask_for(EACH).await?;
        let deeds = at_work.end()?;
        println!("{abuse:?}: {deeds:?}; {notice:?}");
        ensure!(deeds.reaches(abuse.least()), "{abuse:?} is none with {deeds:?}");
        ensure!(notice.failed == 0 && notice.p99 <= P99, "{abuse:?}: {notice:?}");
    }
    let after = agent.resident()?;
    println!("resident before {before} KiB, after {after} KiB");
    ensure!(after <= before + GROWTH, "{before} KiB before, {after} KiB after");
    let calls = [Operation::EksAuth, Operation::AssumeRole].map(|operation| cloud.count(operation));
    ensure!(calls[0] == 2 && calls[1] <= TARGETS, "one call a pod, and one a target: {calls:?}");
    let (fetches, took) = (cloud.count(Operation::Jwks), Clock::System.now().mono - begun);
    let most = 2 + took.as_secs() / BETWEEN_FETCHES.as_secs();
    ensure!(
        u64::try_from(fetches)? <= most,
        "{fetches} fetches of keys within {took:?}, for one at the start and one each half a minute"
    );
    Ok(())
}
