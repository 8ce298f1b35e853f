//! How long to wait after failures in a row, as a pure function: the one form of backoff in credlet. Who spreads it does so beside.

use std::time::Duration;

/// `first` after the first failure, twice that after the second, and so on up to `longest`.
#[must_use]
pub fn doubled(first: Duration, in_a_row: u32, longest: Duration) -> Duration {
    let factor = 1_u32.checked_shl(in_a_row.saturating_sub(1)).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_doubles_it_up_to_the_longest() {
        let second = Duration::from_secs(1);
        for (in_a_row, expected) in [(0, 1), (1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (40, 60), (u32::MAX, 60)] {
            assert_eq!(doubled(second, in_a_row, 60 * second), expected * second, "{in_a_row}");
        }
    }
}
