//! The answers, in the form that Go's HTTP server gives them.

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body_util::Full;

use super::Mutant;

/// An answer with its whole body.
pub(super) type Answer = Response<Full<Bytes>>;

/// What Go's sniffing calls text.
pub(super) const TEXT: &str = "text/plain; charset=utf-8";
/// What Go's sniffing calls anything else.
const BINARY: &str = "application/octet-stream";

/// A bare string whose content type is sniffed, as go-restful's `WriteErrorString` leaves it.
pub(super) fn plain(status: StatusCode, body: impl Into<Vec<u8>>) -> Answer {
    let body = body.into();
    let kind = sniff(&body);
    with_type(status, kind, body)
}

/// What mutants do to an answer that is otherwise right.
pub(super) fn spoil(mut answer: Answer, mutant: Option<Mutant>) -> Answer {
    let status = answer.status();
    match mutant {
        Some(Mutant::ErrorsAsJson) if status.is_client_error() || status.is_server_error() => {
            let kind = HeaderValue::from_static("application/json");
            answer.headers_mut().insert(CONTENT_TYPE, kind);
        }
        Some(Mutant::ChallengeOn401) if status == StatusCode::UNAUTHORIZED => {
            let challenge = HeaderValue::from_static("Bearer realm=\"kubelet\"");
            answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        Some(Mutant::AllowMissing) if status == StatusCode::METHOD_NOT_ALLOWED => {
            answer.headers_mut().remove(ALLOW);
        }
        Some(Mutant::NotAcceptableBare) if status == StatusCode::NOT_ACCEPTABLE => {
            *answer.body_mut() = Full::default();
        }
        _ => {}
    }
    answer
}

/// What Go's `http.Error` writes: a newline follows, and browsers are told not to guess.
pub(super) fn error(status: StatusCode, text: &str) -> Answer {
    let mut answer = with_type(status, TEXT, format!("{text}\n"));
    answer
        .headers_mut()
        .insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    answer
}

/// What `/healthz` says of a kubelet that is well.
pub(super) fn healthy() -> Answer {
    let mut answer = with_type(StatusCode::OK, TEXT, "ok");
    answer
        .headers_mut()
        .insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    answer
}

/// The request cannot be read.
pub(super) fn bad_request() -> Answer {
    let mut answer = with_type(StatusCode::BAD_REQUEST, TEXT, "400 Bad Request");
    answer
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// A body whose type is not told, as that of logs.
pub(super) fn untyped(status: StatusCode, body: impl Into<Vec<u8>>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.into())));
    *answer.status_mut() = status;
    answer
}

/// No route of the server fits.
pub(super) fn no_such_route() -> Answer {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

/// A JSON body.
pub(super) fn json(body: impl Into<Vec<u8>>) -> Answer {
    with_type(StatusCode::OK, "application/json", body)
}

/// A body of the given type.
pub(super) fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Vec<u8>>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.into())));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// The method is none of the route's.
pub(super) fn method_not_allowed(allow: &'static str) -> Answer {
    let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    answer
}

/// The path is not canonical: the same is to be asked there.
pub(super) fn redirect(location: &str, with_body: bool) -> Answer {
    let mut answer = if with_body {
        let text = format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", escape_html(location));
        with_type(StatusCode::TEMPORARY_REDIRECT, "text/html; charset=utf-8", text)
    } else {
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        answer
    };
    if let Ok(value) = HeaderValue::from_str(location) {
        answer.headers_mut().insert(LOCATION, value);
    }
    answer
}

/// Our error texts open with fixed words that are no other format's signature, so only control bytes make them binary.
fn sniff(body: &[u8]) -> &'static str {
    let binary = |byte: &u8| matches!(byte, 0x00..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    if body.iter().take(512).any(binary) {
        BINARY
    } else {
        TEXT
    }
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&#34;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sniffs_as_go_does() {
        assert_eq!(sniff(b"checkpointing of a/b/c failed (x)"), TEXT);
        assert_eq!(sniff("h\u{e4}ngt\n\t\x1b[0m".as_bytes()), TEXT);
        assert_eq!(sniff(b"checkpointing of a/b/c failed (\0)"), BINARY);
        assert_eq!(sniff(&[vec![b'a'; 512], vec![0]].concat()), TEXT);
    }
}
