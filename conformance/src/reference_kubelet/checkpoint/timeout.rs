//! The query parameter `timeout`, and the timeout of the CRI request.

use std::time::Duration;

use super::super::{Mutant, route};

/// The timeout of mutants that wait too long.
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// Returns the last value of the parameter; `None` without the parameter.
///
/// # Errors
/// The value is not a number.
pub(super) fn parse(query: Option<&str>, mutant: Option<Mutant>) -> Result<Option<i64>, std::num::ParseIntError> {
    let values = route::query_values(query, "timeout");
    let value = match mutant {
        Some(Mutant::FirstTimeoutWins) => values.first(),
        _ => values.last(),
    };
    let Some(value) = value else { return Ok(None) };
    match mutant {
        Some(Mutant::PlusSign404) if value.starts_with('+') => value.replace('+', "sign").parse().map(Some),
        Some(Mutant::TimeoutMalformedAccepted) => Ok(value.parse().ok()),
        Some(Mutant::NegativeTimeoutUsesDefault) => value.parse().map(|seconds: i64| Some(seconds.max(0))),
        _ => value.parse().map(Some),
    }
}

/// Returns the field `timeout` of the CRI request and the deadline of the call. The deadline is `None` when it has
/// passed before the call.
pub(super) fn field_and_deadline(
    requested: Option<i64>,
    default: Duration,
    mutant: Option<Mutant>,
) -> (i64, Option<Duration>) {
    let timeout = requested.unwrap_or(0);
    let seconds = i64::try_from(default.as_secs()).unwrap_or(i64::MAX);
    let day = Duration::from_secs(DAY_SECONDS.unsigned_abs());
    match mutant {
        Some(Mutant::TimeoutIgnored) => return (seconds, Some(default)),
        Some(Mutant::TimeoutZeroExpiresAtOnce) if requested == Some(0) => return (0, None),
        Some(Mutant::TimeoutBelowDefaultApplied) if (1..seconds).contains(&timeout) => {
            return (timeout, Some(Duration::from_secs(timeout.unsigned_abs())));
        }
        Some(Mutant::DefaultTimeoutOneDay) if requested.is_none() => return (DAY_SECONDS, Some(day)),
        _ => {}
    }
    if timeout <= seconds {
        return (seconds, Some(default));
    }
    // In the kubelet the multiplication of the seconds by 1e9 wraps around.
    let nanoseconds = u64::try_from(timeout.wrapping_mul(1_000_000_000)).unwrap_or(0);
    let deadline = (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds));
    match mutant {
        Some(Mutant::OverflowTimeoutCapped) => (timeout, deadline.or(Some(day))),
        _ => (timeout, deadline),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const DEFAULT: Duration = Duration::from_secs(120);

    #[rstest]
    #[case(None, 120, Some(DEFAULT))]
    #[case(Some(0), 120, Some(DEFAULT))]
    #[case(Some(1), 120, Some(DEFAULT))]
    #[case(Some(120), 120, Some(DEFAULT))]
    #[case(Some(121), 121, Some(Duration::from_secs(121)))]
    #[case(Some(i64::MAX), i64::MAX, None)]
    fn only_lengthens_the_timeout(
        #[case] requested: Option<i64>,
        #[case] field: i64,
        #[case] deadline: Option<Duration>,
    ) {
        assert_eq!(field_and_deadline(requested, DEFAULT, None), (field, deadline));
    }

    #[rstest]
    #[case(Mutant::TimeoutIgnored, Some(500), (120, Some(DEFAULT)))]
    #[case(Mutant::TimeoutZeroExpiresAtOnce, Some(0), (0, None))]
    #[case(Mutant::TimeoutZeroExpiresAtOnce, None, (120, Some(DEFAULT)))]
    #[case(Mutant::TimeoutBelowDefaultApplied, Some(3), (3, Some(Duration::from_secs(3))))]
    #[case(Mutant::DefaultTimeoutOneDay, None, (DAY_SECONDS, Some(Duration::from_secs(86_400))))]
    #[case(Mutant::DefaultTimeoutOneDay, Some(0), (120, Some(DEFAULT)))]
    #[case(Mutant::OverflowTimeoutCapped, Some(i64::MAX), (i64::MAX, Some(Duration::from_secs(86_400))))]
    fn mutants_get_the_timeout_wrong(
        #[case] mutant: Mutant,
        #[case] requested: Option<i64>,
        #[case] expected: (i64, Option<Duration>),
    ) {
        assert_eq!(field_and_deadline(requested, DEFAULT, Some(mutant)), expected);
    }

    #[rstest]
    #[case(None, None, Some(None))]
    #[case(None, Some("timeout=%2B5"), Some(Some(5)))]
    #[case(None, Some("timeout=1&timeout=2"), Some(Some(2)))]
    #[case(None, Some("timeout="), None)]
    #[case(Some(Mutant::PlusSign404), Some("timeout=%2B5"), None)]
    #[case(Some(Mutant::FirstTimeoutWins), Some("timeout=1&timeout=2"), Some(Some(1)))]
    #[case(Some(Mutant::NegativeTimeoutUsesDefault), Some("timeout=-7"), Some(Some(0)))]
    #[case(Some(Mutant::TimeoutMalformedAccepted), Some("timeout=x"), Some(None))]
    fn reads_the_query(
        #[case] mutant: Option<Mutant>,
        #[case] query: Option<&str>,
        #[case] expected: Option<Option<i64>>,
    ) {
        assert_eq!(parse(query, mutant).ok(), expected);
    }
}
