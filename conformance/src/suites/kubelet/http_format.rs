//! The format of requests apart from the path (method, media types, query, body, protocol), and the format of error
//! responses.

use reqwest::{
    Method,
    header::{ACCEPT, HeaderMap, HeaderName, HeaderValue},
};

use super::session::{KEEPS_RUNNING_CASE, KubeletSession, OK_CASE, WHEN_DONE_CASE, describe_calls};
use crate::{
    engine::{Capability, Case, CaseResult, Level, NonPass, case, check, pass, skip},
    suites::authority,
    targets::{Credentials, HttpResponse, Protocol, RawRequest},
};

const ACCEPT_CASE: &str = "kubelet/request/accept-without-json-rejected";

pub(super) const CASES: &[Case<KubeletSession>] = &[
    case("kubelet/method/post-only", Level::Reference)
        .requirement("The kubelet must return 405 and make no checkpoint for every method other than POST.")
        .authority(authority::KUBELET_SERVER)
        .expected("405: Method Not Allowed")
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(other_methods(s))),
    case("kubelet/method/allow-header", Level::Reference)
        .requirement("The kubelet must name the allowed method in the Allow header of a 405.")
        .authority(authority::KUBELET_SERVER)
        .expected("Allow: POST")
        .may_depend_on(&[OK_CASE, "kubelet/method/post-only"])
        .run(|s| Box::pin(allow_header(s))),
    case("kubelet/request/accept-without-json-rejected", Level::Reference)
        .requirement("The kubelet must reject an Accept header that excludes JSON.")
        .authority(authority::KUBELET_SERVER)
        .expected("406 with a body; 406, or 415 before Kubernetes 1.36, without a body")
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(excludes_json(s))),
    case("kubelet/request/not-acceptable-body", Level::Reference)
        .requirement("The kubelet must list the available representations in the body of a 406.")
        .authority(authority::KUBELET_SERVER)
        .expected("406: Not Acceptable, and `Available representations: application/json`")
        .may_depend_on(&[OK_CASE, "kubelet/request/accept-without-json-rejected"])
        .run(|s| Box::pin(not_acceptable(s))),
    case("kubelet/request/accept-list-with-json", Level::Reference)
        .requirement("The kubelet must accept an Accept header that allows JSON among other types.")
        .authority(authority::KUBELET_SERVER)
        .expected("200 for text/html, application/json;q=0.5")
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .run(|s| Box::pin(accept_list(s))),
    case("kubelet/request/body-ignored", Level::Reference)
        .requirement("The kubelet must ignore the body of the request.")
        .authority(authority::KUBELET_SERVER)
        .expected("200 for a body that is not JSON")
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .run(|s| Box::pin(request_body(s))),
    case("kubelet/request/unknown-parameter-ignored", Level::Reference)
        .requirement("The kubelet must ignore unknown query parameters.")
        .authority(authority::KUBELET_SERVER)
        .expected("200")
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(1)
        .run(|s| Box::pin(unknown_parameter(s))),
    case("kubelet/http2/same-responses", Level::Reference)
        .requirement("A kubelet that speaks HTTP/2 must return the same responses over HTTP/2 as over HTTP/1.1.")
        .authority(authority::KUBELET_SERVER)
        .expected("same status, body, media type and call of the runtime for 200, 401, 403, 404, 405, 406 and 500")
        .requires(&[Capability::DirectConnection])
        .depends_on(&[KEEPS_RUNNING_CASE])
        .may_depend_on(&[WHEN_DONE_CASE])
        .max_archives(4)
        .run(|s| Box::pin(same_responses_over_http2(s))),
    case("kubelet/response/error-content-type", Level::Reference)
        .requirement("The kubelet must send errors as plain text, with a Content-Type header that says so.")
        .authority(authority::KUBELET_SERVER)
        .expected("text/plain; charset=utf-8")
        .may_depend_on(&[OK_CASE])
        .run(|s| Box::pin(content_type(s))),
];

async fn send_request(s: &KubeletSession, method: Method, path: &str) -> Result<HttpResponse, NonPass> {
    s.require_endpoint().await?;
    let client = s.kubelet.client().await;
    let response = client.send(Credentials::Authorized, method, client.url(path)).await?;
    s.kubelet.remember_archives(&response);
    Ok(response)
}

fn checkpoint_path(s: &KubeletSession) -> String {
    format!("/checkpoint/{}", s.container_under_test())
}

