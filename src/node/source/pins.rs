//! The addresses by which each pod is known: those that used its tokens first.
//!
//! An address is a pod's by its first use. Others are added as far as the kernel's routes speak for it: behind a link that leads to
//! this pod alone, and on the node itself, they are the pod's own; behind a link that many pods share, or one of which nothing is
//! known, one of each family is. What is remembered is bounded by pods that exist, never by what one of them does: only a verified
//! token makes a pod known, and a pod has a few addresses.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::SystemTime;

use foldhash::quality::RandomState;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::base::clock::Now;
use crate::node::source::Place;

/// Addresses of one pod: two of each family. One more is somebody else's.
const MOST_ADDRESSES: usize = 4;

/// Pods remembered, many times those of any node. With one more those go whose tokens have ended, and else the one that has been
/// quiet for longest.
const MOST_PODS: usize = 4_096;

/// One use of a pod's token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use<'a> {
    pub(super) pod_uid: &'a str,
    pub(super) source: IpAddr,
    /// When the token ends.
    pub(super) until: SystemTime,
    pub(super) at: Now,
}

/// What is known of one pod, as the next agent takes it over.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pinned {
    pod_uid: Box<str>,
    place: Option<Place>,
    addresses: Vec<IpAddr>,
    until: SystemTime,
}

/// All pods.
#[derive(Debug, Default)]
pub(super) struct Pins {
    pods: HashMap<Box<str>, Pod, RandomState>,
}

#[derive(Debug)]
struct Pod {
    /// Where its first use came from; `None` if the kernel did not tell.
    place: Option<Place>,
    /// Canonical, in the order of their first use.
    addresses: Vec<IpAddr>,
    /// When its newest token ends.
    until: SystemTime,
    used_at: Instant,
}

impl Pins {
    /// Whether the pod is known by this very address.
    pub(super) fn know(&mut self, used: &Use<'_>) -> bool {
        let Some(pod) = self.pods.get_mut(used.pod_uid) else { return false };
        let known = pod.addresses.contains(&used.source);
        if known {
            pod.until = pod.until.max(used.until);
            pod.used_at = used.at.mono;
        }
        known
    }

    /// Makes the source one of the pod's addresses if it can be one. `place` is where it is, as far as that is known.
    pub(super) fn pin(&mut self, used: &Use<'_>, place: Option<Place>) -> bool {
        if let Some(pod) = self.pods.get_mut(used.pod_uid) {
            return pod.addresses.contains(&used.source) || pod.add(used.source, place.as_ref());
        }
        let pod = Pod { place, addresses: vec![used.source], until: used.until, used_at: used.at.mono };
        self.insert(used.pod_uid.into(), pod, used.at);
        true
    }

    /// The pod is gone, and its tokens are refused.
    pub(super) fn forget(&mut self, pod_uid: &str) {
        self.pods.remove(pod_uid);
    }

    pub(super) fn export(&self) -> Vec<Pinned> {
        self.pods.iter().map(|(uid, pod)| pod.export(uid)).collect()
    }

    /// Takes over what another agent knew. A pod that is known here has from it what it could have got here.
    pub(super) fn import(&mut self, pinned: Vec<Pinned>, now: Now) {
        for Pinned { pod_uid, place, mut addresses, until } in pinned.into_iter().filter(|pinned| pinned.until > now.wall) {
            if let Some(pod) = self.pods.get_mut(&pod_uid) {
                pod.until = pod.until.max(until);
                addresses.retain(|address| !pod.addresses.contains(address));
                for address in addresses {
                    pod.add(address, place.as_ref());
                }
            } else {
                addresses.truncate(MOST_ADDRESSES);
                self.insert(pod_uid, Pod { place, addresses, until, used_at: now.mono }, now);
            }
        }
    }

    fn insert(&mut self, pod_uid: Box<str>, pod: Pod, now: Now) {
        if self.pods.len() >= MOST_PODS {
            self.pods.retain(|_, pod| pod.until > now.wall);
        }
        if self.pods.len() >= MOST_PODS
            && let Some(quietest) = self.pods.iter().min_by_key(|(_, pod)| pod.used_at).map(|(uid, _)| uid.clone())
        {
            self.pods.remove(&quietest);
        }
        self.pods.insert(pod_uid, pod);
    }
}

impl Pod {
    fn export(&self, pod_uid: &str) -> Pinned {
        let (place, addresses) = (self.place.clone(), self.addresses.clone());
        Pinned { pod_uid: pod_uid.into(), place, addresses, until: self.until }
    }

    fn add(&mut self, source: IpAddr, place: Option<&Place>) -> bool {
        let adds = self.addresses.len() < MOST_ADDRESSES && self.can_have(source, place);
        if adds {
            self.addresses.push(source);
        }
        adds
    }

