//! What an entry must do, by a reference that forgets nothing: it keeps the list of all that happened, and derives from that what
//! each request, load and timer must come to. The entry keeps a few fields instead.

use std::mem::discriminant;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use proptest_state_machine::ReferenceStateMachine;

use crate::cache::entry::{End, Landed};
use crate::domain::credential::FRESH_LIFE;
use crate::domain::mint::Urgency;

pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);
/// From the wall clock's first reading to the end of the token that comes first.
pub(super) const TOKEN: Duration = Duration::from_secs(30 * 3600);

/// What can happen.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A request, with a token that ends so much after [`TOKEN`].
    Ask(Duration),
    /// The load ends.
    Land(Outcome, f64),
    /// Time passes.
    Pass(Duration),
    /// The wall clock is set, seconds.
    Set(i64),
    /// The timer goes off.
    Wake,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Issued,
    Denied,
    Throttled(Option<Duration>),
    Unavailable,
    Misconfigured,
    Nonsense,
}

/// What came of a step, in times since the start.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    Nothing,
    Answer { answer: Told, begins: bool, revives: bool },
    Landing(Landed),
    Sleep(Duration),
    Renew(Urgency, Duration),
    Flying,
    Drop(End),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Told {
    Serve,
    ServeAfter(Duration),
    Wait,
    Refuse(Outcome, Duration),
}

/// A load that ended.
#[derive(Debug, Clone)]
pub(super) struct Landing {
    at: Duration,
    wall: Duration,
    outcome: Outcome,
    roll: f64,
    landed: Landed,
}

/// All that happened, and what the last step came to.
#[derive(Debug, Clone)]
pub(super) struct History {
    pub(super) kept: bool,
    pub(super) longest: Option<Duration>,
    pub(super) life: Duration,
    now: Duration,
    pub(super) wall: Duration,
    /// When it was made; none when it has been dropped.
    pub(super) made: Option<Duration>,
    tokens: Vec<Duration>,
    asked: Duration,
    pub(super) flying: Option<Duration>,
    landings: Vec<Landing>,
    pub(super) said: Said,
}

impl History {
    fn new(kept: bool, longest: Option<Duration>, life: Duration) -> Self {
        let (now, wall) = (Duration::ZERO, 1_000 * HOUR);
        let (tokens, landings) = (Vec::new(), Vec::new());
        Self { kept, longest, life, now, wall, made: None, tokens, asked: now, flying: None, landings, said: Said::Nothing }
    }

    /// The landing whose credential is held, servable or not.
    pub(super) fn held(&self) -> Option<&Landing> {
        let issued = self.landings.iter().rposition(|landing| landing.outcome == Outcome::Issued)?;
        let (held, since) = self.landings.get(issued..)?.split_first()?;
        let gone = |landing: &Landing| matches!(landing.landed, Landed::Dropped | Landed::Refused);
        (!since.iter().any(gone)).then_some(held)
    }

    /// Life left on what is held.
    fn left(&self) -> Duration {
        self.held().map_or(Duration::ZERO, |held| (held.wall + self.life).saturating_sub(self.wall))
    }

    fn is_servable(&self) -> bool {
        self.left() > MINUTE
    }

    fn is_aging(&self) -> bool {
        self.left() < FRESH_LIFE.min(self.life / 2)
    }

    /// Failed landings since the last that brought something.
    fn failures(&self) -> &[Landing] {
        let begin = self.landings.iter().rposition(|landing| landing.outcome == Outcome::Issued).map_or(0, |last| last + 1);
        self.landings.get(begin..).unwrap_or_default()
    }

    /// The last failure, and until when it keeps everybody from trying again.
    fn rest(&self) -> Option<(Outcome, Duration)> {
        let failures = self.failures();
        let Landing { at, outcome, roll, .. } = failures.last()?;
        let kind = |outcome: &Outcome| discriminant(outcome);
        let run = failures.iter().rev().take_while(|landing| kind(&landing.outcome) == kind(outcome)).count();
        let doubled = |first: Duration, most: Duration| (1..run).fold(first, |pause, _| (pause * 2).min(most));
        let pause = match outcome {
            Outcome::Issued => Duration::ZERO,
            Outcome::Denied => doubled(Duration::from_secs(5), MINUTE),
            Outcome::Throttled(retry_after) => retry_after.unwrap_or(Duration::from_secs(1)),
            Outcome::Unavailable => doubled(Duration::from_secs(1), Duration::from_secs(30)).mul_f64(*roll),
            Outcome::Misconfigured => Duration::from_secs(5),
            Outcome::Nonsense => Duration::from_secs(30),
        };
        Some((*outcome, *at + pause))
    }

