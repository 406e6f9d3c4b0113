//! Routing as in the kubelet: Go's `ServeMux` in front of go-restful.
//!
//! ```text
//!  path not canonical -> redirect          (before authentication)
//!  no such root       -> no such route     (before authentication)
//!  authentication, authorization
//!  wrong shape -> 404, wrong method -> 405, wrong Accept -> 415 or 406
//! ```

use http::{HeaderMap, Method, StatusCode, header};
use percent_encoding::percent_decode_str;

use super::Config;
use super::responses::{self, Rejection, reject};

/// The namespace, the Pod and the container in a path.
pub(crate) type PathNames = [String; 3];

/// The result of the outer router, before authentication.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Healthz,
    Metrics,
    Pods,
    ContainerLogs,
    Checkpoint,
    /// A debugging handler, while the debugging handlers are disabled.
    DebuggingDisabled,
    /// The path is not canonical. The value is the canonical path with the query.
    Redirect(String),
    Unknown,
}

/// The optional routes that a port serves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServedRoutes {
    pub(crate) debugging: bool,
    pub(crate) checkpoint: bool,
}

impl ServedRoutes {
    /// The debugging handlers are served only where requests are authenticated. The checkpoint handler is one of them.
    pub(crate) fn new(config: &Config, authenticated: bool) -> Self {
        let debugging = authenticated && config.debugging_handlers;
        Self {
            debugging,
            checkpoint: debugging && config.checkpoint_gate(),
        }
    }
}

/// The outer router. `raw` is the path as received, still percent-encoded.
pub(super) fn match_route(raw: &str, query: Option<&str>, roots: ServedRoutes) -> Route {
    let mut clean = canonical(raw);
    // The kubelet registers this route with a trailing slash.
    if clean == "/checkpoint" && roots.checkpoint {
        clean.push('/');
    }
    if clean != raw {
        // Go percent-encodes the encoded path again here.
        let path = clean.replace('%', "%25");
        return Route::Redirect(query.map_or_else(|| path.clone(), |query| format!("{path}?{query}")));
    }
    let mut segments = raw.trim_start_matches('/').split('/');
    let first = segments.next().and_then(decode).unwrap_or_default();
    let exact = segments.next().is_none();
    match first.as_str() {
        "healthz" if exact || matches!(raw, "/healthz/ping" | "/healthz/log" | "/healthz/syncloop") => Route::Healthz,
        "metrics" if exact => Route::Metrics,
        "pods" => Route::Pods,
        "containerLogs" if roots.debugging => Route::ContainerLogs,
        "run" | "exec" | "attach" | "portForward" | "containerLogs" if !exact && !roots.debugging => {
            Route::DebuggingDisabled
        }
        "checkpoint" if roots.checkpoint => Route::Checkpoint,
        _ => Route::Unknown,
    }
}

/// Returns the three names after the first segment of a decoded path; 404 when there are not exactly three.
pub(crate) fn path_names(path: &str) -> Result<PathNames, Rejection> {
    let names: Vec<_> = path.trim_matches('/').split('/').skip(1).map(str::to_owned).collect();
    PathNames::try_from(names).map_err(|_| page_not_found())
}

/// The response of go-restful for a path without a route.
pub(crate) fn page_not_found() -> Rejection {
    reject(StatusCode::NOT_FOUND, "404: Page Not Found")
}

pub(crate) fn check_method(requested: &Method, route: Method) -> Result<(), Rejection> {
    if *requested == route {
        return Ok(());
    }
    let allow = if route == Method::POST { "POST" } else { "GET" };
    Err(Box::new(responses::method_not_allowed(allow)))
}

/// Checks the Accept header for a JSON response. Kubelets before 1.36 return 415 for a request without a body.
pub(super) fn accepts_json(headers: &HeaderMap) -> Result<(), Rejection> {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let is_json = |kind: &str| {
        let kind = kind.split(';').next().unwrap_or_default().trim_matches(' ');
        kind == "*/*" || kind == "application/json"
    };
    if accept.is_empty() || accept.split(',').any(is_json) {
        return Ok(());
    }
    let text = "406: Not Acceptable\n\nAvailable representations: application/json";
    Err(reject(StatusCode::NOT_ACCEPTABLE, text))
}

