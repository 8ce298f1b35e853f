//! Connections judged by their source, over a kernel of the test's own making.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::advance;

use super::*;
use crate::base::clock::Clock;
use crate::node::source::kernel::LookupError;
use crate::node::source::memory::LIFE;
use crate::node::source::origins::{KEPT, LIMIT, PLACES};

const PEER: &str = "192.0.2.1:4711";

/// What a scripted kernel says of everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// Nothing yet.
    Nothing,
    Own,
    Foreign,
    Fails,
}

#[derive(Debug, Clone)]
pub(super) struct Script {
    says: watch::Receiver<Says>,
    asked: Arc<AtomicUsize>,
}

impl Script {
    /// Has everybody for a process of the node.
    pub(super) fn own() -> Self {
        Self { says: watch::channel(Says::Own).1, asked: Arc::default() }
    }

    pub(super) async fn origin(&self) -> Result<Origin, LookupError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let says = *self.says.clone().wait_for(|says| *says != Says::Nothing).await.unwrap();
        match says {
            Says::Own => Ok(Origin::Own(Place::Node)),
            Says::Foreign => Ok(Origin::Foreign("eth0".into())),
            Says::Nothing | Says::Fails => Err(LookupError::Lacks("a route")),
        }
    }
}

/// A check and the kernel that it asks.
struct Scene {
    check: Arc<SourceCheck>,
    kernel: watch::Sender<Says>,
    script: Script,
}

impl Scene {
    fn new(mode: Mode, says: Says) -> Self {
        let (kernel, says) = watch::channel(says);
        let script = Script { says, asked: Arc::default() };
        let check = SourceCheck::with(mode, Kernel::Script(script.clone()), &Context::new(Clock::System));
        Self { check: Arc::new(check), kernel, script }
    }

    async fn admit(&self, peer: &str) -> Result<(), Reason> {
        self.check.admit(peer.parse().unwrap()).await
    }

    /// Admits a peer who must not have to wait for it.
    fn admit_at_once(&self, peer: &str) -> Result<(), Reason> {
        self.admit(peer).now_or_never().expect("it waits")
    }

    fn asked(&self) -> usize {
        self.script.asked.load(Ordering::Relaxed)
    }