    fn rests_until(&self) -> Duration {
        self.rest().map_or(Duration::ZERO, |(_, until)| until)
    }

    /// Since when AWS refuses what it gave before.
    fn first_denial(&self) -> Option<Duration> {
        self.failures().iter().find(|landing| landing.landed == Landed::Unconfirmed).map(|landing| landing.at)
    }

    pub(super) fn token_end(&self) -> Duration {
        self.tokens.iter().max().map_or(Duration::ZERO, |more| 1_000 * HOUR + TOKEN + *more)
    }

    /// Half of a life after it came, a tenth of that more or less, unless the operator wants it earlier.
    fn renewal(&self) -> Option<Duration> {
        let held = self.held()?;
        let planned = self.life.mul_f64(0.1_f64.mul_add(held.roll, 0.45));
        Some(held.at + planned.min(self.longest.unwrap_or(Duration::MAX)))
    }

    fn is_dormant(&self) -> bool {
        self.held().is_some() && (self.token_end() <= self.wall || self.now - self.asked >= self.life * 2)
    }

    fn ask(&mut self, more: Duration) -> Said {
        if self.made.is_none() {
            (self.made, self.tokens, self.landings) = (Some(self.now), Vec::new(), Vec::new());
        }
        let revives = self.is_dormant();
        self.asked = self.now;
        self.tokens.push(more);
        let rests = self.rest().filter(|(_, until)| *until > self.now);
        let (answer, begins) = match (self.is_servable(), self.flying, rests) {
            (true, ..) if !self.is_aging() => (Told::Serve, false),
            (true, None, Some(_)) => (Told::Serve, false),
            (true, None, None) => (Told::ServeAfter(self.now + Duration::from_millis(500)), true),
            (true, Some(began), _) if began + Duration::from_millis(500) <= self.now => (Told::Serve, false),
            (true, Some(began), _) => (Told::ServeAfter(began + Duration::from_millis(500)), false),
            (false, Some(_), _) => (Told::Wait, false),
            (false, None, Some((outcome, until))) if outcome != Outcome::Nonsense => {
                (Told::Refuse(outcome, until - self.now), false)
            }
            (false, None, _) => (Told::Wait, true),
        };
        if begins {
            self.flying = Some(self.now);
        }
        Said::Answer { answer, begins, revives }
    }

    fn land(&mut self, outcome: Outcome, roll: f64) -> Said {
        self.flying = None;
        let landed = match (outcome, self.is_servable(), self.first_denial()) {
            (Outcome::Issued, ..) => Landed::Renewed,
            (_, false, _) => Landed::Refused,
            (Outcome::Denied, true, Some(first)) if self.now - first >= Duration::from_secs(5) => Landed::Dropped,
            (Outcome::Denied, true, _) => Landed::Unconfirmed,
            (_, true, _) => Landed::Kept,
        };
        self.landings.push(Landing { at: self.now, wall: self.wall, outcome, roll, landed });
        Said::Landing(landed)
    }

    fn wake(&mut self) -> Said {
        let sleep_or = |until: Duration, then: Said| if until > self.now { Said::Sleep(until) } else { then };
        let rests = self.rests_until();
        let said = match (self.flying, self.renewal()) {
            (Some(_), _) => Said::Flying,
            _ if !self.kept => {
                let landed = self.landings.last().map(|landing| landing.at).or(self.made).unwrap_or_default();
                sleep_or((landed + Duration::from_secs(5)).max(rests), Said::Drop(End::Passing))
            }
            (None, Some(_)) if !self.is_servable() => Said::Drop(End::Lapsed),
            (None, Some(_)) if self.is_dormant() => Said::Sleep(self.now + self.left() - MINUTE),
            (None, Some(due)) if due.max(rests) > self.now => Said::Sleep(due.max(rests).min(self.now + self.left() - MINUTE)),
            (None, Some(due)) => Said::Renew(if self.is_aging() { Urgency::DueSoon } else { Urgency::Background }, due),
            (None, None) => {
                let denied = self.rest().is_some_and(|(outcome, _)| outcome == Outcome::Denied);
                sleep_or((self.asked + 2 * MINUTE).max(rests), Said::Drop(if denied { End::Denied } else { End::Empty }))
            }
        };
        if matches!(said, Said::Renew(..)) {
            self.flying = Some(self.now);
        }
        if matches!(said, Said::Drop(_)) {
            self.made = None;
        }
        said
    }

