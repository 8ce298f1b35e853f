//! Whether a pod's token comes from where its pod is.
//!
//! A token that was stolen from a pod works in every other pod of its node, unless it is bound to its pod's addresses: those that
//! used it first, as `pins` has it. Routed networks (VPC CNI, Calico) give each pod a link of its own and hold back packets with
//! another pod's address, so that a thief is told apart; behind a bridge pods can take each other's addresses, and there it is
//! little more than an alarm. It is a second factor, never the identity: whoever is the first to use a token is taken for its pod.
//!
//! Under [`Mode::Observe`] nobody waits for it. Under [`Mode::Enforce`] a source that the pod is not known by yet waits for the
//! kernel's route to it, 250 ms at most. While EKS Auth alone verifies tokens nothing is bound: no pod is known then.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::base::bucket::Bucket;
use crate::base::clock::Now;
use crate::base::parcel::{Parcel, Unreadable};
use crate::domain::identity::{Identity, Presented, Subject};
use crate::domain::refusal::Refusal;
use crate::node::source::origins::{Answer, Judgement, Origins};
use crate::node::source::pins::{Pins, Use};
use crate::node::source::{Mode, Origin, Peer, Place, SourceCheck};
use crate::observe::Context;
use crate::observe::metrics::Finding;

/// Of what is packed: a list of [`crate::node::source::pins::Pinned`].
const VERSION: u8 = 1;

/// The use of a pod's token from an address by which the pod is not known.
struct Claim {
    subject: Arc<Subject>,
    source: IpAddr,
    until: SystemTime,
    at: Now,
}

/// Binds tokens to the addresses of their pods.
#[derive(Debug)]
pub struct SourceBinding {
    mode: Mode,
    pins: Mutex<Pins>,
    origins: Arc<Origins>,
    context: Context,
    lines: Mutex<Bucket>,
}

impl SourceBinding {
    /// No pod is known yet. What `check` knows of sources is not asked for again.
    #[must_use]
    pub fn new(mode: Mode, check: &SourceCheck) -> Arc<Self> {
        let context = check.context.clone();
        let lines = Mutex::new(Bucket::once_a_minute(context.clock.now().mono));
        Arc::new(Self { mode, pins: Mutex::default(), origins: Arc::clone(&check.origins), context, lines })
    }

    /// What it does about tokens from elsewhere.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether `subject` may use the token that it presents from `source`.
    ///
    /// # Errors
    /// `source_mismatch`, under [`Mode::Enforce`] only.
    pub async fn admit(
        self: &Arc<Self>,
        subject: &Arc<Subject>,
        presented: &Presented,
        source: IpAddr,
        at: Now,
    ) -> Result<(), Refusal> {
        let Some(identity) = subject.identity().filter(|_| self.mode != Mode::Off) else { return Ok(()) };
        let (source, until) = (source.to_canonical(), presented.expires_at.unwrap_or(at.wall));
        if self.pins.lock().know(&Use { pod_uid: &identity.pod_uid, source, until, at }) {
            return Ok(());
        }
        let claim = Claim { subject: Arc::clone(subject), source, until, at };
        Box::pin(Arc::clone(self).judge(claim)).await
    }

    /// The pod is gone, and its tokens are refused.
    pub fn forget(&self, pod_uid: &str) {
        self.pins.lock().forget(pod_uid);
    }

    /// Which pods are known by which addresses.
    #[must_use]
    pub fn export(&self) -> Parcel {
        Parcel::pack(VERSION, &self.pins.lock().export())
    }

    /// Takes over what another agent of this node knew. What has been seen here counts for more, and what has ended for nothing.
    ///
    /// # Errors
    /// [`Unreadable`] when another version packed it.
    pub fn import(&self, parcel: &Parcel) -> Result<(), Unreadable> {
        let pinned = parcel.open(VERSION)?;
        self.pins.lock().import(pinned, self.context.clock.now());
        Ok(())
    }

    /// Only who enforces waits for the kernel.
    async fn judge(self: Arc<Self>, claim: Claim) -> Result<(), Refusal> {
        let peer = Peer::from(claim.source);
        let look_up = match self.origins.judge(peer) {
            Judgement::Made(answer) => return self.settle(&claim, answer),
            Judgement::Coming(look_up) => look_up,
        };
        let (mode, tasks) = (self.mode, self.context.tasks.clone());
        let settled = async move { self.settle(&claim, self.origins.wait(peer, look_up).await) };
        if mode == Mode::Enforce {
            return settled.await;
        }
        tasks.spawn(settled);
        Ok(())
    }

    fn settle(&self, claim: &Claim, answer: Answer) -> Result<(), Refusal> {
        let Claim { subject, source, until, at } = claim;
        let Some(identity) = subject.identity() else { return Ok(()) };
        let used = Use { pod_uid: &identity.pod_uid, source: *source, until: *until, at: *at };
        if self.pins.lock().pin(&used, place(answer)) {
            return Ok(());
        }
        let refused = self.mode == Mode::Enforce;
        self.tell(identity, *source, refused, *at);
        if refused {
            return Err(Refusal::new(Finding::Mismatch.into(), format!("from {source}, where its pod is not")));
        }
        self.context.metrics.front.source_observed(Finding::Mismatch);
        Ok(())
    }