    /// How often was counted that a connection is `foreign`, and `unknown`.
    fn counted(&self) -> [usize; 2] {
        let text = self.check.context.metrics.encode().unwrap();
        ["foreign", "unknown"].map(|finding| {
            let name = format!("credlet_source_observed_total{{finding=\"{finding}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
        })
    }

    /// Lets what was begun come to its end.
    async fn settle(&self) {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn processes_of_the_node_are_its_own() {
    for mode in [Mode::Off, Mode::Observe, Mode::Enforce] {
        let context = Context::new(Clock::System);
        let check = Arc::new(SourceCheck::new(mode, &context));
        for peer in ["127.0.0.1:1", "127.3.2.1:1", "[::ffff:127.0.0.1]:1", "[::1]:1"] {
            assert_eq!(check.admit(peer.parse().unwrap()).await, Ok(()), "{mode:?} {peer}");
        }
        context.tasks.shutdown();
        context.tasks.drained().await;
        assert!(!context.metrics.encode().unwrap().contains("source_observed_total{"));
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_observed_is_served_at_once_and_counted_later() {
    let scene = Scene::new(Mode::Observe, Says::Nothing);
    assert_eq!(scene.admit_at_once(PEER), Ok(()));
    scene.settle().await;
    assert_eq!((scene.asked(), scene.counted()), (1, [0, 0]));
    scene.kernel.send_replace(Says::Foreign);
    scene.settle().await;
    assert_eq!(scene.counted(), [1, 0]);
    assert_eq!((scene.admit_at_once(PEER), scene.counted(), scene.asked()), (Ok(()), [2, 0], 1), "from memory");
}

#[tokio::test(start_paused = true)]
async fn observing_counts_as_unknown_whom_enforcing_would_close_for_it() {
    for says in [Says::Nothing, Says::Fails] {
        let scene = Scene::new(Mode::Observe, says);
        assert_eq!(scene.admit_at_once(PEER), Ok(()));
        scene.settle().await;
        advance(LIMIT).await;
        scene.settle().await;
        assert_eq!(scene.counted(), [0, 1], "{says:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn look_ups_under_way_are_bounded() {
    let scene = Scene::new(Mode::Observe, Says::Nothing);
    let peer = |number: usize| format!("10.0.{}.{}:1", number / 256, number % 256);
    for number in 0..PLACES {
        assert_eq!(scene.admit_at_once(&peer(number)), Ok(()));
    }
    assert_eq!(scene.counted(), [0, 0]);
    assert_eq!((scene.admit_at_once(PEER), scene.counted()), (Ok(()), [0, 1]));
    scene.kernel.send_replace(Says::Own);
    scene.settle().await;
    assert_eq!(scene.asked(), PLACES);
    assert_eq!((scene.admit_at_once(PEER), scene.admit_at_once(&peer(0))), (Ok(()), Ok(())));
    scene.settle().await;
    assert_eq!((scene.asked(), scene.counted()), (PLACES + 1, [0, 1]), "there are places again");
}

#[tokio::test(start_paused = true)]
async fn connections_of_one_peer_share_a_look_up_and_its_failure() {
    let scene = Scene::new(Mode::Observe, Says::Nothing);
    for _ in 0..=PLACES {
        assert_eq!(scene.admit_at_once(PEER), Ok(()));
    }
    assert_eq!((scene.admit_at_once("192.0.2.2:1"), scene.counted()), (Ok(()), [0, 0]), "others have their places");
    scene.kernel.send_replace(Says::Fails);
    scene.settle().await;
    assert_eq!((scene.asked(), scene.counted()), (2, [0, PLACES + 2]));
    scene.kernel.send_replace(Says::Own);
    assert_eq!(scene.admit_at_once(PEER), Ok(()));
    scene.settle().await;
    assert_eq!((scene.asked(), scene.counted()), (3, [0, PLACES + 2]), "a failure is of those who waited for it");
}

#[tokio::test(start_paused = true)]
async fn enforcing_closes_who_is_foreign_or_unknown() {
    let scene = Scene::new(Mode::Enforce, Says::Foreign);
    assert_eq!(scene.admit(PEER).await, Err(Reason::SourceForeign));
    scene.kernel.send_replace(Says::Fails);
    assert_eq!(scene.admit("192.0.2.2:1").await, Err(Reason::SourceUnknown));
    scene.kernel.send_replace(Says::Own);
    assert_eq!(scene.admit("192.0.2.2:1").await, Ok(()), "a failure is not remembered");
    assert_eq!(scene.counted(), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn the_last_verdict_stands_while_the_kernel_is_late_or_fails() {
    for says in [Says::Nothing, Says::Fails] {
        let scene = Scene::new(Mode::Enforce, Says::Own);
        assert_eq!(scene.admit(PEER).await, Ok(()));
        scene.kernel.send_replace(says);
        advance(LIFE).await;
        assert_eq!(scene.admit(PEER).await, Ok(()), "{says:?}");
        assert_eq!(scene.admit("192.0.2.2:1").await, Err(Reason::SourceUnknown), "{says:?}");
        advance(KEPT).await;
        assert_eq!(scene.admit(PEER).await, Err(Reason::SourceUnknown), "{says:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_up_goes_on_for_the_next_connection() {
    let scene = Scene::new(Mode::Enforce, Says::Nothing);
    for _ in 0..3 {
        assert_eq!(scene.admit(PEER).await, Err(Reason::SourceUnknown));
    }
    scene.kernel.send_replace(Says::Own);
    scene.settle().await;
    assert_eq!((scene.admit_at_once(PEER), scene.asked()), (Ok(()), 1));
}

#[test]
fn a_peer_is_its_address_and_for_a_link_local_one_its_link() {
    let of = |text: &str| Peer::from(text.parse::<SocketAddr>().unwrap());
    assert_eq!(of("[fe80::1%7]:80"), Peer { address: "fe80::1".parse().unwrap(), link: 7 });
    assert_eq!(of("[2001:db8::1%7]:80"), Peer { address: "2001:db8::1".parse().unwrap(), link: 0 });
    assert_eq!(of("[::ffff:192.0.2.1]:80"), of(PEER));
}

#[test]
fn modes_are_spelled_as_the_flag_spells_them() {
    assert_eq!("enforce".parse(), Ok(Mode::Enforce));
    assert_eq!(<&str>::from(Mode::Observe), "observe");
    assert!("Off".parse::<Mode>().is_err());
}
