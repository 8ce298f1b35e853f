//! Which pods of this node are gone, and since when their tokens are refused.
//!
//! A token is good until its `exp`, whether its pod lives or not. As the API server's own `TokenReview` does it, the pod's tokens
//! are refused from a minute after the pod was to be gone (Kubernetes `pkg/serviceaccount/claims.go`). Nothing is concluded of a
//! pod that nobody has told of: it may be newer than the last event.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use foldhash::quality::RandomState;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::base::clock::Now;

/// From when a pod was to be gone to when its tokens are refused.
const LEEWAY: Duration = Duration::from_secs(60);
/// A request that came before that has had its answer so long after it: what it left behind is dropped then.
const STRAGGLERS: Duration = Duration::from_secs(1);
/// Pods that are gone, remembered at once: those of a day, if a full node replaces all of its pods every ten minutes. The one whose
/// end is known for longest is forgotten first.
const MOST_GONE: usize = 16_384;

/// What the API server tells of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) uid: Box<str>,
    /// `deletionTimestamp`: when it is to be gone, its grace period included.
    pub(super) deletion: Option<SystemTime>,
}

/// What is known, as the next agent takes it over.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Known {
    /// UIDs of the pods that are there.
    present: Vec<Box<str>>,
    /// UIDs of those that are gone or going, and from when on their tokens are refused.
    gone: Vec<(Box<str>, SystemTime)>,
}

/// Pods that are there and pods that are gone.
#[derive(Debug, Default)]
pub(super) struct Departures {
    present: HashSet<Box<str>, RandomState>,
    gone: HashMap<Box<str>, Gone, RandomState>,
    /// Those of `gone` of which everything else is still to be dropped.
    unburied: HashSet<Box<str>, RandomState>,
    /// Present for a predecessor; the next list tells whether they still are.
    inherited: Vec<Box<str>>,
}

#[derive(Debug, Clone, Copy)]
struct Gone {
    refused_from: SystemTime,
    learned: Instant,
}

impl Departures {
    /// Whether the tokens of this pod are refused.
    pub(super) fn refuse(&self, uid: &str, now: Now) -> bool {
        self.gone.get(uid).is_some_and(|gone| gone.refused_from <= now.wall)
    }

    /// The pod is there, or still is.
    pub(super) fn seen(&mut self, Told { uid, deletion }: Told, now: Now) {
        match deletion {
            Some(deletion) => self.leaves(uid.clone(), deletion + LEEWAY, now),
            None => self.lives(&uid),
        }
        self.present.insert(uid);
    }

    /// The pod is there no more.
    pub(super) fn deleted(&mut self, Told { uid, deletion }: Told, now: Now) {
        self.present.remove(&uid);
        let known = self.gone.get(&uid).map(|gone| gone.refused_from);
        let told = deletion.unwrap_or(now.wall).min(now.wall) + LEEWAY;
        self.leaves(uid, known.map_or(told, |known| known.min(told)), now);
    }

    /// A list is about to be asked for: who was present before and is not in it is gone.
    pub(super) fn before_list(&mut self) {
        self.present.extend(self.inherited.drain(..));
    }

    /// These are all the pods of this node. Returns those that have gone unseen.
    pub(super) fn listed(&mut self, pods: Vec<Told>, now: Now) -> Vec<Box<str>> {
        let before = std::mem::take(&mut self.present);
        for pod in pods {
            self.seen(pod, now);
        }
        let vanished: Vec<Box<str>> = before.into_iter().filter(|uid| !self.present.contains(uid)).collect();
        for uid in &vanished {
            self.deleted(Told { uid: uid.clone(), deletion: None }, now);
        }
        vanished
    }

    /// When [`Departures::due`] has something to tell next.
    pub(super) fn next_due(&self) -> Option<SystemTime> {
        self.unburied.iter().filter_map(|uid| self.gone.get(uid)).map(|gone| gone.refused_from + STRAGGLERS).min()
    }

    /// Those whose tokens are refused by now, each once: nothing of them is of use any more.
    pub(super) fn due(&mut self, now: Now) -> Vec<Box<str>> {
        let gone = &self.gone;
        let is_due = |gone: &Gone| gone.refused_from + STRAGGLERS <= now.wall;
        self.unburied.extract_if(|uid| gone.get(uid).is_none_or(is_due)).collect()
    }

