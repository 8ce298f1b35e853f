//! How long sessions are asked for. Their bounds follow from what is served: renewals begin at half of a life, and 20 minutes
//! have to be left on anything served, so that SDKs with windows of 15 minutes fetch once and not at each use.

use std::time::Duration;

use humantime::{format_duration, parse_duration};

use crate::domain::policy::fault::shown;

/// What every role allows, and what is asked for when nothing is said.
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// The most that a role can allow (STS API, `DurationSeconds`).
const MOST: Duration = Duration::from_secs(12 * 3600);

/// At the latest time of its renewal, 55 % of its life, the 20 minutes are left that are kept on what is served.
const LEAST_HOP: Duration = Duration::from_secs(45 * 60);

/// The life of a web identity session: 1 to 12 hours.
pub(super) fn of_web_identity(text: &str) -> Result<Duration, String> {
    let duration = parse(text)?;
    if duration < HOUR {
        return Err(format!(
            "{} is too short: every role allows 1h, and less can't keep 20 minutes on what is served",
            format_duration(duration)
        ));
    }
    if duration > MOST {
        return Err(format!("{} is too long: no role allows more than 12h", format_duration(duration)));
    }
    Ok(duration)
}

/// The life of a chained session: 45 minutes to 1 hour (IAM User Guide, "Role chaining").
pub(super) fn of_hop(text: &str) -> Result<Duration, String> {
    let duration = parse(text)?;
    if duration < LEAST_HOP {
        return Err(format!("{} is too short: less than 45m can't keep 20 minutes on what is served", format_duration(duration)));
    }
    if duration > HOUR {
        return Err(format!(
            "{} is too long: a chained session lasts 1h at most, whatever its role allows",
            format_duration(duration)
        ));
    }
    Ok(duration)
}

fn parse(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text);
    let whole = duration.ok().filter(|duration| duration.subsec_nanos() == 0);
    whole.ok_or_else(|| format!("{} is not a duration, in whole seconds and with their unit: 1h, 90m and 3600s are", shown(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_bounds() {
        let minutes = |minutes: u64| Ok(Duration::from_secs(minutes * 60));
        assert_eq!(of_web_identity("1h"), minutes(60));
        assert_eq!(of_web_identity("90m"), minutes(90));
        assert_eq!(of_web_identity("43200s"), minutes(720));
        assert_eq!(of_hop("45m"), minutes(45));
        assert_eq!(of_hop("3600s"), minutes(60));
        let wrong =
            [of_web_identity("59m"), of_web_identity("43201s"), of_hop("2399s"), of_hop("61m"), of_hop("3600"), of_hop("")];
        let words = ["too short", "too long", "too short", "too long", "not a duration", "not a duration"];
        for (result, word) in wrong.into_iter().zip(words) {
            assert!(result.as_ref().is_err_and(|message| message.contains(word)), "{result:?}");
        }
    }
}