    /// How long it is until the moments at which some rule changes its mind.
    fn moments(&self) -> Vec<Duration> {
        let left = self.left();
        let ends = [MINUTE, FRESH_LIFE.min(self.life / 2)].map(|least| left.saturating_sub(least));
        let at = [
            self.rests_until(),
            self.first_denial().unwrap_or_default() + Duration::from_secs(5),
            self.flying.unwrap_or_default() + Duration::from_millis(500),
            self.renewal().unwrap_or_default(),
            self.asked + self.life * 2,
            self.asked + 2 * MINUTE,
            self.landings.last().map_or(Duration::ZERO, |landing| landing.at) + Duration::from_secs(5),
        ];
        let later = at.into_iter().map(|at| at.saturating_sub(self.now)).chain(ends);
        later.chain([self.token_end().saturating_sub(self.wall)]).filter(|time| !time.is_zero()).collect()
    }
}

impl ReferenceStateMachine for History {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        let kept = prop_oneof![9 => Just(true), 1 => Just(false)];
        let longest = prop_oneof![4 => Just(None), 1 => Just(Some(30 * MINUTE))];
        let minutes = prop_oneof![Just(59), Just(60), Just(360), 2_u32..720];
        (kept, longest, minutes).prop_map(|(kept, longest, minutes)| Self::new(kept, longest, minutes * MINUTE)).boxed()
    }

    fn transitions(history: &Self) -> BoxedStrategy<Step> {
        let mut moments = history.moments();
        moments.push(MILLISECOND);
        let close = (select(moments), 0_u32..3).prop_map(|(time, nudge)| Step::Pass((time + nudge * MILLISECOND) - MILLISECOND));
        let landing = if history.flying.is_some() { 6 } else { 0 };
        let waking = if history.made.is_some() { 3 } else { 0 };
        prop_oneof![
            4 => select(vec![Duration::ZERO, Duration::ZERO, 10 * HOUR, 20 * HOUR]).prop_map(Step::Ask),
            landing => (outcome(), select(vec![0.0, 0.25, 0.5, 1.0])).prop_map(|(outcome, roll)| Step::Land(outcome, roll)),
            waking => Just(Step::Wake),
            4 => close,
            1 => (0_u64..4_000).prop_map(|seconds| Step::Pass(Duration::from_secs(seconds))),
            1 => (-7_200_i64..7_200).prop_map(Step::Set),
        ]
        .boxed()
    }

    fn preconditions(history: &Self, step: &Step) -> bool {
        match step {
            Step::Land(..) => history.flying.is_some(),
            Step::Wake => history.made.is_some(),
            Step::Ask(_) | Step::Pass(_) | Step::Set(_) => true,
        }
    }

    fn apply(mut history: Self, step: &Step) -> Self {
        history.said = match step {
            Step::Ask(more) => history.ask(*more),
            Step::Land(outcome, roll) => history.land(*outcome, *roll),
            Step::Wake => history.wake(),
            Step::Pass(time) => {
                history.now += *time;
                history.wall += *time;
                Said::Nothing
            }
            Step::Set(seconds) => {
                history.wall = set(history.wall, *seconds);
                Said::Nothing
            }
        };
        history
    }
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let retry_after = select(vec![None, Some(Duration::from_secs(7))]);
    prop_oneof![
        4 => Just(Outcome::Issued),
        4 => Just(Outcome::Denied),
        1 => retry_after.prop_map(Outcome::Throttled),
        2 => Just(Outcome::Unavailable),
        1 => Just(Outcome::Misconfigured),
        1 => Just(Outcome::Nonsense),
    ]
}

fn set(wall: Duration, seconds: i64) -> Duration {
    let size = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { wall - size } else { wall + size }
}
