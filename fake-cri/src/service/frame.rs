//! The parts of gRPC's framing that the fault layer needs: messages in a body, and the caller's timeout.
//!
//! Source: "gRPC over HTTP2", sections Requests and Length-Prefixed-Message.

use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use tonic::Status;

/// The limit for the response of a call and for each message of a stream: the limit that containerd and CRI-O set in
/// gRPC for Go, and that of the kubelet's client.
pub(super) const RESPONSE_MAX_BYTES: usize = 16 << 20;
/// The prefix of each message: the compressed flag (1 byte) and the length (4 bytes).
pub(super) const PREFIX_BYTES: usize = 5;

/// The status for a message above the size limit, with the text of gRPC for Go (`stream.go`, `server.go`).
pub(super) fn too_large(bytes: usize, limit: usize) -> Status {
    Status::resource_exhausted(format!(
        "grpc: trying to send message larger than max ({bytes} vs. {limit})"
    ))
}

/// The length of the first message in a body that is larger than `limit`.
pub(super) fn find_message_above(mut body: &[u8], limit: usize) -> Option<usize> {
    while let Some((prefix, rest)) = body.split_at_checked(PREFIX_BYTES) {
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if length > limit {
            return Some(length);
        }
        body = rest.get(length..).unwrap_or_default();
    }
    None
}

/// Splits a body into its messages. Omits compressed messages and a truncated last message.
pub(super) fn split_messages(mut body: Bytes) -> Vec<Bytes> {
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

/// The timeout in the header `grpc-timeout`: at most eight digits and a unit.
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
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
    fn parses_grpc_timeouts(#[case] text: &str, #[case] expected: Option<Duration>) {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().expect("a valid header value"));
        assert_eq!(grpc_timeout(&headers), expected);
    }

    #[rstest]
    #[case(b"", None)]
    #[case(b"\0\0\0\0\x02ab\0\0\0\0\0", None)]
    #[case(b"\0\0\0\0\x02ab\0\0\0\0\x03abc", Some(3))]
    #[case(b"\0\0\0\0\x09a", Some(9))]
    #[case(b"\0\0\0", None)]
    fn finds_oversized_messages(#[case] body: &[u8], #[case] expected: Option<usize>) {
        assert_eq!(find_message_above(body, 2), expected);
    }

    #[rstest]
    #[case(b"", &[])]
    #[case(b"\0\0\0\0\x02ab\0\0\0\0\0", &["ab", ""])]
    #[case(b"\x01\0\0\0\x02ab\0\0\0\0\x01c", &["c"])]
    #[case(b"\0\0\0\0\x03ab", &[])]
    #[case(b"\0\0\0", &[])]
    fn splits_bodies(#[case] body: &'static [u8], #[case] expected: &[&str]) {
        assert_eq!(split_messages(Bytes::from_static(body)), expected);
    }
}
