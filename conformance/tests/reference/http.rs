//! The responses of the reference kubelet are those of the Kubernetes kubelet.

use std::time::Duration;

use checkpoint_conformance::reference_kubelet::Authorization;
use cri_proto::runtime::v1::CheckpointContainerRequest;
use http::{Method, StatusCode};
use rstest::rstest;
use tonic::Code;

use crate::scripted::kubelet::{ClientIdentity, TestKubelet, file_mode, read_response};
use crate::scripted::runtime::CheckpointScript;

const TEXT_PLAIN: &str = "text/plain; charset=utf-8";
const APP_CHECKPOINT_PATH: &str = "/checkpoint/default/web-node/app";

#[tokio::test]
async fn checkpoint_returns_the_archive_path() {
    let kubelet_under_test = TestKubelet::start().await;
    let before = jiff::Timestamp::now().as_second();
    let (status, kind, body) = kubelet_under_test.send(Method::POST, APP_CHECKPOINT_PATH).await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, "application/json"));
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    let location = json["items"][0].as_str().unwrap();
    assert_eq!(
        body,
        format!("{{\"items\":[\"{location}\"]}}"),
        "one item, no space, no newline"
    );

    let stem = format!(
        "{}/checkpoint-web-node_default-app-",
        kubelet_under_test.checkpoints().display()
    );
    let time = location.strip_prefix(&stem).unwrap().strip_suffix(".tar").unwrap();
    let time: jiff::Timestamp = time.parse().unwrap();
    assert!((before..=before + 30).contains(&time.as_second()), "{time}");
    assert_eq!(
        (time.subsec_nanosecond(), file_mode(&kubelet_under_test.checkpoints())),
        (0, 0o700)
    );
    assert_eq!(std::fs::read_to_string(location).unwrap(), "tar");

    let sent: Vec<CheckpointContainerRequest> = kubelet_under_test.runtime.messages("CheckpointContainer");
    assert_eq!(
        (sent.len(), sent[0].location.as_str(), sent[0].timeout),
        (1, location, 120)
    );
    let deadline = kubelet_under_test.runtime.calls("CheckpointContainer")[0]
        .deadline
        .unwrap();
    assert!((119_000..=120_000).contains(&deadline), "{deadline}");
    kubelet_under_test.kubelet.shutdown().await;
}