async fn other_methods(s: &KubeletSession) -> CaseResult {
    let mut problems = Vec::new();
    let journal_position = s.journal_position().await?;
    let extension = Method::from_bytes(b"CHECKPOINT").map_err(|error| NonPass::error(&error))?;
    for method in [
        Method::GET,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::HEAD,
        Method::OPTIONS,
        extension,
    ] {
        let response = send_request(s, method.clone(), &checkpoint_path(s)).await?;
        // Authorization comes before routing, and every method maps to a verb of its own. A user who may only create
        // checkpoints, such as a Job's service account, gets 403 here. On a kubelet that the harness starts, the user
        // may do everything.
        if response.status == 403 && s.kubelet.lifecycle.is_none() {
            return skip(format!("requires a user who may {method} nodes/checkpoint"));
        }
        // The response to HEAD has no body.
        let body_matches = method == Method::HEAD || response.body == "405: Method Not Allowed";
        if response.status != 405 || !body_matches {
            problems.push(format!("{method}: {}", response.summary()));
        }
    }
    problems.extend(overridden_methods(s).await?);
    let calls = s.calls_after(journal_position).await?;
    let called = describe_calls(&calls);
    if problems.is_empty() && calls.is_none_or(|calls| calls.is_empty()) {
        return pass(format!(
            "405 for GET, PUT, DELETE, PATCH, HEAD, OPTIONS, CHECKPOINT, and for GET that asks for POST; {called}"
        ));
    }
    problems.push(called);
    check(false, problems.join("; "))
}

/// Sends GET with what some servers read as another method. Returns the responses that are not 405.
async fn overridden_methods(s: &KubeletSession) -> Result<Vec<String>, NonPass> {
    let client = s.kubelet.client().await;
    let mut problems = Vec::new();
    for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static("POST"))]);
        let url = client.url(&format!("{}?_method=POST", checkpoint_path(s)));
        let response = client
            .send_with(Credentials::Authorized, Method::GET, url, headers, Vec::new())
            .await?;
        s.kubelet.remember_archives(&response);
        if response.status != 405 {
            problems.push(format!("GET with {name}: {}", response.summary()));
        }
    }
    Ok(problems)
}

async fn allow_header(s: &KubeletSession) -> CaseResult {
    let response = send_request(s, Method::GET, &checkpoint_path(s)).await?;
    if response.status != 405 {
        return Err(NonPass::Blocked("kubelet/method/post-only"));
    }
    let actual = response.header("allow");
    check(actual == "POST", format!("Allow: {actual}"))
}

async fn excludes_json(s: &KubeletSession) -> CaseResult {
    s.require_endpoint().await?;
    let client = s.kubelet.client().await;
    let mut statuses = Vec::new();
    for body in [Vec::new(), b"{}".to_vec()] {
        let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("text/html"))]);
        let url = client.url(&checkpoint_path(s));
        let response = client
            .send_with(Credentials::Authorized, Method::POST, url, headers, body)
            .await?;
        s.kubelet.remember_archives(&response);
        statuses.push(response.status);
    }
    check(
        matches!(statuses[..], [406 | 415, 406]),
        format!("{} without a body, {} with a body", statuses[0], statuses[1]),
    )
}

/// Sends a POST for the container under test with these headers, this body and this query.
async fn post_checkpoint(
    s: &KubeletSession,
    headers: HeaderMap,
    body: &[u8],
    query: &str,
) -> Result<HttpResponse, NonPass> {
    let client = s.kubelet.client().await;
    let container_under_test = s.container_under_test();
    let url = client.checkpoint_url(container_under_test, query);
    let response = client
        .send_with(Credentials::Authorized, Method::POST, url, headers, body.to_vec())
        .await?;
    s.kubelet.remember_archives(&response);
    Ok(response)
}

fn accept_header(types: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(types))])
}

async fn not_acceptable(s: &KubeletSession) -> CaseResult {
    const EXPECTED_BODY: &str = "406: Not Acceptable\n\nAvailable representations: application/json";
    s.require_endpoint().await?;
    // With a body, because older kubelets return 415 for a request without a body.
    let response = post_checkpoint(s, accept_header("text/html"), b"{}", "").await?;
    if response.status != 406 {
        return Err(NonPass::Blocked(ACCEPT_CASE));
    }
    check(response.body == EXPECTED_BODY, format!("{:?}", response.body))
}

async fn accept_list(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let response = post_checkpoint(s, accept_header("text/html, application/json;q=0.5"), b"", "").await?;
    check(response.status == 200, response.summary())
}

async fn request_body(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let response = post_checkpoint(s, HeaderMap::new(), b"{not json", "").await?;
    check(response.status == 200, response.summary())
}

async fn unknown_parameter(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let response = post_checkpoint(s, HeaderMap::new(), b"", "leaveRunning=false&pretty").await?;
    check(response.status == 200, response.summary())
}