    /// How many are present, and how many gone or going.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.present.len(), self.gone.len())
    }

    pub(super) fn export(&self) -> Known {
        let gone = self.gone.iter().map(|(uid, gone)| (uid.clone(), gone.refused_from));
        Known { present: self.present.iter().chain(&self.inherited).cloned().collect(), gone: gone.collect() }
    }

    /// Takes over what another agent knew. What has been told here counts for more. Says whether a list has to tell which of its pods
    /// are still there.
    pub(super) fn import(&mut self, Known { present, gone }: Known, now: Now) -> bool {
        self.inherited.extend(present.into_iter().filter(|uid| !self.present.contains(uid)));
        for (uid, refused_from) in gone {
            if !self.gone.contains_key(&uid) && !self.present.contains(&uid) {
                self.leaves(uid, refused_from, now);
            }
        }
        !self.inherited.is_empty()
    }

    fn leaves(&mut self, uid: Box<str>, refused_from: SystemTime, now: Now) {
        if self.gone.len() >= MOST_GONE && !self.gone.contains_key(&uid) {
            self.forget_oldest();
        }
        let gone = self.gone.entry(uid.clone()).or_insert(Gone { refused_from, learned: now.mono });
        gone.refused_from = refused_from;
        self.unburied.insert(uid);
    }

    fn lives(&mut self, uid: &str) {
        self.gone.remove(uid);
        self.unburied.remove(uid);
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.gone.iter().min_by_key(|(_, gone)| gone.learned).map(|(uid, _)| uid.clone()) {
            self.lives(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);

    /// Departures, and a clock that stands a day after the epoch.
    struct Scene {
        departures: Departures,
        clock: Clock,
    }

    impl Scene {
        fn new() -> Self {
            Self { departures: Departures::default(), clock: Clock::simulated(SystemTime::UNIX_EPOCH + 86_400 * SECOND) }
        }

        fn now(&self) -> Now {
            self.clock.now()
        }

        /// A pod, to be gone so many seconds from now.
        fn told(&self, uid: &str, gone_in: Option<u32>) -> Told {
            Told { uid: uid.into(), deletion: gone_in.map(|seconds| self.now().wall + seconds * SECOND) }
        }

        fn refuses(&self, uid: &str) -> bool {
            self.departures.refuse(uid, self.now())
        }

        fn due(&mut self) -> Vec<Box<str>> {
            self.departures.due(self.now())
        }

        async fn pass(&self, seconds: u32) {
            tokio::time::advance(seconds * SECOND).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_refused_a_minute_after_the_pod_was_to_be_gone() {
        for (case, seen, deleted, passes) in [
            ("still terminating", Some(30), None, 90),
            ("gone in time", Some(30), Some(Some(30)), 60),
            ("gone, and told so only then", None, Some(Some(0)), 60),
            ("deleted by force", None, Some(None), 60),
        ] {
            let mut scene = Scene::new();
            let now = scene.now();
            scene.departures.seen(scene.told("a", seen), now);
            if let Some(deletion) = deleted {
                scene.departures.deleted(scene.told("a", deletion), now);
            }
            scene.pass(passes - 1).await;
            assert!(!scene.refuses("a"), "{case}");
            scene.pass(1).await;
            assert!(scene.refuses("a") && !scene.refuses("b"), "{case}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_told_late_counts_from_when_the_pod_was_to_be_gone() {
        let mut scene = Scene::new();
        let told = scene.told("a", Some(0));
        scene.pass(59).await;
        scene.departures.deleted(told, scene.now());
        assert!(!scene.refuses("a"));
        scene.pass(1).await;
        assert!(scene.refuses("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_deletion_may_shorten_the_first() {
        let mut scene = Scene::new();
        let now = scene.now();
        scene.departures.seen(scene.told("a", Some(3600)), now);
        scene.departures.seen(scene.told("a", Some(5)), now);
        scene.pass(65).await;
        assert!(scene.refuses("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_that_is_gone_is_due_once_and_after_whoever_came_last() {
        let mut scene = Scene::new();
        let now = scene.now();
        assert_eq!((scene.departures.next_due(), scene.due()), (None, vec![]));
        scene.departures.seen(scene.told("a", None), now);
        assert_eq!(scene.departures.next_due(), None);
        scene.departures.deleted(scene.told("a", None), now);
        assert_eq!(scene.departures.next_due(), Some(now.wall + 61 * SECOND));
        scene.pass(60).await;
        assert!(scene.due().is_empty());
        scene.pass(1).await;
        assert_eq!(scene.due(), [Box::from("a")]);
        assert_eq!((scene.departures.next_due(), scene.due()), (None, vec![]));
        assert!(scene.refuses("a"), "for as long as it is remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_tells_who_went_unseen_and_who_is_new() {
        let mut scene = Scene::new();
        let now = scene.now();
        let pods = |scene: &Scene, uids: &[&str]| uids.iter().map(|uid| scene.told(uid, None)).collect();
        assert!(scene.departures.listed(pods(&scene, &["a", "b"]), now).is_empty());
        assert_eq!(scene.departures.listed(pods(&scene, &["b", "c"]), now), [Box::from("a")]);
        assert_eq!(scene.departures.count(), (2, 1));
        scene.pass(60).await;
        assert_eq!(["a", "b", "c", "new"].map(|uid| scene.refuses(uid)), [true, false, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_seen_alive_is_not_gone() {
        let mut scene = Scene::new();
        let now = scene.now();
        scene.departures.deleted(scene.told("a", None), now);
        scene.departures.seen(scene.told("a", None), now);
        scene.pass(3600).await;
        assert!(!scene.refuses("a") && scene.due().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let mut scene = Scene::new();
        for number in 0..=MOST_GONE {
            scene.departures.deleted(scene.told(&number.to_string(), None), scene.now());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        scene.pass(61).await;
        assert_eq!((scene.departures.count(), scene.due().len()), ((0, MOST_GONE), MOST_GONE));
        assert!(!scene.refuses("0") && scene.refuses("1") && scene.refuses(&MOST_GONE.to_string()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_successor_knows_who_is_gone_and_notices_who_went_meanwhile() {
        let (mut before, mut after) = (Scene::new(), Scene::new());
        let now = before.now();
        for uid in ["stays", "goes", "gone"] {
            before.departures.seen(before.told(uid, None), now);
        }
        before.departures.deleted(before.told("gone", None), now);
        after.departures.import(before.departures.export(), now);
        after.departures.before_list();
        assert_eq!(after.departures.listed(vec![after.told("stays", None)], now), [Box::from("goes")]);
        after.pass(60).await;
        assert_eq!(["stays", "goes", "gone"].map(|uid| after.refuses(uid)), [false, true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_inherited_while_a_list_is_under_way_is_none_of_its_business() {
        let mut scene = Scene::new();
        scene.departures.before_list();
        scene.departures.import(Known { present: vec!["new".into()], gone: Vec::new() }, scene.now());
        assert!(scene.departures.listed(Vec::new(), scene.now()).is_empty());
    }
}
