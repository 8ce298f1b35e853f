//! The wall clock, compared with that of whoever has answered at AWS.
//!
//! AWS takes signatures that are five minutes off; tokens and sessions are judged by this clock too, with a minute of patience.

use std::time::{Duration, SystemTime};

use crate::base::clock::Now;
use crate::checks::{Check, Finding};

/// A clock that is further off makes good tokens look too young or too old.
const TOLERABLE: Duration = Duration::from_secs(60);
/// Less can come from the way of the answer.
const UNREMARKABLE: Duration = Duration::from_secs(5);
/// A `Date` is rounded down to so much (RFC 9110 §5.6.7).
const GRAIN: Duration = Duration::from_secs(1);

const REMEDY: &str = "synchronise it (chrony or systemd-timesyncd; on EC2 with 169.254.169.123)";

/// What the first answer shows that bore a date.
pub(super) fn check(answered: Option<(SystemTime, Now)>) -> Finding {
    let Some((at, now)) = answered else {
        let detail = "not known to be right: no answer bore a date to compare with";
        return Finding::warning(Check::Clock, detail, "mend what keeps AWS from answering, then check again");
    };
    let (off, direction) = match at.duration_since(now.wall) {
        Ok(behind) => (behind, "behind"),
        Err(ahead) => (ahead.duration().saturating_sub(GRAIN), "ahead of"),
    };
    let detail = format!("{} s {direction} that of AWS", off.as_secs());
    match off {
        off if off > TOLERABLE => Finding::failed(Check::Clock, detail, REMEDY),
        off if off > UNREMARKABLE => Finding::warning(Check::Clock, detail, REMEDY),
        _ => Finding::ok(Check::Clock, "that of AWS"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use crate::checks::Outcome;

    #[test]
    fn a_minute_is_too_much_and_five_seconds_are_worth_a_word() {
        let now = Clock::System.now();
        let outcome = |ahead: i64| {
            let distance = Duration::from_secs(ahead.unsigned_abs());
            check(Some((if ahead < 0 { now.wall + distance } else { now.wall - distance }, now))).outcome
        };
        for (ahead, expected) in [
            (0, Outcome::Ok),
            (6, Outcome::Ok),
            (-5, Outcome::Ok),
            (7, Outcome::Warning),
            (-60, Outcome::Warning),
            (61, Outcome::Warning),
            (62, Outcome::Failed),
            (-61, Outcome::Failed),
        ] {
            assert_eq!(outcome(ahead), expected, "{ahead} s ahead");
        }
        assert_eq!(check(None).outcome, Outcome::Warning);
    }
}
