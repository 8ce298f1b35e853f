//! The node's budget of calls to AWS.
//!
//! EKS Auth's limits are low, unpublished and shared by a whole account, so a node paces itself: a token bucket, requests that
//! wait before renewals that don't, and a latch that closes when AWS asks for fewer calls. Who has no permit waits in line, where
//! identities take turns; a caller that left the line costs nothing.
//!
//! An identity goes before renewals only with its own share of the calls. What it wants beyond that it gets when nobody else wants
//! anything: neither a pod with fifty targets nor one to which AWS keeps answering nonsense holds up the renewals of others.

mod transfer;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::base::bucket::Bucket;
use crate::domain::identity::Subject;
use crate::domain::mint::{DEFAULT_REST, Failure, Order, Urgency};
use crate::limits::buckets::Buckets;
use crate::limits::lines::{Lines, Waiting};
use crate::observe::Context;
use crate::observe::metrics::{CallResult, Limit, Operation};

/// After each of these the rate recovers by [`RECOVERY_SHARE`] of the configured one.
const RECOVERY_STEP: Duration = Duration::from_secs(10);
const RECOVERY_SHARE: f64 = 0.1;
/// The rate never falls below this share of the configured one.
const LEAST_SHARE: f64 = 0.05;
/// Of the configured rate, what one identity may call ahead of renewals; at once it may call what the node may in a second.
const OWN_SHARE: f64 = 0.2;
/// Identities remembered at once, each of which has called of late; more than run on any node.
const MOST_REMEMBERED: usize = 8_192;

/// `--max-service-qps`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Calls a second; the burst is twice that.
    pub per_second: f64,
}

/// The budget. Clones share it.
#[derive(Debug, Clone)]
pub struct UpstreamBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    context: Context,
}

#[derive(Debug)]
struct State {
    configured: f64,
    rate: f64,
    rate_set_at: Instant,
    bucket: Bucket,
    closed_until: Option<Instant>,
    lines: Lines,
    shares: Buckets<Arc<Subject>>,
    timer_runs: bool,
}

/// Who wants to call.
#[derive(Debug, Clone)]
pub struct Claim {
    /// On whose behalf; `None` for the node itself.
    pub whose: Option<Arc<Subject>>,
    /// Who waits for it.
    pub urgency: Urgency,
    /// When the caller gives up.
    pub deadline: Instant,
}

impl Claim {
    /// A call that the node itself needs.
    #[must_use]
    pub fn of_node(deadline: Instant) -> Self {
        Self { whose: None, urgency: Urgency::Foreground, deadline }
    }
}

impl From<&Order> for Claim {
    fn from(order: &Order) -> Self {
        Self { whose: Some(Arc::clone(&order.subject)), urgency: order.urgency, deadline: order.deadline }
    }
}

/// The right to make one call, for as long as the call lasts.
#[derive(Debug)]
pub struct Permit {
    _inflight: Counted,
}

