//! One list of this node's pods, and a watch from there on that is taken up again wherever it breaks off.
//!
//! Metadata only, of which UID and `deletionTimestamp` are kept. The list is a consistent read: one from a cache that lags behind
//! could lack a pod that runs. A version that the API server has forgotten (410) leads to a new list, everything else to another
//! watch from the last version, so that an API server that comes back is asked for little.

use std::convert::Infallible;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1;
use kube::Api;
use kube::api::{ListParams, ObjectList, PartialObjectMeta, WatchEvent, WatchParams};
use tokio::time::{sleep, timeout};

use crate::base::backoff::doubled;
use crate::cluster::client::{FetchError, connect};
use crate::cluster::pods::departures::Told;
use crate::cluster::pods::{Config, Shared};

type Pod = PartialObjectMeta<v1::Pod>;

/// Until the API server begins to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// The longest time without an event. The API server sends a bookmark about every minute, so a connection is dead that says nothing
/// for longer; one from which none come is opened anew as often.
const SILENCE: Duration = Duration::from_secs(100);
/// Full-jitter pause after a watch that ended: up to this, doubling with each failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The version is forgotten (410), or the API server has not come so far yet, having lost some of its state (504).
const LOST_VERSIONS: [u16; 2] = [410, 504];

/// Follows the pods of this node for as long as it is polled.
pub(super) async fn follow(shared: &Shared) {
    let (mut version, mut failures) = (None, 0_u32);
    loop {
        let ended = tokio::select! {
            ended = session(shared, &mut version, &mut failures) => ended,
            () = shared.inherited.notified() => {
                version = None;
                continue;
            }
        };
        let Err(error) = ended;
        if matches!(error, FetchError::Status { code, .. } if LOST_VERSIONS.contains(&code)) {
            version = None;
        }
        shared.lost(&error);
        sleep(pause(failures)).await;
        failures = failures.saturating_add(1);
    }
}

/// Whether the agent may do what the watch does.
pub(super) async fn try_once(config: &Config) -> Result<(), FetchError> {
    let pods = api(config)?;
    let version = version_of(&list(config, &pods).await?)?;
    watch(config, &pods, &version).await.map(drop)
}

/// Watches over one client, until something fails.
async fn session(shared: &Shared, version: &mut Option<String>, failures: &mut u32) -> Result<Infallible, FetchError> {
    let pods = api(&shared.config)?;
    loop {
        let from = match version.take() {
            Some(known) => known,
            None => relist(shared, &pods).await?,
        };
        *version = Some(from.clone());
        let mut events = pin!(watch(&shared.config, &pods, &from).await?);
        shared.synced();
        *failures = 0;
        while let Some(event) = within(SILENCE, events.next()).await? {
            if let Some(now_at) = take(shared, event?)? {
                *version = Some(now_at);
            }
        }
        sleep(pause(0)).await;
    }
}

async fn relist(shared: &Shared, pods: &Api<v1::Pod>) -> Result<String, FetchError> {
    shared.before_list();
    let list = list(&shared.config, pods).await?;
    let version = version_of(&list)?;
    shared.listed(list.items.into_iter().filter_map(told).collect());
    Ok(version)
}

async fn list(config: &Config, pods: &Api<v1::Pod>) -> Result<ObjectList<Pod>, FetchError> {
    let parameters = ListParams::default().fields(&of_node(config));
    Ok(within(ANSWER, pods.list_metadata(&parameters)).await??)
}

async fn watch(
    config: &Config,
    pods: &Api<v1::Pod>,
    from: &str,
) -> Result<impl Stream<Item = kube::Result<WatchEvent<Pod>>> + use<>, FetchError> {
    let parameters = WatchParams::default().fields(&of_node(config));
    Ok(within(ANSWER, pods.watch_metadata(&parameters, from)).await??)
}

async fn within<T>(limit: Duration, answer: impl Future<Output = T>) -> Result<T, FetchError> {
    timeout(limit, answer).await.map_err(|_| FetchError::Silent(limit))
}

/// What an event changes; the version that it leads to.
fn take(shared: &Shared, event: WatchEvent<Pod>) -> Result<Option<String>, FetchError> {
    let version = match event {
        WatchEvent::Added(mut pod) | WatchEvent::Modified(mut pod) => {
            let version = pod.metadata.resource_version.take();
            told(pod).into_iter().for_each(|told| shared.seen(told));
            version
        }
        WatchEvent::Deleted(mut pod) => {
            let version = pod.metadata.resource_version.take();
            told(pod).into_iter().for_each(|told| shared.deleted(told));
            version
        }
        WatchEvent::Bookmark(bookmark) => Some(bookmark.metadata.resource_version),
        WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
    };
    Ok(version)
}

fn told(pod: Pod) -> Option<Told> {
    let deletion = pod.metadata.deletion_timestamp.map(|time| SystemTime::from(time.0));
    Some(Told { uid: pod.metadata.uid?.into(), deletion })
}

fn api(config: &Config) -> Result<Api<v1::Pod>, FetchError> {
    Ok(Api::all(connect(&config.server)?))
}

fn version_of(list: &ObjectList<Pod>) -> Result<String, FetchError> {
    list.metadata.resource_version.clone().ok_or(FetchError::Incomplete)
}

fn of_node(config: &Config) -> String {
    format!("spec.nodeName={}", config.node_name)
}

fn pause(failures: u32) -> Duration {
    doubled(FIRST_PAUSE, failures.saturating_add(1), LONGEST_PAUSE).mul_f64(rand::random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_minute() {
        for (failures, longest) in [(0, 1), (1, 2), (4, 16), (5, 30), (40, 30)] {
            assert!((0..100).all(|_| pause(failures) <= Duration::from_secs(longest)), "{failures}");
        }
        assert!((0..100).any(|_| pause(5) > Duration::from_secs(10)));
    }
}