    fn tell(&self, identity: &Identity, source: IpAddr, refused: bool, at: Now) {
        if self.lines.lock().take(at.mono) {
            tracing::warn!(
                namespace = identity.namespace,
                pod_name = identity.pod,
                %source,
                refused,
                "a pod's token comes from elsewhere than its pod: it may have been stolen; --source-binding enforce refuses it"
            );
        }
    }
}

/// Where the kernel says that a source is; nobody of this node is told apart beyond a foreign link.
fn place(answer: Answer) -> Option<Place> {
    match answer {
        Ok(Origin::Own(place)) => Some(place),
        Ok(Origin::Foreign(_)) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::clock::Clock;
    use crate::domain::identity::{BearerToken, TokenDigest};
    use crate::domain::refusal::Reason;
    use crate::node::source::kernel::Kernel;
    use crate::node::source::tests::Script;

    fn subject(pod: &str) -> Arc<Subject> {
        Arc::new(Subject::Verified(Identity {
            issuer: "https://issuer".into(),
            namespace: "ns".into(),
            service_account: "sa".into(),
            service_account_uid: "sa-uid".into(),
            pod: pod.into(),
            pod_uid: pod.into(),
            node: None,
        }))
    }

    async fn uses(binding: &Arc<SourceBinding>, subject: &Arc<Subject>, source: &str) -> Result<(), Reason> {
        let at = binding.context.clock.now();
        let token = BearerToken::parse(&[b'a'; 20]).unwrap();
        let presented = Presented { token, expires_at: Some(at.wall + Duration::from_secs(600)), token_id: String::new() };
        let admitted = binding.admit(subject, &presented, source.parse().unwrap(), at).await;
        // What is only observed is judged by tasks.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        admitted.map_err(|refusal| refusal.reason)
    }

    fn binding(mode: Mode) -> Arc<SourceBinding> {
        let kernel = Kernel::Script(Script::own());
        SourceBinding::new(mode, &SourceCheck::with(Mode::Off, kernel, &Context::new(Clock::System)))
    }

    fn mismatches(binding: &SourceBinding) -> usize {
        let text = binding.context.metrics.encode().unwrap();
        let count = text.lines().find_map(|line| line.strip_prefix(r#"credlet_source_observed_total{finding="mismatch"} "#));
        count.map_or(0, |count| count.parse().unwrap())
    }

    /// Of the node itself, as the kernel of these tests has it of everybody: a pod with hostNetwork.
    const OWN: [&str; 4] = ["127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.3"];

    #[tokio::test]
    async fn a_fifth_address_is_refused_or_counted_or_neither() {
        for (mode, expected, counted) in
            [(Mode::Off, Ok(()), 0), (Mode::Observe, Ok(()), 2), (Mode::Enforce, Err(Reason::SourceMismatch), 0)]
        {
            let (binding, pod) = (binding(mode), subject("a"));
            for source in OWN.iter().chain(&OWN) {
                assert_eq!(uses(&binding, &pod, source).await, Ok(()), "{mode:?} {source}");
            }
            assert_eq!(uses(&binding, &pod, "127.0.0.3").await, Ok(()), "as IPv4 it is the same");
            for _ in 0..2 {
                assert_eq!(uses(&binding, &pod, "127.0.0.9").await, expected, "{mode:?}");
            }
            assert_eq!(mismatches(&binding), counted, "{mode:?}");
            assert_eq!(uses(&binding, &subject("b"), "127.0.0.9").await, Ok(()));
        }
    }

    #[tokio::test]
    async fn a_token_that_tells_no_pod_is_not_bound() {
        let (binding, token) = (binding(Mode::Enforce), Arc::new(Subject::Delegated(TokenDigest::of(b"token"))));
        for number in 1..9 {
            assert_eq!(uses(&binding, &token, &format!("127.0.0.{number}")).await, Ok(()));
        }
        assert!(binding.pins.lock().export().is_empty());
    }

    #[tokio::test]
    async fn a_successor_refuses_whom_its_predecessor_would() {
        let [before, after] = [binding(Mode::Enforce), binding(Mode::Enforce)];
        let pod = subject("a");
        for source in OWN {
            assert_eq!(uses(&before, &pod, source).await, Ok(()));
        }
        after.import(&before.export()).unwrap();
        assert!(after.import(&Parcel::pack(9, &0_u8)).is_err());
        assert_eq!(uses(&after, &pod, "127.0.0.9").await, Err(Reason::SourceMismatch));
        after.forget("a");
        assert_eq!(uses(&after, &pod, "127.0.0.9").await, Ok(()));
    }
}
