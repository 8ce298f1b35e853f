//! The judge of every proof: it sees each request, each answer and each call to AWS, and says where they break a promise.
//!
//! What can be judged when an answer comes is judged then. Kept is only what has to be compared with AWS's own record, so that a
//! proof may go on for millions of requests.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use credlet::base::clock::Clock;
use credlet::domain::credential::{FRESH_LIFE, LEAST_SERVED_LIFE, rfc3339};
use credlet::domain::identity::TokenDigest;
use credlet::sim::calls::{Answer, Call};
use credlet::sim::pod::PodSpec;
use parking_lot::Mutex;
use serde_json::Value;

/// By when a request is answered whatever AWS does (R9).
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_millis(900);

/// The same as a client on a busy machine sees it: the shortest patience of SDKs but one.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1_500);

/// A call that arrives this soon after AWS asked to be left alone was on its way when it did: a share of the limit of answers, as both
/// are longer on a busy machine.
const ON_ITS_WAY: u32 = 9;

/// More broken promises are not told.
const MOST_TOLD: usize = 20;

/// What is promised for a while, beside what is promised always.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Promise {
    /// Whether every request gets credentials.
    pub(crate) served: bool,
    /// The life that they have at least, and more than 60 s in any case.
    pub(crate) life: Duration,
}

impl Promise {
    /// While AWS is well, for pods that were seen before (R12).
    pub(crate) const WELL: Self = Self { served: true, life: FRESH_LIFE };
    /// While AWS is down, for pods that were seen before (R1).
    pub(crate) const OUTAGE: Self = Self { served: true, life: LEAST_SERVED_LIFE };
    /// While something is new or refused.
    pub(crate) const NONE: Self = Self { served: false, life: LEAST_SERVED_LIFE };
}

/// The figures of a proof that broke no promise.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Report {
    pub(crate) requests: usize,
    pub(crate) failed: usize,
    /// From a request to its answer.
    pub(crate) slowest: Duration,
    /// Of what was served; `None` if nothing was.
    pub(crate) least_life: Option<Duration>,
    /// To AWS.
    pub(crate) calls: usize,
    /// Of these, how many AWS answered with 429, or with STS's throttling.
    pub(crate) throttled: usize,
    /// Of these, how many the agent gave up before AWS had answered.
    pub(crate) abandoned: usize,
}

/// Sees a proof. It is asked through, and judges at the end.
#[derive(Debug)]
pub(crate) struct Checker {
    clock: Clock,
    limit: Duration,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    promise: Promise,
    on_its_way: Duration,
    /// Whose token it is, by its fingerprint.
    owners: HashMap<String, Owner>,
    served: BTreeSet<Served>,
    report: Report,
    broken: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Owner {
    pod_uid: String,
    node: Option<String>,
}

/// What a pod was given, as AWS's record names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Served {
    pod_uid: String,
    access_key_id: String,
    /// Fingerprint.
    session_token: String,
    expiration: String,
}

impl Checker {
    /// Nothing is promised yet but that answers come within `limit` and are true.
    pub(crate) fn new(clock: Clock, limit: Duration) -> Self {
        let (owners, served, report, broken) = Default::default();
        let seen = Seen { promise: Promise::NONE, on_its_way: limit / ON_ITS_WAY, owners, served, report, broken };
        Self { clock, limit, seen: Mutex::new(seen) }
    }

    /// From now on.
    pub(crate) fn promise(&self, promise: Promise) {
        self.seen.lock().promise = promise;
    }

    /// The outcome of `asking` for credentials of `pod` with this token: the document, or why there was none.
    pub(crate) async fn ask(
        &self,
        pod: &PodSpec,
        token: &str,
        asking: impl Future<Output = Result<String, String>>,
    ) -> Result<String, String> {
        self.seen.lock().own(pod, token);
        let asked = self.clock.now();
        let outcome = asking.await;
        let now = self.clock.now();
        let mut seen = self.seen.lock();
        seen.waited(pod, now.mono - asked.mono, self.limit);
        seen.answered(pod, &outcome, now.wall);
        drop(seen);
        outcome
    }

    /// The figures, if `calls`, which are all that AWS had, and all answers keep every promise; else what they break.
    pub(crate) fn verdict(&self, calls: &[Call]) -> Result<Report, String> {
        let mut seen = self.seen.lock();
        let calls: Vec<_> = calls.iter().filter(|call| call.token.is_some() || call.role.is_some()).collect();
        let issued = seen.issued(&calls);
        let invented: Vec<_> =
            seen.served.difference(&issued).map(|served| format!("AWS issued no such thing: {served:?}")).collect();
        let hasty = seen.hasty(&calls);
        seen.broken.extend(invented.into_iter().chain(hasty));
        if !seen.broken.is_empty() {
            // What is late is told last: there is much of it where the machine is busy.
            let (late, worse): (Vec<_>, Vec<_>) = seen.broken.iter().partition(|text| text.contains("waited for"));
            let told: Vec<_> = worse.iter().chain(&late).take(MOST_TOLD).map(|text| text.as_str()).collect();
            return Err(format!("{} promises broken, {} by lateness alone:\n{}", seen.broken.len(), late.len(), told.join("\n")));
        }
        let throttled = calls.iter().filter(|call| call.status().is_some_and(is_throttling)).count();
        let abandoned = calls.iter().filter(|call| call.answer.is_none()).count();
        Ok(Report { calls: calls.len(), throttled, abandoned, ..seen.report.clone() })
    }
}

