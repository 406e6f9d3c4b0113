//! The answers of the reference kubelet, line by line of what is known of the Kubernetes kubelet.

use std::time::Duration;

use checkpoint_conformance::reference::Authorization;
use cri_proto::runtime::v1::CheckpointContainerRequest;
use http::{Method, StatusCode};
use rstest::rstest;
use tonic::Code;

use scripted::kubelet::{Bench, Who, mode, read};
use scripted::runtime::Script;

mod scripted;

const TEXT: &str = "text/plain; charset=utf-8";
const APP: &str = "/checkpoint/default/web-node/app";

#[tokio::test]
async fn a_checkpoint_is_asked_for_and_its_place_told() {
    let bench = Bench::start().await;
    let before = jiff::Timestamp::now().as_second();
    let (status, kind, body) = bench.ask(Method::POST, APP).await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, "application/json"));
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    let location = json["items"][0].as_str().unwrap();
    assert_eq!(
        body,
        format!("{{\"items\":[\"{location}\"]}}"),
        "one item, no space, no newline"
    );

    let stem = format!("{}/checkpoint-web-node_default-app-", bench.checkpoints().display());
    let time = location.strip_prefix(&stem).unwrap().strip_suffix(".tar").unwrap();
    let time: jiff::Timestamp = time.parse().unwrap();
    assert!((before..=before + 30).contains(&time.as_second()), "{time}");
    assert_eq!((time.subsec_nanosecond(), mode(&bench.checkpoints())), (0, 0o700));
    assert_eq!(std::fs::read_to_string(location).unwrap(), "tar");

    let sent: Vec<CheckpointContainerRequest> = bench.runtime.messages("CheckpointContainer");
    assert_eq!(
        (sent.len(), sent[0].location.as_str(), sent[0].timeout),
        (1, location, 120)
    );
    let deadline = bench.runtime.calls("CheckpointContainer")[0].deadline.unwrap();
    assert!((119_000..=120_000).contains(&deadline), "{deadline}");
    bench.kubelet.shutdown().await;
}