    fn can_have(&self, source: IpAddr, place: Option<&Place>) -> bool {
        match (&self.place, place) {
            (Some(own), Some(other)) if own != other => false,
            (Some(Place::Node | Place::Pod(_)), Some(_)) => true,
            _ => !self.addresses.iter().any(|known| known.is_ipv4() == source.is_ipv4()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::Clock;
    use crate::node::source::LinkName;

    const LIFE: Duration = Duration::from_secs(86_400);

    fn link(name: &str) -> Option<Place> {
        Some(Place::Pod(LinkName(name.into())))
    }

    /// Uses the token of pod `uid`; `Ok` if it is known or becomes so.
    fn used(pins: &mut Pins, uid: &str, source: &str, place: Option<Place>) -> bool {
        let at = Clock::System.now();
        let used = Use { pod_uid: uid, source: source.parse().unwrap(), until: at.wall + LIFE, at };
        pins.know(&used) || pins.pin(&used, place)
    }

    #[test]
    fn what_may_be_added_to_the_first_address() {
        let shared = Some(Place::Shared);
        let v4 = [("192.0.2.1", true), ("192.0.2.2", false)];
        let both = [("192.0.2.1", true), ("2001:db8::1", true), ("192.0.2.2", false), ("2001:db8::2", false)];
        for (case, place, uses) in [
            ("a pod's own link", link("eni1"), &[("192.0.2.1", true), ("192.0.2.2", true), ("2001:db8::1", true)][..]),
            ("the node", Some(Place::Node), &[("169.254.170.23", true), ("127.0.0.1", true), ("fd00:ec2::23", true)]),
            ("a bridge", shared.clone(), &v4),
            ("a bridge with both families", shared, &both),
            ("the kernel does not tell", None, &both),
        ] {
            let mut pins = Pins::default();
            for (source, expected) in uses {
                assert_eq!(used(&mut pins, "a", source, place.clone()), *expected, "{case}: {source}");
            }
        }
    }

    #[test]
    fn another_pods_place_is_none_of_its_own() {
        for (first, other) in [
            (link("eni1"), link("eni2")),
            (link("eni1"), Some(Place::Node)),
            (Some(Place::Node), link("eni1")),
            (Some(Place::Node), Some(Place::Shared)),
            (Some(Place::Shared), Some(Place::Node)),
        ] {
            let mut pins = Pins::default();
            assert!(used(&mut pins, "a", "192.0.2.1", first.clone()));
            for source in ["192.0.2.2", "2001:db8::2"] {
                assert!(!used(&mut pins, "a", source, other.clone()), "{first:?} {other:?}");
            }
            assert!(used(&mut pins, "a", "192.0.2.1", other), "its own address stays its own");
            assert!(used(&mut pins, "b", "192.0.2.2", first), "and every pod has its own first use");
        }
    }

    #[test]
    fn a_fifth_address_is_somebody_elses() {
        let mut pins = Pins::default();
        for number in 1..=4 {
            assert!(used(&mut pins, "a", &format!("192.0.2.{number}"), link("eni1")));
        }
        for _ in 0..2 {
            assert!(!used(&mut pins, "a", "192.0.2.5", link("eni1")));
            assert!(used(&mut pins, "a", "192.0.2.1", link("eni1")));
        }
        pins.forget("a");
        assert!(used(&mut pins, "a", "192.0.2.5", link("eni1")));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_in_use_stays_however_many_pods_come() {
        let (mut pins, clock) = (Pins::default(), Clock::simulated(SystemTime::UNIX_EPOCH + LIFE));
        let mut used = |uid: &str, until: Duration| {
            let at = clock.now();
            let used = Use { pod_uid: uid, source: "192.0.2.1".parse().unwrap(), until: at.wall + until, at };
            let known = pins.know(&used);
            pins.pin(&used, None);
            (known, pins.pods.len())
        };
        used("mine", LIFE);
        used("short", Duration::from_secs(600));
        for number in 0..MOST_PODS + 500 {
            tokio::time::advance(Duration::from_millis(1)).await;
            let (_, kept) = used(&format!("pod-{number}"), LIFE);
            assert!(kept <= MOST_PODS);
            if number % 250 == 0 {
                assert!(used("mine", LIFE).0);
            }
        }
        assert!(!used("short", LIFE).0 && used("mine", LIFE).0);
    }

    #[test]
    fn a_successor_takes_over_what_it_has_not_seen_and_what_can_still_be_used() {
        let (mut before, mut after) = (Pins::default(), Pins::default());
        assert!(used(&mut before, "a", "192.0.2.1", link("eni1")) && used(&mut before, "b", "192.0.2.2", link("eni2")));
        assert!(used(&mut before, "c", "192.0.2.3", Some(Place::Shared)));
        assert!(used(&mut after, "b", "192.0.2.9", link("eni2")) && used(&mut after, "c", "192.0.2.8", Some(Place::Shared)));
        let mut now = Clock::System.now();
        after.import(before.export(), now);
        assert!(!used(&mut after, "a", "192.0.2.7", link("eni7")) && used(&mut after, "a", "192.0.2.1", None));
        let addresses =
            |uid, expected: &[&str]| after.pods[uid].addresses.iter().map(IpAddr::to_string).eq(expected.iter().copied());
        assert!(addresses("b", &["192.0.2.9", "192.0.2.2"]), "the link is its own");
        assert!(addresses("c", &["192.0.2.8"]), "many share the link, and what was seen here counts");
        now.wall += 2 * LIFE;
        let mut late = Pins::default();
        late.import(before.export(), now);
        assert!(late.pods.is_empty());
    }
}
