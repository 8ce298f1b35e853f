//! What the next agent of a node needs to know of the budget: AWS does not care which of them it asked to be left alone.

use std::time::Duration;

use tokio::time::Instant;

use crate::base::parcel::{Parcel, Unreadable};
use crate::limits::upstream::{LEAST_SHARE, State, UpstreamBudget};

/// Of what is packed: the share of the configured rate, and how long AWS still asks to be left alone.
const VERSION: u8 = 1;

type Told = (f64, Option<Duration>);

impl UpstreamBudget {
    /// How far AWS has slowed this node down.
    #[must_use]
    pub fn export(&self) -> Parcel {
        let share = self.rate() / self.shared.state.lock().configured.max(f64::MIN_POSITIVE);
        let told: Told = (share, self.closed_for());
        Parcel::pack(VERSION, &told)
    }

    /// Goes no faster than another agent of this node does, and leaves AWS alone for as long.
    ///
    /// # Errors
    /// [`Unreadable`] when another version packed it.
    pub fn import(&self, parcel: &Parcel) -> Result<(), Unreadable> {
        let (share, closed_for): Told = parcel.open(VERSION)?;
        let now = self.shared.context.clock.now().mono;
        self.shared.state.lock().slow_down(share, closed_for, now);
        self.pump();
        Ok(())
    }
}

impl State {
    fn slow_down(&mut self, share: f64, closed_for: Option<Duration>, now: Instant) {
        self.recover(now);
        let rate = self.configured * share.max(LEAST_SHARE);
        if rate < self.rate {
            self.set_rate(rate, now);
            self.bucket.drain(now);
        }
        self.closed_until = self.closed_until.max(closed_for.and_then(|left| now.checked_add(left)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use crate::limits::upstream::{Claim, Config};
    use crate::observe::Context;

    fn budget(per_second: f64) -> UpstreamBudget {
        UpstreamBudget::new(Config { per_second }, Context::new(Clock::System))
    }

    #[tokio::test(start_paused = true)]
    async fn no_agent_calls_before_the_time_that_another_was_told() {
        let [old, new] = [budget(10.0), budget(20.0)];
        old.throttled(Some(Duration::from_secs(30)));
        tokio::time::advance(Duration::from_secs(5)).await;
        new.import(&old.export()).unwrap();
        assert_eq!(new.closed_for(), Some(Duration::from_secs(25)));
        assert!((new.rate() - 10.0).abs() < 0.01, "half of its own");
        let begun = Clock::System.now().mono;
        new.permit(Claim::of_node(begun + Duration::from_secs(60))).await.unwrap();
        assert!(Clock::System.now().mono - begun >= Duration::from_secs(25));
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_slowed_down_more_stays_so() {
        let [old, new] = [budget(10.0), budget(10.0)];
        new.throttled(Some(Duration::from_secs(9)));
        new.import(&old.export()).unwrap();
        assert!((new.rate() - 5.0).abs() < 0.01 && new.closed_for() == Some(Duration::from_secs(9)));
        assert!(new.import(&Parcel::pack(9, &0_u8)).is_err());
    }
}