#[tokio::test]
async fn credentials_decide_first() {
    let bench = Bench::start().await;
    for (who, path) in [
        (Who::Nobody, APP),
        (Who::Stranger, APP),
        (Who::Token("wrong"), APP),
        (Who::Nobody, "/checkpoint/no/such/pod"),
        (Who::Nobody, "/checkpoint/too/short"),
        (Who::Nobody, "/healthz"),
    ] {
        let response = bench.client_of(&who).post(bench.url(path)).send().await.unwrap();
        assert!(response.headers().get("www-authenticate").is_none());
        assert_eq!(
            read(response).await,
            (StatusCode::UNAUTHORIZED, TEXT.into(), "Unauthorized".into()),
            "{path}"
        );
    }
    for who in [Who::User("alice"), Who::Token("secret")] {
        let response = bench.client_of(&who).post(bench.url(APP)).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    let both = bench
        .client_of(&Who::Stranger)
        .post(bench.url(APP))
        .bearer_auth("secret")
        .send()
        .await
        .unwrap();
    assert_eq!(
        both.status(),
        StatusCode::OK,
        "a right token makes up for a wrong certificate"
    );
}

#[tokio::test]
async fn anonymous_users_are_let_in_when_told_but_never_with_wrong_credentials() {
    let bench = Bench::with(|config| config.anonymous = true).await;
    let ask = |who: Who| bench.client_of(&who).get(bench.url("/healthz")).send();
    assert_eq!(ask(Who::Nobody).await.unwrap().status(), StatusCode::OK);
    assert_eq!(ask(Who::Stranger).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        ask(Who::Token("wrong")).await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn rules_decide_second() {
    let rules = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(rules.path(), "alice create nodes/checkpoint\n* get *\n").unwrap();
    let bench = Bench::with(|config| config.authorization = Authorization::Rules(rules.path().to_owned())).await;
    bench.ready().await;
    assert_eq!(bench.post(APP).await.status(), StatusCode::OK);
    let bob = bench.client_of(&Who::Token("secret"));
    for path in [APP, "/checkpoint/no/such/pod", "/checkpoint/too/short", "/checkpoint/"] {
        let answer = read(bob.post(bench.url(path)).send().await.unwrap()).await;
        let text = "Forbidden (user=bob, verb=create, resource=nodes, subresource(s)=[checkpoint])\n";
        assert_eq!(answer, (StatusCode::FORBIDDEN, TEXT.into(), text.into()), "{path}");
    }
    assert_eq!(
        bob.get(bench.url("/pods")).send().await.unwrap().status(),
        StatusCode::OK
    );
}

#[rstest]
#[case::gate_off(false, true)]
#[case::debugging_handlers_off(true, false)]
#[tokio::test]
async fn without_the_route_nobody_is_asked_who_they_are(#[case] gate: bool, #[case] debugging: bool) {
    let bench = Bench::with(|config| {
        config.container_checkpoint = Some(gate);
        config.debugging_handlers = debugging;
    })
    .await;
    for who in [Who::Nobody, Who::User("alice")] {
        let answer = bench.client_of(&who).post(bench.url(APP)).send().await.unwrap();
        assert_eq!(
            read(answer).await,
            (StatusCode::NOT_FOUND, TEXT.into(), "404 page not found\n".into())
        );
    }
    assert_eq!(bench.checkpoints().exists(), gate);
}

#[tokio::test]
async fn the_read_only_port_has_no_checkpoints() {
    let bench = Bench::with(|config| config.read_only_port = Some(0)).await;
    let address = bench.kubelet.read_only_address().unwrap();
    let client = reqwest::Client::new();
    let answer = read(client.post(format!("http://{address}{APP}")).send().await.unwrap()).await;
    assert_eq!(
        answer,
        (StatusCode::NOT_FOUND, TEXT.into(), "404 page not found\n".into())
    );
    assert_eq!(
        client
            .get(format!("http://{address}/healthz"))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap(),
        "ok"
    );
}

#[rstest]
#[case::method(Method::GET, APP, 405, "405: Method Not Allowed")]
#[case::method_before_pod(Method::PUT, "/checkpoint/no/such/pod", 405, "405: Method Not Allowed")]
#[case::too_few(Method::POST, "/checkpoint/default/web-node", 404, "404: Page Not Found")]
#[case::too_many(Method::POST, "/checkpoint/default/web-node/app/more", 404, "404: Page Not Found")]
#[case::bare(Method::POST, "/checkpoint/", 404, "404: Page Not Found")]
#[case::shape_before_method(Method::GET, "/checkpoint/a", 404, "404: Page Not Found")]
#[case::namespace(Method::POST, "/checkpoint/other/web-node/app", 404, "pod does not exist")]
#[case::pod(Method::POST, "/checkpoint/default/web/app", 404, "pod does not exist")]
#[case::container(
    Method::POST,
    "/checkpoint/default/web-node/nope",
    404,
    "container nope does not exist"
)]
#[case::timeout_empty(Method::POST, "/checkpoint/default/web-node/app?timeout=", 404, TIMEOUT)]
#[case::timeout_unit(Method::POST, "/checkpoint/default/web-node/app?timeout=10s", 404, TIMEOUT)]
#[case::timeout_fraction(Method::POST, "/checkpoint/default/web-node/app?timeout=1.5", 404, TIMEOUT)]
#[case::timeout_too_long(
    Method::POST,
    "/checkpoint/default/web-node/app?timeout=9223372036854775808",
    404,
    TIMEOUT
)]
#[case::last_counts(Method::POST, "/checkpoint/default/web-node/app?timeout=1&timeout=x", 404, TIMEOUT)]
#[case::pod_before_timeout(Method::POST, "/checkpoint/default/web/app?timeout=x", 404, "pod does not exist")]
#[case::negative(
    Method::POST,
    "/checkpoint/default/web-node/app?timeout=-1",
    500,
    "checkpointing of default/web-node/app failed (CheckpointContainer requires the timeout value to be > 0)"
)]
#[case::init_container_that_ended(
    Method::POST,
    "/checkpoint/default/web-node/first",
    500,
    "checkpointing of default/web-node/first failed (container first not found)"
)]
#[tokio::test]
async fn refusals_are_bare_strings(
    #[case] method: Method,
    #[case] path: &str,
    #[case] status: u16,
    #[case] text: &str,
) {
    let bench = Bench::start().await;
    let response = bench.client.request(method, bench.url(path)).send().await.unwrap();
    let allow = response
        .headers()
        .get("allow")
        .map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(allow.as_deref(), (status == 405).then_some("POST"));
    let (seen, kind, body) = read(response).await;
    assert_eq!((seen.as_u16(), kind.as_str(), body.as_str()), (status, TEXT, text));
    assert!(
        bench.runtime.calls("CheckpointContainer").is_empty(),
        "the runtime is not called"
    );
}