async fn same_responses_over_http2(s: &KubeletSession) -> CaseResult {
    s.require_checkpointable().await?;
    let client = s.kubelet.client().await;
    let own = checkpoint_path(s);
    let unknown = format!("{own}-unknown");
    let malformed = format!("{own}?timeout=soon");
    let negative = format!("{own}?timeout=-1");
    let with_timeout = format!("{own}?timeout=517");
    let request = |credentials, method, path| RawRequest::new(credentials, Protocol::Http1, method, path);
    let mut requests = vec![
        request(Credentials::Authorized, Method::POST, own.as_str()),
        request(Credentials::Anonymous, Method::POST, own.as_str()),
        request(Credentials::InvalidToken, Method::POST, own.as_str()),
        request(Credentials::Authorized, Method::POST, unknown.as_str()),
        request(Credentials::Authorized, Method::GET, own.as_str()),
        request(Credentials::Authorized, Method::POST, malformed.as_str()),
        request(Credentials::Authorized, Method::POST, negative.as_str()),
        request(Credentials::Authorized, Method::POST, with_timeout.as_str()),
        RawRequest {
            // With a body, because the response of older kubelets without one depends on the protocol.
            accept: "text/html",
            body: "{}",
            ..request(Credentials::Authorized, Method::POST, own.as_str())
        },
    ];
    let identities = &client.endpoint().extra_identities;
    if identities.denied_user.is_some() {
        requests.push(request(Credentials::Denied, Method::POST, own.as_str()));
    }
    if identities.token_user.is_some() {
        requests.push(request(Credentials::ValidToken, Method::POST, malformed.as_str()));
    }
    let mut actual = Vec::new();
    let mut same = true;
    for request in requests {
        let mut outcomes = Vec::new();
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let request = RawRequest {
                protocol,
                ..request.clone()
            };
            let journal_position = s.journal_position().await?;
            let response = client.send_raw(request).await?;
            let Some(response) = response else {
                return skip(format!("requires a kubelet that speaks {protocol}"));
            };
            s.kubelet.remember_archives(&response);
            let calls = s.calls_after(journal_position).await?.unwrap_or_default();
            let timeouts: Vec<_> = calls.iter().map(|call| call.timeout).collect();
            outcomes.push((response, timeouts));
        }
        let (one, two) = (&outcomes[0], &outcomes[1]);
        same &= is_same_response(&one.0, &two.0) && one.1 == two.1;
        actual.push(format!(
            "{} as {:?}: {} over HTTP/1.1, {} over HTTP/2",
            request.method,
            request.credentials,
            describe_outcome(one),
            describe_outcome(two)
        ));
    }
    check(same, actual.join(", "))
}

/// Whether the responses differ at most in the location of an archive, which contains a timestamp.
fn is_same_response(one: &HttpResponse, two: &HttpResponse) -> bool {
    one.status == two.status
        && one.header("content-type") == two.header("content-type")
        && (one.status == 200 || one.body == two.body)
}

fn describe_outcome((response, timeouts): &(HttpResponse, Vec<i64>)) -> String {
    match &timeouts[..] {
        [] => response.status.to_string(),
        [timeout] => format!("{} with timeout {timeout}", response.status),
        _ => format!("{} with {} calls", response.status, timeouts.len()),
    }
}

async fn content_type(s: &KubeletSession) -> CaseResult {
    const TEXT_PLAIN: &str = "text/plain; charset=utf-8";
    s.require_endpoint().await?;
    let container_under_test = s.container_under_test();
    let unknown = container_under_test.sibling("checkpoint-conformance-no-such-container");
    let mut responses = vec![
        s.kubelet.checkpoint(&unknown, "").await?,
        s.kubelet.checkpoint(container_under_test, "timeout=-1").await?,
        send_request(s, Method::GET, &checkpoint_path(s)).await?,
        send_request(s, Method::POST, "/checkpoint/too/short").await?,
        post_checkpoint(s, accept_header("text/html"), b"{}", "").await?,
    ];
    if !s.kubelet.through_node_proxy {
        responses.push(
            s.kubelet
                .checkpoint_as(Credentials::Anonymous, container_under_test, "")
                .await?,
        );
    }
    responses.retain(|response| response.status >= 400);
    if responses.is_empty() {
        return Err(NonPass::Blocked(OK_CASE));
    }
    let kind = |response: &HttpResponse| (response.status, response.header("content-type").to_owned());
    let problems: Vec<_> = responses
        .iter()
        .map(kind)
        .filter(|(_, kind)| kind != TEXT_PLAIN)
        .collect();
    if problems.is_empty() {
        let statuses: Vec<_> = responses.iter().map(|response| response.status.to_string()).collect();
        return pass(format!("{TEXT_PLAIN} for {}", statuses.join(", ")));
    }
    let problems: Vec<_> = problems
        .iter()
        .map(|(status, kind)| format!("{kind:?} for {status}"))
        .collect();
    check(false, problems.join(", "))
}
