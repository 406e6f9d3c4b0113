//! The responses, in the form of Go's HTTP server.

use bytes::Bytes;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Response, StatusCode};

pub(crate) type FullResponse = Response<Bytes>;

/// The content type that Go's `http.DetectContentType` returns for text.
pub(crate) const TEXT_PLAIN: &str = "text/plain; charset=utf-8";
/// The content type that it returns for binary data.
const OCTET_STREAM: &str = "application/octet-stream";

/// Returns a response whose content type is detected from the body, as with go-restful's `WriteErrorString`.
pub(crate) fn with_sniffed_type(status: StatusCode, body: impl Into<Vec<u8>>) -> FullResponse {
    let body = body.into();
    let kind = sniff(&body);
    with_type(status, kind, body)
}

/// A response that ends the handling of a request.
pub(crate) type Rejection = Box<FullResponse>;

/// Returns a rejection whose content type is detected from the body.
pub(crate) fn reject(status: StatusCode, body: impl Into<Vec<u8>>) -> Rejection {
    Box::new(with_sniffed_type(status, body))
}

/// Returns the response of Go's `http.Error`: the text with a newline, and `X-Content-Type-Options: nosniff`.
pub(super) fn go_error(status: StatusCode, text: &str) -> FullResponse {
    let mut response = with_type(status, TEXT_PLAIN, format!("{text}\n"));
    response
        .headers_mut()
        .insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

pub(super) fn healthy() -> FullResponse {
    let mut response = with_type(StatusCode::OK, TEXT_PLAIN, "ok");
    response
        .headers_mut()
        .insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

pub(super) fn bad_request() -> FullResponse {
    let mut response = with_type(StatusCode::BAD_REQUEST, TEXT_PLAIN, "400 Bad Request");
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Returns a response without a content type, as for logs.
pub(super) fn without_content_type(status: StatusCode, body: impl Into<Vec<u8>>) -> FullResponse {
    let mut response = Response::new(Bytes::from(body.into()));
    *response.status_mut() = status;
    response
}

pub(crate) fn route_not_found() -> FullResponse {
    go_error(StatusCode::NOT_FOUND, "404 page not found")
}

pub(crate) fn json(body: impl Into<Vec<u8>>) -> FullResponse {
    with_type(StatusCode::OK, "application/json", body)
}

pub(crate) fn with_type(status: StatusCode, kind: &'static str, body: impl Into<Vec<u8>>) -> FullResponse {
    let mut response = Response::new(Bytes::from(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

pub(crate) fn method_not_allowed(allow: &'static str) -> FullResponse {
    let mut response = with_sniffed_type(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

pub(super) fn redirect(location: &str, with_body: bool) -> FullResponse {
    let mut response = if with_body {
        let text = format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", escape_html(location));
        with_type(StatusCode::TEMPORARY_REDIRECT, "text/html; charset=utf-8", text)
    } else {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        response
    };
    if let Ok(value) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, value);
    }
    response
}

/// Detects the content type as Go does. The error texts begin with fixed words that match no signature of another
/// format, so only control bytes make them binary.
fn sniff(body: &[u8]) -> &'static str {
    let is_binary = |byte: &u8| matches!(byte, 0x00..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f);
    if body.iter().take(512).any(is_binary) {
        OCTET_STREAM
    } else {
        TEXT_PLAIN
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
    fn sniffs_like_go() {
        assert_eq!(sniff(b"checkpointing of a/b/c failed (x)"), TEXT_PLAIN);
        assert_eq!(sniff("h\u{e4}ngt\n\t\x1b[0m".as_bytes()), TEXT_PLAIN);
        assert_eq!(sniff(b"checkpointing of a/b/c failed (\0)"), OCTET_STREAM);
        assert_eq!(sniff(&[vec![b'a'; 512], vec![0]].concat()), TEXT_PLAIN);
    }
}