const TIMEOUT: &str = "cannot parse value of timeout parameter";

#[tokio::test]
async fn a_trailing_slash_and_any_body_are_tolerated() {
    let bench = Bench::start().await;
    assert_eq!(bench.post(&format!("{APP}/")).await.status(), StatusCode::OK);
    let response = bench
        .client
        .post(bench.url(APP))
        .body("{not json")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let redirected = bench
        .client_of(&Who::Nobody)
        .post(bench.url("/checkpoint//default/web-node/app?timeout=1"));
    let redirected = redirected.send().await.unwrap();
    assert_eq!(redirected.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(redirected.headers()["location"], format!("{APP}?timeout=1"));
}

#[rstest]
#[case("", 120, 120)]
#[case("?timeout=0", 120, 120)]
#[case("?timeout=1", 120, 120)]
#[case("?timeout=120", 120, 120)]
#[case("?timeout=121", 121, 121)]
#[case("?timeout=%2B500", 500, 500)]
#[case("?timeout=1&timeout=300", 300, 300)]
#[case("?timeout=300&timeout=1", 120, 120)]
#[tokio::test]
async fn the_timeout_can_only_be_lengthened(#[case] query: &str, #[case] field: i64, #[case] seconds: u64) {
    let bench = Bench::start().await;
    assert_eq!(bench.post(&format!("{APP}{query}")).await.status(), StatusCode::OK);
    let sent: Vec<CheckpointContainerRequest> = bench.runtime.messages("CheckpointContainer");
    assert_eq!(sent[0].timeout, field);
    let deadline = bench.runtime.calls("CheckpointContainer")[0].deadline.unwrap();
    assert!(
        (seconds * 1000 - 1000..=seconds * 1000).contains(&deadline),
        "{deadline}"
    );
}

#[rstest]
#[case(Code::Cancelled, "Canceled")]
#[case(Code::Unknown, "Unknown")]
#[case(Code::InvalidArgument, "InvalidArgument")]
#[case(Code::DeadlineExceeded, "DeadlineExceeded")]
#[case(Code::NotFound, "NotFound")]
#[case(Code::AlreadyExists, "AlreadyExists")]
#[case(Code::PermissionDenied, "PermissionDenied")]
#[case(Code::ResourceExhausted, "ResourceExhausted")]
#[case(Code::FailedPrecondition, "FailedPrecondition")]
#[case(Code::Aborted, "Aborted")]
#[case(Code::OutOfRange, "OutOfRange")]
#[case(Code::Unimplemented, "Unimplemented")]
#[case(Code::Internal, "Internal")]
#[case(Code::Unavailable, "Unavailable")]
#[case(Code::DataLoss, "DataLoss")]
#[case(Code::Unauthenticated, "Unauthenticated")]
#[tokio::test]
async fn the_runtimes_errors_are_500_with_its_message(#[case] code: Code, #[case] name: &str) {
    let bench = Bench::start().await;
    bench.runtime.script(Script::Error(
        code,
        "disk \"on\" fire: 100% h\u{e4}\u{df}lich".to_owned(),
    ));
    let text = format!(
        "checkpointing of default/web-node/app failed (rpc error: code = {name} desc = disk \"on\" fire: 100% h\u{e4}\u{df}lich)"
    );
    assert_eq!(
        bench.ask(Method::POST, APP).await,
        (StatusCode::INTERNAL_SERVER_ERROR, TEXT.into(), text)
    );
}

#[tokio::test]
async fn a_message_with_control_bytes_is_not_called_text() {
    let bench = Bench::start().await;
    bench
        .runtime
        .script(Script::Error(Code::Internal, "a\u{1}b".to_owned()));
    let (_, kind, body) = bench.ask(Method::POST, APP).await;
    assert_eq!(kind, "application/octet-stream");
    assert!(body.contains("a\u{1}b"));
}

#[tokio::test]
async fn a_runtime_that_does_not_answer_is_cut_off_at_the_deadline() {
    let bench = Bench::with(|config| config.runtime_request_timeout = Duration::from_millis(1500)).await;
    bench.ready().await;
    bench.runtime.script(Script::Hang);
    let began = std::time::Instant::now();
    let (status, _, body) = bench.ask(Method::POST, &format!("{APP}?timeout=1")).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(
        body,
        "checkpointing of default/web-node/app failed (rpc error: code = DeadlineExceeded desc = context deadline exceeded)"
    );
    assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
    let sent: Vec<CheckpointContainerRequest> = bench.runtime.messages("CheckpointContainer");
    assert_eq!(sent[0].timeout, 1, "whole seconds of the default");
    bench
        .runtime
        .until("the call is cancelled", |runtime| {
            runtime.calls("CheckpointContainer")[0].cancelled
        })
        .await;
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_the_call() {
    let bench = Bench::start().await;
    bench.runtime.script(Script::Hang);
    let request = tokio::spawn(bench.client.post(bench.url(APP)).send());
    bench
        .runtime
        .until("the call came", |runtime| {
            !runtime.calls("CheckpointContainer").is_empty()
        })
        .await;
    assert!(!bench.runtime.calls("CheckpointContainer")[0].cancelled);
    request.abort();
    bench
        .runtime
        .until("the call is cancelled", |runtime| {
            runtime.calls("CheckpointContainer")[0].cancelled
        })
        .await;
}

#[tokio::test]
async fn a_runtime_that_is_gone_is_an_error_with_its_socket() {
    let bench = Bench::start().await;
    let Bench {
        runtime,
        kubelet,
        client,
        folder,
        ..
    } = bench;
    let socket = runtime.folder().join("cri.sock");
    drop(runtime);
    let url = format!("https://{}{APP}", kubelet.address());
    // The broken connection may be noticed by this call or by one before it.
    let mut body = String::new();
    for _ in 0..50 {
        let (status, _, text) = read(client.post(&url).send().await.unwrap()).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        body = text;
        if body.contains("dial unix") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let dial = format!(
        "transport: Error while dialing: dial unix {}: connect: no such file or directory",
        socket.display()
    );
    let error = format!("rpc error: code = Unavailable desc = connection error: desc = \"{dial}\"");
    assert_eq!(body, format!("checkpointing of default/web-node/app failed ({error})"));
    drop(folder);
}

#[tokio::test]
async fn accept_must_allow_json() {
    let bench = Bench::start().await;
    let ask = |accept: &'static str| bench.client.post(bench.url(APP)).header("accept", accept).send();
    for accept in ["application/json", "*/*", "text/html, application/json;q=0.1"] {
        assert_eq!(ask(accept).await.unwrap().status(), StatusCode::OK, "{accept}");
    }
    let (status, _, body) = read(ask("text/html").await.unwrap()).await;
    assert_eq!(status, StatusCode::NOT_ACCEPTABLE);
    assert_eq!(
        body,
        "406: Not Acceptable\n\nAvailable representations: application/json"
    );
}

#[tokio::test]
async fn operations_are_counted() {
    let bench = Bench::start().await;
    assert_eq!(bench.post(APP).await.status(), StatusCode::OK);
    bench.runtime.script(Script::Error(Code::Unknown, "no".to_owned()));
    assert_eq!(bench.post(APP).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let metrics = bench.get("/metrics").await.text().await.unwrap();
    for line in [
        "kubelet_runtime_operations_total{operation_type=\"checkpoint_container\"} 2",
        "kubelet_runtime_operations_errors_total{operation_type=\"checkpoint_container\"} 1",
    ] {
        assert!(metrics.lines().any(|seen| seen == line), "{line}\n{metrics}");
    }
}

#[rstest]
#[case(false, http::Version::HTTP_11)]
#[case(true, http::Version::HTTP_2)]
#[tokio::test]
async fn http2_is_offered_when_told(#[case] offered: bool, #[case] expected: http::Version) {
    let bench = Bench::with(|config| config.http2 = offered).await;
    let response = bench
        .client_of(&Who::Newer)
        .get(bench.url("/healthz"))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (response.version(), response.status()),
        (expected, StatusCode::UNAUTHORIZED)
    );
}