/// One more in a gauge, until it is dropped, however that comes.
#[derive(Debug)]
struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl UpstreamBudget {
    /// A full budget.
    #[must_use]
    pub fn new(config: Config, context: Context) -> Self {
        let (now, per_second) = (context.clock.now().mono, config.per_second);
        let state = State {
            configured: per_second,
            rate: per_second,
            rate_set_at: now,
            bucket: Bucket::new(per_second, 2.0 * per_second, now),
            closed_until: None,
            lines: Lines::default(),
            shares: Buckets::new(OWN_SHARE * per_second, per_second, MOST_REMEMBERED),
            timer_runs: false,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), context }) }
    }

    /// Waits in line for the right to make one call.
    ///
    /// # Errors
    /// `Throttled` when there is none before the claim's deadline, as soon as that is clear.
    pub async fn permit(&self, claim: Claim) -> Result<Permit, Failure> {
        let (deadline, metrics) = (claim.deadline, &self.shared.context.metrics);
        let (permit, receiver) = oneshot::channel();
        let now = self.shared.context.clock.now().mono;
        self.shared.state.lock().enter(claim, permit, now);
        let _waiting = Counted::new(&metrics.upstream.waiting);
        self.pump();
        match tokio::time::timeout_at(deadline, receiver).await {
            Ok(Ok(())) => Ok(Permit { _inflight: Counted::new(&metrics.upstream.inflight) }),
            Ok(Err(_)) | Err(_) => Err(self.too_late()),
        }
    }

    /// Makes `call` once there is a permit for it, and counts it. Whether AWS asks for fewer of these calls or of all, the caller
    /// knows.
    ///
    /// # Errors
    /// As [`UpstreamBudget::permit`], or those of `call`; `Unavailable` when it takes longer than until the claim's deadline.
    pub async fn spend<T, C>(&self, operation: Operation, claim: Claim, call: C) -> Result<T, Failure>
    where
        C: Future<Output = Result<T, Failure>>,
    {
        let deadline = claim.deadline;
        let _permit = self.permit(claim).await?;
        let Context { clock, metrics, .. } = &self.shared.context;
        let began = clock.now().mono;
        let timed_out = |_| Err(Failure::Unavailable("timed out".into()));
        let result = tokio::time::timeout_at(deadline, call).await.unwrap_or_else(timed_out);
        let took = clock.now().mono.saturating_duration_since(began);
        metrics.upstream.finished(operation, CallResult::from(&result), took);
        result
    }

    /// No permit came in time. What AWS or a shutdown has closed is no limit of ours.
    fn too_late(&self) -> Failure {
        let (retry_after, context) = (self.closed_for(), &self.shared.context);
        if retry_after.is_none() && !context.tasks.is_shutting_down() {
            context.sheds.shed(Limit::UpstreamCalls, None, context.clock.now());
        }
        Failure::Throttled { retry_after }
    }

    /// AWS asked for fewer calls: none are made until `retry_after`, which is trusted to be bounded, and fewer for a while.
    pub fn throttled(&self, retry_after: Option<Duration>) {
        let now = self.shared.context.clock.now().mono;
        self.shared.state.lock().throttle(retry_after.unwrap_or(DEFAULT_REST), now);
        self.pump();
    }

    /// How long AWS still asks to be left alone.
    #[must_use]
    pub fn closed_for(&self) -> Option<Duration> {
        let now = self.shared.context.clock.now().mono;
        self.shared.state.lock().closed_until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Calls a second at present.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let mut state = self.shared.state.lock();
        state.recover(self.shared.context.clock.now().mono);
        state.rate
    }

    /// Hands out what permits there are, and wakes when the next one comes if somebody still waits. At shutdown nobody waits any
    /// more: there are calls under way to finish, and no time for others.
    fn pump(&self) {
        let now = self.shared.context.clock.now().mono;
        let mut state = self.shared.state.lock();
        state.hand_out(now);
        if state.timer_runs || state.lines.are_empty() {
            return;
        }
        state.timer_runs = true;
        let wake_at = state.next_permit(now);
        drop(state);
        let (budget, shutdown) = (self.clone(), self.shared.context.tasks.shutting_down());
        self.shared.context.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep_until(wake_at) => {}
                () = shutdown => budget.shared.state.lock().lines = Lines::default(),
            }
            budget.shared.state.lock().timer_runs = false;
            budget.pump();
        });
    }
}

impl State {
    /// Puts a claim in its line.
    fn enter(&mut self, claim: Claim, permit: oneshot::Sender<()>, now: Instant) {
        let Claim { whose, urgency, deadline } = claim;
        let is_beyond_share = |subject| urgency == Urgency::Foreground && !self.shares.take(subject, now);
        let urgency = if whose.as_ref().is_some_and(is_beyond_share) { Urgency::Background } else { urgency };
        self.lines.push(urgency, whose, Waiting { deadline, permit });
    }

    fn hand_out(&mut self, now: Instant) {
        self.recover(now);
        self.lines.retain(|waiting| !waiting.permit.is_closed());
        if let Some(until) = self.closed_until.filter(|until| *until > now) {
            return self.lines.retain(|waiting| waiting.deadline > until);
        }
        self.closed_until = None;
        while self.bucket.has(now) {
            let Some(waiting) = self.lines.next() else { return };
            if waiting.permit.send(()).is_ok() {
                self.bucket.take(now);
            }
        }
    }

    fn next_permit(&mut self, now: Instant) -> Instant {
        let next = self.bucket.next(now) + Duration::from_millis(1);
        self.closed_until.map_or(next, |until| next.max(until))
    }

    /// Answers to calls that were under way when AWS first said so don't halve the rate again.
    fn throttle(&mut self, delay: Duration, now: Instant) {
        let until = now + delay;
        if self.closed_until.is_none_or(|closed| closed <= now) {
            self.recover(now);
            self.set_rate((self.rate / 2.0).max(self.configured * LEAST_SHARE), now);
            self.bucket.drain(now);
        }
        self.closed_until = Some(self.closed_until.map_or(until, |closed| closed.max(until)));
    }

    fn recover(&mut self, now: Instant) {
        while self.rate < self.configured && now.saturating_duration_since(self.rate_set_at) >= RECOVERY_STEP {
            let at = self.rate_set_at + RECOVERY_STEP;
            self.set_rate(self.configured.mul_add(RECOVERY_SHARE, self.rate).min(self.configured), at);
        }
    }

    fn set_rate(&mut self, rate: f64, at: Instant) {
        self.rate = rate;
        self.rate_set_at = at;
        self.bucket.set_rate(rate, at);
    }
}

#[cfg(test)]
#[path = "upstream_tests.rs"]
mod tests;
