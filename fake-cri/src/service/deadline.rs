//! Timeouts of requests and the deadline of the call.

use std::time::{Duration, Instant};

use tonic::metadata::MetadataMap;

/// Converts seconds of the CRI. A negative value counts as 0.
pub(super) fn seconds_to_duration(value: i64) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or(0))
}

/// The deadline in the caller's `grpc-timeout` header, shortened by a margin: the runtime must return its own error
/// before the transport ends the call with Cancelled.
pub(super) fn caller_deadline(metadata: &MetadataMap, start: Instant) -> Option<Instant> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (value, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value: u64 = value.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(value.checked_mul(3600)?),
        "M" => Duration::from_secs(value.checked_mul(60)?),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    };
    let margin = (timeout / 10).min(Duration::from_millis(20));
    start.checked_add(timeout - margin)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("2S", Some(1980))]
    #[case("100m", Some(90))]
    #[case("1H", Some(3_599_980))]
    #[case("500000u", Some(480))]
    #[case("5", None)]
    #[case("S", None)]
    #[case("-1S", None)]
    #[case("", None)]
    fn deadline_is_shortened_by_a_margin(#[case] text: &str, #[case] expected: Option<u64>) {
        let start = Instant::now();
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", text.parse().unwrap());
        let remaining = caller_deadline(&metadata, start).map(|deadline| deadline - start);
        assert_eq!(remaining, expected.map(Duration::from_millis));
    }

    #[test]
    fn no_header_means_no_deadline() {
        assert_eq!(caller_deadline(&MetadataMap::new(), Instant::now()), None);
    }
}
