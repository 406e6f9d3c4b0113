//! The query parameter `timeout`, and the timeout of the CRI request.

use std::time::Duration;

use http::StatusCode;

use super::super::responses::{Rejection, reject};
use super::super::route;

/// Returns the last value of the parameter; `None` without the parameter.
pub(crate) fn parse(query: Option<&str>) -> Result<Option<i64>, Rejection> {
    let last = route::query_values(query, "timeout").pop();
    last.map(|value| value.parse().map_err(|_| malformed())).transpose()
}

/// The response for a timeout that is not a number.
pub(crate) fn malformed() -> Rejection {
    reject(StatusCode::NOT_FOUND, "cannot parse value of timeout parameter")
}

/// Returns the field `timeout` of the CRI request and the deadline of the call. The deadline is `None` when it has
/// passed before the call.
pub(crate) fn field_and_deadline(requested: Option<i64>, default: Duration) -> (i64, Option<Duration>) {
    let timeout = requested.unwrap_or(0);
    let seconds = i64::try_from(default.as_secs()).unwrap_or(i64::MAX);
    if timeout <= seconds {
        return (seconds, Some(default));
    }
    // In the kubelet the multiplication of the seconds by 1e9 wraps around.
    let nanoseconds = u64::try_from(timeout.wrapping_mul(1_000_000_000)).unwrap_or(0);
    (timeout, (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds)))
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
        assert_eq!(field_and_deadline(requested, DEFAULT), (field, deadline));
    }

    #[rstest]
    #[case(None, Some(None))]
    #[case(Some("timeout=%2B5"), Some(Some(5)))]
    #[case(Some("timeout=1&timeout=2"), Some(Some(2)))]
    #[case(Some("timeout="), None)]
    fn reads_the_query(#[case] query: Option<&str>, #[case] expected: Option<Option<i64>>) {
        assert_eq!(parse(query).ok(), expected);
    }
}