#[tokio::test]
async fn authentication_comes_first() {
    let kubelet_under_test = TestKubelet::start().await;
    for (client_identity, path) in [
        (ClientIdentity::Anonymous, APP_CHECKPOINT_PATH),
        (ClientIdentity::UntrustedCertificate, APP_CHECKPOINT_PATH),
        (ClientIdentity::Token("wrong"), APP_CHECKPOINT_PATH),
        (ClientIdentity::Anonymous, "/checkpoint/no/such/pod"),
        (ClientIdentity::Anonymous, "/checkpoint/too/short"),
        (ClientIdentity::Anonymous, "/healthz"),
    ] {
        let response = kubelet_under_test
            .client_as(&client_identity)
            .post(kubelet_under_test.url(path))
            .send()
            .await
            .unwrap();
        assert!(response.headers().get("www-authenticate").is_none());
        assert_eq!(
            read_response(response).await,
            (StatusCode::UNAUTHORIZED, TEXT_PLAIN.into(), "Unauthorized".into()),
            "{path}"
        );
    }
    for client_identity in [ClientIdentity::User("alice"), ClientIdentity::Token("secret")] {
        let response = kubelet_under_test
            .client_as(&client_identity)
            .post(kubelet_under_test.url(APP_CHECKPOINT_PATH))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    let both = kubelet_under_test
        .client_as(&ClientIdentity::UntrustedCertificate)
        .post(kubelet_under_test.url(APP_CHECKPOINT_PATH))
        .bearer_auth("secret")
        .send()
        .await
        .unwrap();
    assert_eq!(
        both.status(),
        StatusCode::OK,
        "a valid token suffices with an untrusted certificate"
    );
}

#[tokio::test]
async fn anonymous_access_needs_the_option_and_no_credentials() {
    let kubelet_under_test = TestKubelet::with_config(|config| config.anonymous = true).await;
    let ask = |client_identity: ClientIdentity| {
        kubelet_under_test
            .client_as(&client_identity)
            .get(kubelet_under_test.url("/healthz"))
            .send()
    };
    assert_eq!(ask(ClientIdentity::Anonymous).await.unwrap().status(), StatusCode::OK);
    assert_eq!(
        ask(ClientIdentity::UntrustedCertificate).await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        ask(ClientIdentity::Token("wrong")).await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn authorization_comes_second() {
    let rules = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(rules.path(), "alice create nodes/checkpoint\n* get *\n").unwrap();
    let kubelet_under_test =
        TestKubelet::with_config(|config| config.authorization = Authorization::Rules(rules.path().to_owned())).await;
    kubelet_under_test.wait_until_ready().await;
    assert_eq!(
        kubelet_under_test.post(APP_CHECKPOINT_PATH).await.status(),
        StatusCode::OK
    );
    let bob = kubelet_under_test.client_as(&ClientIdentity::Token("secret"));
    for path in [
        APP_CHECKPOINT_PATH,
        "/checkpoint/no/such/pod",
        "/checkpoint/too/short",
        "/checkpoint/",
    ] {
        let answer = read_response(bob.post(kubelet_under_test.url(path)).send().await.unwrap()).await;
        let text = "Forbidden (user=bob, verb=create, resource=nodes, subresource(s)=[checkpoint])\n";
        assert_eq!(
            answer,
            (StatusCode::FORBIDDEN, TEXT_PLAIN.into(), text.into()),
            "{path}"
        );
    }
    assert_eq!(
        bob.get(kubelet_under_test.url("/pods")).send().await.unwrap().status(),
        StatusCode::OK
    );
}

#[rstest]
#[case::gate_off(false, true)]
#[case::debugging_handlers_off(true, false)]
#[tokio::test]
async fn disabled_route_answers_before_authentication(#[case] gate: bool, #[case] debugging: bool) {
    let kubelet_under_test = TestKubelet::with_config(|config| {
        config.container_checkpoint = Some(gate);
        config.debugging_handlers = debugging;
    })
    .await;
    for client_identity in [ClientIdentity::Anonymous, ClientIdentity::User("alice")] {
        let answer = kubelet_under_test
            .client_as(&client_identity)
            .post(kubelet_under_test.url(APP_CHECKPOINT_PATH))
            .send()
            .await
            .unwrap();
        assert_eq!(
            read_response(answer).await,
            (StatusCode::NOT_FOUND, TEXT_PLAIN.into(), "404 page not found\n".into())
        );
    }
    assert_eq!(kubelet_under_test.checkpoints().exists(), gate);
}

#[tokio::test]
async fn read_only_port_has_no_checkpoint_route() {
    let kubelet_under_test = TestKubelet::with_config(|config| config.read_only_port = Some(0)).await;
    let address = kubelet_under_test.kubelet.read_only_address().unwrap();
    let client = reqwest::Client::new();
    let answer = read_response(
        client
            .post(format!("http://{address}{APP_CHECKPOINT_PATH}"))
            .send()
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(
        answer,
        (StatusCode::NOT_FOUND, TEXT_PLAIN.into(), "404 page not found\n".into())
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
#[case::method(Method::GET, APP_CHECKPOINT_PATH, 405, "405: Method Not Allowed")]
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
#[case::timeout_empty(Method::POST, "/checkpoint/default/web-node/app?timeout=", 404, TIMEOUT_ERROR)]
#[case::timeout_unit(Method::POST, "/checkpoint/default/web-node/app?timeout=10s", 404, TIMEOUT_ERROR)]
#[case::timeout_fraction(Method::POST, "/checkpoint/default/web-node/app?timeout=1.5", 404, TIMEOUT_ERROR)]
#[case::timeout_too_long(
    Method::POST,
    "/checkpoint/default/web-node/app?timeout=9223372036854775808",
    404,
    TIMEOUT_ERROR
)]
#[case::last_counts(
    Method::POST,
    "/checkpoint/default/web-node/app?timeout=1&timeout=x",
    404,
    TIMEOUT_ERROR
)]
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
async fn errors_are_plain_text(#[case] method: Method, #[case] path: &str, #[case] status: u16, #[case] text: &str) {
    let kubelet_under_test = TestKubelet::start().await;
    let response = kubelet_under_test
        .client
        .request(method, kubelet_under_test.url(path))
        .send()
        .await
        .unwrap();
    let allow = response
        .headers()
        .get("allow")
        .map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(allow.as_deref(), (status == 405).then_some("POST"));
    let (actual_status, kind, body) = read_response(response).await;
    assert_eq!(
        (actual_status.as_u16(), kind.as_str(), body.as_str()),
        (status, TEXT_PLAIN, text)
    );
    assert!(
        kubelet_under_test.runtime.calls("CheckpointContainer").is_empty(),
        "the runtime is not called"
    );
}

const TIMEOUT_ERROR: &str = "cannot parse value of timeout parameter";

#[tokio::test]
async fn accepts_a_trailing_slash_and_any_body() {
    let kubelet_under_test = TestKubelet::start().await;
    assert_eq!(
        kubelet_under_test
            .post(&format!("{APP_CHECKPOINT_PATH}/"))
            .await
            .status(),
        StatusCode::OK
    );
    let response = kubelet_under_test
        .client
        .post(kubelet_under_test.url(APP_CHECKPOINT_PATH))
        .body("{not json")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let redirected = kubelet_under_test
        .client_as(&ClientIdentity::Anonymous)
        .post(kubelet_under_test.url("/checkpoint//default/web-node/app?timeout=1"));
    let redirected = redirected.send().await.unwrap();
    assert_eq!(redirected.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(
        redirected.headers()["location"],
        format!("{APP_CHECKPOINT_PATH}?timeout=1")
    );
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
async fn timeout_only_lengthens_the_deadline(#[case] query: &str, #[case] field: i64, #[case] seconds: u64) {
    let kubelet_under_test = TestKubelet::start().await;
    assert_eq!(
        kubelet_under_test
            .post(&format!("{APP_CHECKPOINT_PATH}{query}"))
            .await
            .status(),
        StatusCode::OK
    );
    let sent: Vec<CheckpointContainerRequest> = kubelet_under_test.runtime.messages("CheckpointContainer");
    assert_eq!(sent[0].timeout, field);
    let deadline = kubelet_under_test.runtime.calls("CheckpointContainer")[0]
        .deadline
        .unwrap();
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
async fn runtime_errors_are_500_with_the_message(#[case] code: Code, #[case] name: &str) {
    let kubelet_under_test = TestKubelet::start().await;
    kubelet_under_test.runtime.script(CheckpointScript::Error(
        code,
        "disk \"on\" fire: 100% h\u{e4}\u{df}lich".to_owned(),
    ));
    let text = format!(
        "checkpointing of default/web-node/app failed (rpc error: code = {name} desc = disk \"on\" fire: 100% h\u{e4}\u{df}lich)"
    );
    assert_eq!(
        kubelet_under_test.send(Method::POST, APP_CHECKPOINT_PATH).await,
        (StatusCode::INTERNAL_SERVER_ERROR, TEXT_PLAIN.into(), text)
    );
}

#[tokio::test]
async fn control_bytes_make_octet_stream() {
    let kubelet_under_test = TestKubelet::start().await;
    kubelet_under_test
        .runtime
        .script(CheckpointScript::Error(Code::Internal, "a\u{1}b".to_owned()));
    let (_, kind, body) = kubelet_under_test.send(Method::POST, APP_CHECKPOINT_PATH).await;
    assert_eq!(kind, "application/octet-stream");
    assert!(body.contains("a\u{1}b"));
}

#[tokio::test]
async fn hanging_runtime_ends_at_the_deadline() {
    let kubelet_under_test =
        TestKubelet::with_config(|config| config.runtime_request_timeout = Duration::from_millis(1500)).await;
    kubelet_under_test.wait_until_ready().await;
    kubelet_under_test.runtime.script(CheckpointScript::Hang);
    let started_at = std::time::Instant::now();
    let (status, _, body) = kubelet_under_test
        .send(Method::POST, &format!("{APP_CHECKPOINT_PATH}?timeout=1"))
        .await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(
        body,
        "checkpointing of default/web-node/app failed (rpc error: code = DeadlineExceeded desc = context deadline exceeded)"
    );
    assert!(
        started_at.elapsed() >= Duration::from_millis(1400),
        "{:?}",
        started_at.elapsed()
    );
    let sent: Vec<CheckpointContainerRequest> = kubelet_under_test.runtime.messages("CheckpointContainer");
    assert_eq!(sent[0].timeout, 1, "whole seconds of the default");
    kubelet_under_test
        .runtime
        .wait_until("the call is cancelled", |runtime| {
            runtime.calls("CheckpointContainer")[0].cancelled
        })
        .await;
}

#[tokio::test]
async fn client_disconnect_cancels_the_call() {
    let kubelet_under_test = TestKubelet::start().await;
    kubelet_under_test.runtime.script(CheckpointScript::Hang);
    let request = tokio::spawn(
        kubelet_under_test
            .client
            .post(kubelet_under_test.url(APP_CHECKPOINT_PATH))
            .send(),
    );
    kubelet_under_test
        .runtime
        .wait_until("the runtime receives the call", |runtime| {
            !runtime.calls("CheckpointContainer").is_empty()
        })
        .await;
    assert!(!kubelet_under_test.runtime.calls("CheckpointContainer")[0].cancelled);
    request.abort();
    kubelet_under_test
        .runtime
        .wait_until("the call is cancelled", |runtime| {
            runtime.calls("CheckpointContainer")[0].cancelled
        })
        .await;
}

#[tokio::test]
async fn unreachable_runtime_error_names_the_socket() {
    let kubelet_under_test = TestKubelet::start().await;
    let TestKubelet {
        runtime,
        kubelet,
        client,
        directory,
        ..
    } = kubelet_under_test;
    let socket = runtime.directory().join("cri.sock");
    drop(runtime);
    let url = format!("https://{}{APP_CHECKPOINT_PATH}", kubelet.address());
    // This call or an earlier one notices the broken connection.
    let mut body = String::new();
    for _ in 0..50 {
        let (status, _, text) = read_response(client.post(&url).send().await.unwrap()).await;
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
    drop(directory);
}

#[tokio::test]
async fn accept_header_must_allow_json() {
    let kubelet_under_test = TestKubelet::start().await;
    let ask = |accept: &'static str| {
        kubelet_under_test
            .client
            .post(kubelet_under_test.url(APP_CHECKPOINT_PATH))
            .header("accept", accept)
            .send()
    };
    for accept in ["application/json", "*/*", "text/html, application/json;q=0.1"] {
        assert_eq!(ask(accept).await.unwrap().status(), StatusCode::OK, "{accept}");
    }
    let (status, _, body) = read_response(ask("text/html").await.unwrap()).await;
    assert_eq!(status, StatusCode::NOT_ACCEPTABLE);
    assert_eq!(
        body,
        "406: Not Acceptable\n\nAvailable representations: application/json"
    );
}

#[tokio::test]
async fn metrics_count_operations() {
    let kubelet_under_test = TestKubelet::start().await;
    assert_eq!(
        kubelet_under_test.post(APP_CHECKPOINT_PATH).await.status(),
        StatusCode::OK
    );
    kubelet_under_test
        .runtime
        .script(CheckpointScript::Error(Code::Unknown, "no".to_owned()));
    assert_eq!(
        kubelet_under_test.post(APP_CHECKPOINT_PATH).await.status(),
        StatusCode::INTERNAL_SERVER_ERROR
    );
    let metrics = kubelet_under_test.get("/metrics").await.text().await.unwrap();
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
async fn http2_is_optional(#[case] offered: bool, #[case] expected: http::Version) {
    let kubelet_under_test = TestKubelet::with_config(|config| config.http2 = offered).await;
    let response = kubelet_under_test
        .client_as(&ClientIdentity::AnonymousHttp2)
        .get(kubelet_under_test.url("/healthz"))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (response.version(), response.status()),
        (expected, StatusCode::UNAUTHORIZED)
    );
}