/// Returns all values of a query parameter, as Go's `url.ParseQuery`: parts that cannot be decoded are dropped.
pub(crate) fn query_values(query: Option<&str>, name: &str) -> Vec<String> {
    let parts = query
        .unwrap_or_default()
        .split('&')
        .filter(|part| !part.is_empty() && !part.contains(';'));
    parts
        .filter_map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let decode_form = |text: &str| decode(&text.replace('+', " "));
            (decode_form(key)? == name).then(|| decode_form(value))?
        })
        .collect()
}

/// Decodes percent-encoding; `None` when an escape is malformed.
pub(crate) fn decode(text: &str) -> Option<String> {
    let is_escape = |rest: &str| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit);
    let is_valid = text.split('%').skip(1).all(is_escape);
    is_valid.then(|| percent_decode_str(text).decode_utf8_lossy().into_owned())
}

/// Returns the canonical form of a path, without empty, `.` and `..` segments. A trailing slash stays.
pub(crate) fn canonical(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    let mut clean = format!("/{}", segments.join("/"));
    if path.ends_with('/') && clean != "/" {
        clean.push('/');
    }
    clean
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const ALL: ServedRoutes = ServedRoutes {
        debugging: true,
        checkpoint: true,
    };

    #[rstest]
    #[case("/checkpoint/a/b/c", Route::Checkpoint)]
    #[case("/checkpoint", Route::Redirect("/checkpoint/".into()))]
    #[case("/checkpoint/", Route::Checkpoint)]
    #[case("/check%70oint/a/b/c", Route::Checkpoint)]
    #[case("/checkpoint/a//c", Route::Redirect("/checkpoint/a/c".into()))]
    #[case("/checkpoint/a/b/../c", Route::Redirect("/checkpoint/a/c".into()))]
    #[case("/checkpoint//%20/c", Route::Redirect("/checkpoint/%2520/c".into()))]
    #[case("/checkpoints/a/b/c", Route::Unknown)]
    #[case("/", Route::Unknown)]
    #[case("/healthz", Route::Healthz)]
    #[case("/healthz/ping", Route::Healthz)]
    #[case("/healthz/other", Route::Unknown)]
    #[case("/pods/", Route::Pods)]
    #[case("/containerLogs/a/b/c", Route::ContainerLogs)]
    fn matches_routes(#[case] path: &str, #[case] expected: Route) {
        assert_eq!(match_route(path, None, ALL), expected);
    }

    #[test]
    fn without_debugging_handlers() {
        let roots = ServedRoutes {
            debugging: false,
            checkpoint: false,
        };
        assert_eq!(match_route("/checkpoint/a/b/c", None, roots), Route::Unknown);
        assert_eq!(
            match_route("/containerLogs/a/b/c", None, roots),
            Route::DebuggingDisabled
        );
        assert_eq!(match_route("/containerLogs", None, roots), Route::Unknown);
    }

    #[rstest]
    #[case(None, &[])]
    #[case(Some("timeout"), &[""])]
    #[case(Some("timeout=1&timeout=2"), &["1", "2"])]
    #[case(Some("a=b&time%6fut=%2B5"), &["+5"])]
    #[case(Some("timeout=+5"), &[" 5"])]
    #[case(Some("timeout=%zz&timeout=7"), &["7"])]
    #[case(Some("timeout=1;2"), &[])]
    fn reads_the_query(#[case] query: Option<&str>, #[case] expected: &[&str]) {
        assert_eq!(query_values(query, "timeout"), expected);
    }

    #[rstest]
    #[case("", true)]
    #[case("*/*", true)]
    #[case("text/html, application/json;q=0.5", true)]
    #[case("application/*", false)]
    #[case("text/html", false)]
    fn matches_the_accept_header(#[case] accept: &str, #[case] expected: bool) {
        let mut headers = HeaderMap::new();
        if !accept.is_empty() {
            headers.insert(header::ACCEPT, accept.parse().unwrap());
        }
        assert_eq!(accepts_json(&headers).is_ok(), expected);
    }
}
