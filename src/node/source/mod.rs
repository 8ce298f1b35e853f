//! Whether a connection comes from this node: from one of its pods, or from a process of its own.
//!
//! Linux answers for each of its addresses on every link. A neighbour that routes 169.254.170.23 at the node so reaches the
//! agent, and a token that it has stolen would work there as in the pod.
//!
//! What counts is the kernel's route back to the peer, not what the packets say: a handshake is completed only by whoever that
//! route leads to, so a spoofed source address gains nothing. A peer is this node's own if the route back leads
//!
//! - to the node itself;
//! - over one end of a `veth` or `netkit` pair whose other end is in another network namespace, by a route to this peer alone and
//!   no gateway (VPC CNI, Calico, ptp, kubenet of GKE, Azure, Cilium with endpoint routes). A subnet behind such a link is a
//!   network of somebody else;
//! - over a pair with both its ends in this namespace, by a route to a subnet in which the node itself has the address that the
//!   route names (Cilium without endpoint routes: `cilium_host`, behind which programs of the kernel deliver to the pods). The
//!   subnets of other nodes lead over the same link, but hold no address of this one;
//! - over a `bridge` without a gateway, if all of the bridge's ports are pairs whose other end is in another namespace (bridge
//!   plugin, flannel, kube-router).
//!
//! Everything else is foreign: a link of any other kind (a network card, a bond, a VLAN, a tunnel), one that a default route of
//! the main table leads over, a gateway that is not the node itself, and several links at once.
//!
//! The limits of it: rules that route by marks or by the agent's own address are not taken into account; a connection that is
//! proxied or translated on the node (a proxy with hostNetwork, a userland `NodePort`, a pod that forwards) bears the address of
//! the node or of that pod, and is own; an IPv6 peer that uses its link-local address is looked for on the link that it came over,
//! where it is own only behind a bridge; the pods of Open vSwitch (Antrea, OVN-Kubernetes) are foreign, for the ports of its
//! switches can't be told from a network card; a Cilium that routes the whole cluster at once (`single-cluster-route`) has all of
//! its pods taken for own ones.
//!
//! An answer counts for seconds. When a new one is late or can't be had, the last one stands for a minute: who changes links by
//! the hundred holds up every question about them. A peer of which nothing is known then is closed by [`Mode::Enforce`], which was
//! switched on for the sake of those that nobody vouches for; a pod asks again.

pub mod binding;
mod kernel;
mod memory;
mod origins;
mod pins;
mod route;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

use crate::base::bucket::Bucket;
use crate::domain::refusal::Reason;
use crate::node::source::kernel::Kernel;
use crate::node::source::origins::{Answer, Judgement, Origins};
use crate::observe::Context;
use crate::observe::metrics::Finding;

/// What is done about connections from elsewhere (`--source-check`), and about tokens (`--source-binding`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum Mode {
    /// Nobody looks.
    Off,
    /// They are served, and meanwhile counted and logged.
    Observe,
    /// Connections are closed without an answer, tokens are refused.
    Enforce,
}

/// Judges connections by where they come from.
#[derive(Debug)]
pub struct SourceCheck {
    mode: Mode,
    origins: Arc<Origins>,
    context: Context,
    foreign_lines: Mutex<Bucket>,
    unknown_lines: Mutex<Bucket>,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Peer {
    address: IpAddr,
    /// The index of the link that a link-local IPv6 address belongs to; else 0.
    link: u32,
}

/// Where a peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Own(Place),
    /// Beyond the link of this name.
    Foreign(Arc<str>),
}

/// Where on this node a peer is, as far as links tell pods apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Place {
    /// On the node itself: a process of its own, a pod with hostNetwork.
    Node,
    /// Behind a link that leads to one pod alone.
    Pod(LinkName),
    /// Behind a link that leads to many pods.
    Shared,
}

/// The name of a link. Networks that name it after its pod keep it when the pod's sandbox is made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Box<str>", into = "Box<str>")]
struct LinkName(Arc<str>);

impl From<Box<str>> for LinkName {
    fn from(name: Box<str>) -> Self {
        Self(name.into())
    }
}

impl From<LinkName> for Box<str> {
    fn from(LinkName(name): LinkName) -> Self {
        (&*name).into()
    }
}

impl SourceCheck {
    /// Nobody is known yet.
    #[must_use]
    pub fn new(mode: Mode, context: &Context) -> Self {
        Self::with(mode, Kernel::default(), context)
    }

    fn with(mode: Mode, kernel: Kernel, context: &Context) -> Self {
        let lines = Bucket::once_a_minute(context.clock.now().mono);
        Self {
            mode,
            origins: Arc::new(Origins::new(kernel, context)),
            context: context.clone(),
            foreign_lines: Mutex::new(lines.clone()),
            unknown_lines: Mutex::new(lines),
        }
    }

    /// What it does about foreign connections.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether a connection from `peer` may be served. It waits for the kernel under [`Mode::Enforce`] only.
    ///
    /// # Errors
    /// Why it has to be closed.
    pub async fn admit(self: &Arc<Self>, peer: SocketAddr) -> Result<(), Reason> {
        match self.mode {
            Mode::Off => Ok(()),
            Mode::Observe => {
                self.observe(peer.into());
                Ok(())
            }
            Mode::Enforce => self.enforce(peer.into()).await,
        }
    }

    fn observe(self: &Arc<Self>, peer: Peer) {
        match self.origins.judge(peer) {
            Judgement::Made(answer) => self.count(peer.address, answer),
            Judgement::Coming(look_up) => {
                let check = Arc::clone(self);
                self.context.tasks.spawn(async move { check.count(peer.address, check.origins.wait(peer, look_up).await) });
            }
        }
    }

    async fn enforce(&self, peer: Peer) -> Result<(), Reason> {
        let answer = match self.origins.judge(peer) {
            Judgement::Made(answer) => answer,
            Judgement::Coming(look_up) => self.origins.wait(peer, look_up).await,
        };
        self.finding(peer.address, answer).map_or(Ok(()), |finding| Err(finding.into()))
    }

    fn count(&self, peer: IpAddr, answer: Answer) {
        if let Some(finding) = self.finding(peer, answer) {
            self.context.metrics.front.source_observed(finding);
        }
    }

    /// What there is to say against a connection from `peer`. The log says it too.
    fn finding(&self, peer: IpAddr, answer: Answer) -> Option<Finding> {
        let (now, closed) = (self.context.clock.now().mono, self.mode == Mode::Enforce);
        match answer {
            Ok(Origin::Own(_)) => None,
            Ok(Origin::Foreign(link)) => {
                if self.foreign_lines.lock().take(now) {
                    tracing::warn!(%peer, %link, closed, "a connection from outside this node; --source-check enforce closes it");
                }
                Some(Finding::Foreign)
            }
            Err(error) => {
                if self.unknown_lines.lock().take(now) {
                    tracing::warn!(%peer, %error, closed, "where a connection comes from can't be found out");
                }
                Some(Finding::Unknown)
            }
        }
    }
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self { address: address.to_canonical(), link: 0 }
    }
}

impl From<SocketAddr> for Peer {
    fn from(peer: SocketAddr) -> Self {
        let link = match peer {
            SocketAddr::V6(ipv6) if ipv6.ip().is_unicast_link_local() => ipv6.scope_id(),
            SocketAddr::V4(_) | SocketAddr::V6(_) => 0,
        };
        Self { address: peer.ip().to_canonical(), link }
    }
}

#[cfg(test)]
mod tests {
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
}