impl Seen {
    fn own(&mut self, pod: &PodSpec, token: &str) {
        let owner = Owner { pod_uid: pod.pod_uid.clone(), node: pod.node.clone() };
        self.owners.insert(TokenDigest::of(token.as_bytes()).fingerprint(), owner);
    }

    fn waited(&mut self, pod: &PodSpec, took: Duration, limit: Duration) {
        self.report.slowest = self.report.slowest.max(took);
        if took > limit {
            self.broken.push(format!("{} waited for {took:?}", pod.pod));
        }
    }

    fn answered(&mut self, pod: &PodSpec, outcome: &Result<String, String>, now: SystemTime) {
        self.report.requests += 1;
        match outcome.as_deref().map(|document| served(pod, document)) {
            Ok(Some((served, expiry))) => self.judge(pod, served, expiry, now),
            Ok(None) => self.broken.push(format!("{} got what is no credential", pod.pod)),
            Err(error) => self.refused(pod, error),
        }
    }

    fn refused(&mut self, pod: &PodSpec, error: &str) {
        self.report.failed += 1;
        if self.promise.served {
            self.broken.push(format!("{} got none: {error}", pod.pod));
        }
    }

    fn judge(&mut self, pod: &PodSpec, served: Served, expiry: SystemTime, now: SystemTime) {
        let life = expiry.duration_since(now).unwrap_or_default();
        if life <= LEAST_SERVED_LIFE || life < self.promise.life {
            self.broken.push(format!("{} got {life:?} of life", pod.pod));
        }
        self.report.least_life = Some(self.report.least_life.map_or(life, |least| least.min(life)));
        self.served.insert(served);
    }

    /// All that AWS issued, with the pod whose token led to it: a session of a chain is the pod's whose session made it.
    fn issued(&self, calls: &[&Call]) -> BTreeSet<Served> {
        let (mut issued, mut of_sessions) = (BTreeSet::new(), HashMap::new());
        for call in calls {
            let by_token = || call.token.as_ref().and_then(|token| self.owners.get(token));
            let owner = by_token().or_else(|| of_sessions.get(call.signer.as_ref()?).copied());
            if let (Some(owner), Some(session)) = (owner, call.issued()) {
                of_sessions.insert(session.access_key_id.clone(), owner);
                issued.insert(Served {
                    pod_uid: owner.pod_uid.clone(),
                    access_key_id: session.access_key_id.clone(),
                    session_token: session.session_token.clone(),
                    expiration: rfc3339(session.expires_at).unwrap_or_default(),
                });
            }
        }
        issued
    }

    /// Calls of a node that AWS had asked to be left alone for longer.
    fn hasty(&self, calls: &[&Call]) -> Vec<String> {
        let mut closed: BTreeMap<Option<&str>, (SystemTime, SystemTime)> = BTreeMap::new();
        let mut answers: Vec<(SystemTime, Option<&str>, SystemTime)> = Vec::new();
        let node =
            |call: &&Call| call.token.as_ref().and_then(|token| self.owners.get(token)).and_then(|owner| owner.node.as_deref());
        for call in calls {
            if let Some(Answer { at, retry_after: Some(delay), .. }) = &call.answer {
                answers.push((*at, node(call), *at + *delay));
            }
        }
        answers.sort_unstable();
        let (mut answers, mut hasty) = (answers.into_iter().peekable(), Vec::new());
        for call in calls {
            while let Some((at, node, until)) = answers.next_if(|(at, ..)| *at < call.at) {
                let known = closed.entry(node).or_insert((at, until));
                // One that still holds counts from when it was first said.
                *known = if known.1 < at { (at, until) } else { (known.0, known.1.max(until)) };
            }
            if let Some((since, until)) =
                closed.get(&node(call)).filter(|(since, until)| call.at > *since + self.on_its_way && call.at < *until)
            {
                hasty.push(format!(
                    "{:?} was called {:?} before its Retry-After had passed, {:?} after it was told",
                    call.operation,
                    until.duration_since(call.at),
                    call.at.duration_since(*since)
                ));
            }
        }
        hasty
    }
}

fn is_throttling(status: u16) -> bool {
    status == 429
}

/// What the document gives `pod`, and when that ends.
fn served(pod: &PodSpec, document: &str) -> Option<(Served, SystemTime)> {
    let document: Value = serde_json::from_str(document).ok()?;
    let text = |name| document.get(name).and_then(Value::as_str).map(str::to_owned);
    let expiration = text("Expiration")?;
    let expiry = DateTime::from_str(&expiration, Format::DateTime).ok()?.try_into().ok()?;
    let session_token = TokenDigest::of(text("Token")?.as_bytes()).fingerprint();
    Some((Served { pod_uid: pod.pod_uid.clone(), access_key_id: text("AccessKeyId")?, session_token, expiration }, expiry))
}
