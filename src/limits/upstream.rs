//! The node's budget of calls to AWS.
//!
//! EKS Auth's limits are low, unpublished and shared by a whole account, so a node paces itself: a token bucket, requests that
//! wait before renewals that don't, and a latch that closes when AWS asks for fewer calls. Who has no permit waits in line; a
//! caller that left the line costs nothing.

mod transfer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::base::bucket::Bucket;
use crate::domain::mint::{DEFAULT_REST, Failure, Urgency};
use crate::observe::Context;
use crate::observe::metrics::{CallResult, Operation};

/// After each of these the rate recovers by [`RECOVERY_SHARE`] of the configured one.
const RECOVERY_STEP: Duration = Duration::from_secs(10);
const RECOVERY_SHARE: f64 = 0.1;
/// The rate never falls below this share of the configured one.
const LEAST_SHARE: f64 = 0.05;
/// Of so many permits one is kept for renewals that are due soon.
const KEPT_ONE_IN: u32 = 5;

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
    timer_runs: bool,
}

/// Who waits, most urgent line first, each in order of arrival.
#[derive(Debug, Default)]
struct Lines {
    foreground: VecDeque<Waiting>,
    due_soon: VecDeque<Waiting>,
    background: VecDeque<Waiting>,
    /// Foreground permits since the last one kept for renewals.
    foreground_in_a_row: u32,
}

/// A place in a line. Who is dropped from it learns so at once.
#[derive(Debug)]
struct Waiting {
    deadline: Instant,
    permit: oneshot::Sender<()>,
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
        let now = context.clock.now().mono;
        let state = State {
            configured: config.per_second,
            rate: config.per_second,
            rate_set_at: now,
            bucket: Bucket::new(config.per_second, 2.0 * config.per_second, now),
            closed_until: None,
            lines: Lines::default(),
            timer_runs: false,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), context }) }
    }

    /// Waits in line for the right to make one call.
    ///
    /// # Errors
    /// `Throttled` when there is none before `deadline`, as soon as that is clear.
    pub async fn permit(&self, urgency: Urgency, deadline: Instant) -> Result<Permit, Failure> {
        let (permit, receiver) = oneshot::channel();
        self.shared.state.lock().lines.of(urgency).push_back(Waiting { deadline, permit });
        let _waiting = Counted::new(&self.shared.context.metrics.upstream.waiting);
        self.pump();
        match tokio::time::timeout_at(deadline, receiver).await {
            Ok(Ok(())) => Ok(Permit { _inflight: Counted::new(&self.shared.context.metrics.upstream.inflight) }),
            Ok(Err(_)) | Err(_) => Err(Failure::Throttled { retry_after: self.closed_for() }),
        }
    }

    /// Makes `call` once there is a permit for it, and counts it. Whether AWS asks for fewer of these calls or of all, the caller
    /// knows.
    ///
    /// # Errors
    /// As [`UpstreamBudget::permit`], or those of `call`; `Unavailable` when it takes longer than until `deadline`.
    pub async fn spend<T, C>(&self, operation: Operation, urgency: Urgency, deadline: Instant, call: C) -> Result<T, Failure>
    where
        C: Future<Output = Result<T, Failure>>,
    {
        let _permit = self.permit(urgency, deadline).await?;
        let Context { clock, metrics, .. } = &self.shared.context;
        let began = clock.now().mono;
        let timed_out = |_| Err(Failure::Unavailable("timed out".into()));
        let result = tokio::time::timeout_at(deadline, call).await.unwrap_or_else(timed_out);
        let took = clock.now().mono.saturating_duration_since(began);
        metrics.upstream.finished(operation, CallResult::from(&result), took);
        result
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
    fn hand_out(&mut self, now: Instant) {
        self.recover(now);
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

impl Lines {
    fn of(&mut self, urgency: Urgency) -> &mut VecDeque<Waiting> {
        match urgency {
            Urgency::Foreground => &mut self.foreground,
            Urgency::DueSoon => &mut self.due_soon,
            Urgency::Background => &mut self.background,
        }
    }

    fn retain(&mut self, keep: impl Fn(&Waiting) -> bool) {
        for line in [&mut self.foreground, &mut self.due_soon, &mut self.background] {
            line.retain(&keep);
        }
    }

    /// Forgets who left, then says whether somebody waits.
    fn are_empty(&mut self) -> bool {
        self.retain(|waiting| !waiting.permit.is_closed());
        self.foreground.is_empty() && self.due_soon.is_empty() && self.background.is_empty()
    }

    fn next(&mut self) -> Option<Waiting> {
        if self.foreground_in_a_row + 1 >= KEPT_ONE_IN
            && let Some(kept) = self.due_soon.pop_front()
        {
            self.foreground_in_a_row = 0;
            return Some(kept);
        }
        if let Some(first) = self.foreground.pop_front() {
            self.foreground_in_a_row += 1;
            return Some(first);
        }
        self.foreground_in_a_row = 0;
        self.due_soon.pop_front().or_else(|| self.background.pop_front())
    }
}

#[cfg(test)]
#[path = "upstream_tests.rs"]
mod tests;
