//! gRPC's framing, as far as the fault layer needs it: messages in a body, and the caller's timeout.
//!
//! Source: "gRPC over HTTP2", sections Requests and Length-Prefixed-Message.

use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::HeaderMap;

/// The messages of a body: each is one byte of flags, four of length, and so many of content. A compressed message is
/// left out, and so is one that the body cuts short.
pub(super) fn messages(mut body: Bytes) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while body.len() >= 5 {
        let compressed = body.get_u8() != 0;
        let length = body.get_u32() as usize;
        if body.len() < length {
            break;
        }
        let message = body.split_to(length);
        if !compressed {
            messages.push(message);
        }
    }
    messages
}

/// The timeout that the caller sent: at most eight digits and a unit.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("120S", Some(Duration::from_secs(120)))]
    #[case("2H", Some(Duration::from_secs(7200)))]
    #[case("3M", Some(Duration::from_secs(180)))]
    #[case("119999m", Some(Duration::from_millis(119_999)))]
    #[case("99999999u", Some(Duration::from_micros(99_999_999)))]
    #[case("5n", Some(Duration::from_nanos(5)))]
    #[case("100000000n", None)]
    #[case("+5S", None)]
    #[case("S", None)]
    #[case("", None)]
    #[case("5", None)]
    #[case("5s", None)]
    fn reads_timeouts(#[case] text: &str, #[case] expected: Option<Duration>) {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().expect("a header's value"));
        // A unit without a number is no timeout.
        assert_eq!(timeout(&headers), expected);
    }

    #[rstest]
    #[case(b"", &[])]
    #[case(b"\0\0\0\0\x02ab\0\0\0\0\0", &["ab", ""])]
    #[case(b"\x01\0\0\0\x02ab\0\0\0\0\x01c", &["c"])]
    #[case(b"\0\0\0\0\x03ab", &[])]
    #[case(b"\0\0\0", &[])]
    fn splits_bodies(#[case] body: &'static [u8], #[case] expected: &[&str]) {
        assert_eq!(messages(Bytes::from_static(body)), expected);
    }
}
