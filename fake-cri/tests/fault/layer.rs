//! Faults and the journal over a real gRPC server on a unix socket.

use crate::fault_server;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cri_proto::runtime::v1::{self, runtime_service_client::RuntimeServiceClient};
use fake_cri::{
    checkpoint::Phase,
    fault::{CheckpointFaults, Effect, FAULT_ANNOTATION, FaultEngine, Injection, Journal, JournalRecord, Rpc},
    service::FaultLayer,
};
use fault_server::{FaultServer, OneContainerResolver, call};
use futures_util::StreamExt as _;
use prost::Message as _;
use rstest::rstest;
use tonic::{Code, Request, body::Body};
use tower::{Layer as _, ServiceExt as _};

const CHECKPOINT_PATH: &str = "/runtime.v1.RuntimeService/CheckpointContainer";

fn checkpoint_request(container_id: &str) -> v1::CheckpointContainerRequest {
    v1::CheckpointContainerRequest {
        container_id: container_id.to_owned(),
        location: "/tmp/x.tar".to_owned(),
        timeout: 0,
    }
}

/// Waits for the journal entry with this sequence number.
async fn journal_entry(journal: &Arc<Journal>, sequence: u64) -> Arc<JournalRecord> {
    let mut entries = Box::pin(journal.follow(sequence - 1));
    tokio::time::timeout(Duration::from_secs(10), entries.next())
        .await
        .expect("an entry comes")
        .expect("the journal still works")
}

#[tokio::test]
async fn an_error_without_a_message_is_trailers_only() {
    let refuse = tower::service_fn(|_: http::Request<Body>| async {
        Ok::<_, std::convert::Infallible>(tonic::Status::not_found("no such container").into_http::<Body>())
    });
    let layer = FaultLayer::new(Arc::new(FaultEngine::new()), Arc::new(Journal::new()), Arc::new(()));
    let request = http::Request::post(CHECKPOINT_PATH)
        .body(Body::empty())
        .expect("a request");
    let answer = layer.layer(refuse).oneshot(request).await.expect("the call succeeds");
    assert_eq!(answer.headers()["grpc-status"], "5");
    assert!(
        http_body::Body::is_end_stream(answer.body()),
        "grpc-go refuses a frame of data after these headers"
    );
}

#[tokio::test]
async fn errors_can_be_injected_into_every_rpc() {
    let server = FaultServer::start((), "").await;
    let channel = server.connect().await;
    for (index, rpc) in Rpc::all().iter().enumerate() {
        let code = Code::from_i32(index as i32 % 16 + 1);
        let message = format!("{} is \"on\" fire;\n100% ä", rpc.name());
        let [id] = server
            .add(&format!("{}:before=error({code:?},{message:?})", rpc.name()))
            .try_into()
            .expect("one");

        let status = call(channel.clone(), rpc.path(), Request::new(Vec::new()))
            .await
            .expect_err("an error");
        assert_eq!(
            (status.code(), status.message()),
            (code, message.as_str()),
            "{}",
            rpc.name()
        );

        let entry = journal_entry(&server.journal, index as u64 + 1).await;
        assert_eq!(entry.method, rpc.short_path());
        assert_eq!(
            (entry.code, entry.message.as_str(), &entry.faults),
            (code, message.as_str(), &vec![id])
        );
    }
    assert!(
        server.received_calls.lock().expect("no panic").is_empty(),
        "no call came through"
    );
    assert!(
        server
            .engine
            .list()
            .iter()
            .all(|rule_status| (rule_status.matched_calls, rule_status.fired_calls) == (1, 1))
    );

    assert_eq!(server.engine.clear(&[]), 43);
    for rpc in Rpc::all() {
        call(channel.clone(), rpc.path(), Request::new(Vec::new()))
            .await
            .expect("no rule is left");
    }
    let received_calls = server.received_calls.lock().expect("no panic").clone();
    assert!(
        received_calls
            .iter()
            .map(|received_calls| received_calls.path.as_str())
            .eq(Rpc::all().iter().map(Rpc::path))
    );
}

#[rstest]
#[case(
    "CheckpointContainer:before=unimplemented",
    "method CheckpointContainer not implemented"
)]
#[case(
    "preset:unimplemented-unknown-method",
    "unknown method CheckpointContainer for service runtime.v1.RuntimeService"
)]
#[tokio::test]
async fn old_runtime_messages_are_exact(#[case] rules: &str, #[case] message: &str) {
    let server = FaultServer::start((), "").await;
    server.add(rules);
    let mut client = RuntimeServiceClient::new(server.connect().await);
    let status = client
        .checkpoint_container(checkpoint_request("c1"))
        .await
        .expect_err("the injected error");
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, message));
}

#[tokio::test]
async fn ids_and_configs_resolve_the_call_target() {
    let server = FaultServer::start(OneContainerResolver::default(), "").await;
    server.add("*(pod=web,namespace=default,container=a*):before=error(Internal,\"container\")");
    server.add("*(pod=new,namespace=other):before=error(Internal,\"pod\")");
    let mut client = RuntimeServiceClient::new(server.connect().await);

    let status = client
        .checkpoint_container(checkpoint_request("c1"))
        .await
        .expect_err("the injected error");
    assert_eq!(status.message(), "container");
    client
        .checkpoint_container(checkpoint_request("c2"))
        .await
        .expect("another container");
    client
        .version(v1::VersionRequest::default())
        .await
        .expect("a call about no container");

    let config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "new".to_owned(),
            namespace: "other".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = v1::RunPodSandboxRequest {
        config: Some(config),
        ..Default::default()
    };
    assert_eq!(
        client
            .run_pod_sandbox(request)
            .await
            .expect_err("disabled by configuration")
            .message(),
        "pod"
    );

    let mut create = v1::CreateContainerRequest {
        pod_sandbox_id: "p1".to_owned(),
        config: Some(v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: "app".to_owned(),
                attempt: 0,
            }),
            ..Default::default()
        }),
        sandbox_config: None,
    };
    let status = client
        .create_container(create.clone())
        .await
        .expect_err("the rule matches by pod id and container name");
    assert_eq!(status.message(), "container");
    create.pod_sandbox_id = "p2".to_owned();
    client.create_container(create).await.expect("a call about another pod");
}

#[tokio::test]
async fn phases_reach_the_handler_as_injections() {
    let server = FaultServer::start(OneContainerResolver::default(), "").await;
    server.add("CheckpointContainer(nth=1):write=mode(0644); CheckpointContainer(nth=1):freeze=delay(5ms)");
    let mut client = RuntimeServiceClient::new(server.connect().await);
    client
        .checkpoint_container(checkpoint_request("c1"))
        .await
        .expect("the injections reach the handler");
    client
        .checkpoint_container(checkpoint_request("c1"))
        .await
        .expect("the second call succeeds");
    let expected = CheckpointFaults {
        injections: vec![
            Injection {
                phase: Phase::Freeze,
                effect: Effect::Delay(Duration::from_millis(5)),
            },
            Injection {
                phase: Phase::Write,
                effect: Effect::Mode(0o644),
            },
        ],
        defects: Vec::new(),
    };
    let received_calls = server.received_calls.lock().expect("no panic").clone();
    assert_eq!(received_calls[0].faults, Some(expected));
    assert_eq!(received_calls[1].faults, None);
    assert_eq!(
        server.journal.after(0)[0].faults,
        ["f2", "f1"],
        "in the order in which they act"
    );
}

#[tokio::test]
async fn after_rules_replace_the_response() {
    let server = FaultServer::start((), "").await;
    server.add("StopContainer(times=1):after=error(Unavailable,\"lost on the way\")");
    let mut client = RuntimeServiceClient::new(server.connect().await);
    let request = v1::StopContainerRequest::default();
    let status = client
        .stop_container(request.clone())
        .await
        .expect_err("a lost response");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "lost on the way")
    );
    assert_eq!(
        server.received_calls.lock().expect("no panic").len(),
        1,
        "the work was done"
    );
    client.stop_container(request).await.expect("one call is enough");
}

#[tokio::test]
async fn delays_postpone_the_call() {
    let server = FaultServer::start((), "").await;
    server.add("Version:before=delay(60ms);Version:after=delay(60ms)");
    let mut client = RuntimeServiceClient::new(server.connect().await);
    let start = Instant::now();
    client
        .version(v1::VersionRequest::default())
        .await
        .expect("an answer in the end");
    assert!(start.elapsed() >= Duration::from_millis(120), "{:?}", start.elapsed());
    let entry = journal_entry(&server.journal, 1).await;
    assert!(entry.ended_at - entry.started_at >= 120_000_000);
}

#[rstest]
#[case("before")]
#[case("after")]
#[tokio::test]
async fn a_hang_ends_at_the_deadline(#[case] point: &str) {
    let server = FaultServer::start((), "").await;
    server.add(&format!("Version:{point}=hang"));
    let start = Instant::now();
    let status = server
        .call_with_timeout("/runtime.v1.RuntimeService/Version", "150m")
        .await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::DeadlineExceeded, "context deadline exceeded")
    );
    assert!(start.elapsed() >= Duration::from_millis(150) && start.elapsed() < Duration::from_secs(5));
    let entry = journal_entry(&server.journal, 1).await;
    assert_eq!(
        (entry.code, entry.timeout),
        (Code::DeadlineExceeded, Some(Duration::from_millis(150)))
    );
    assert!(!entry.cancelled);
}

#[tokio::test]
async fn client_cancellation_ends_a_hang() {
    let server = FaultServer::start((), "").await;
    server.add("Version:before=hang");
    let mut client = RuntimeServiceClient::new(server.connect().await);
    let call = tokio::spawn(async move { client.version(v1::VersionRequest::default()).await });
    while server.engine.list()[0].fired_calls == 0 {
        tokio::task::yield_now().await;
    }
    call.abort();
    let entry = journal_entry(&server.journal, 1).await;
    assert_eq!(
        (entry.code, entry.cancelled, entry.timeout),
        (Code::Cancelled, true, None)
    );
    assert_eq!(entry.faults, ["f1"]);
}

/// Whether the client lost the connection, as opposed to a response. tonic reports Unknown, Go Unavailable.
fn is_connection_lost(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::Unknown | Code::Unavailable) && std::error::Error::source(status).is_some()
}

#[tokio::test]
async fn a_drop_closes_the_connection() {
    let server = FaultServer::start((), "").await;
    server.add("CheckpointContainer(nth=1):before=disconnect;Version:before=hang");
    let channel = server.connect().await;
    let mut other = RuntimeServiceClient::new(channel.clone());
    let other = tokio::spawn(async move { other.version(v1::VersionRequest::default()).await });
    while server.engine.list()[1].fired_calls == 0 {
        tokio::task::yield_now().await;
    }
    let request = Request::new(checkpoint_request("c1").encode_to_vec());
    let status = call(channel, CHECKPOINT_PATH, request).await.expect_err("no response");
    assert!(is_connection_lost(&status), "{status:?}");
    let neighbour = other.await.expect("no panic").expect_err("the connection is shared");
    assert!(is_connection_lost(&neighbour), "{neighbour:?}");

    let request = Request::new(checkpoint_request("c1").encode_to_vec());
    call(server.connect().await, CHECKPOINT_PATH, request)
        .await
        .expect("the server still listens");
    let entry = journal_entry(&server.journal, 1).await;
    assert_eq!(
        (entry.code, entry.message.as_str()),
        (Code::Unavailable, "the connection was dropped by a fault")
    );
}

#[tokio::test]
async fn a_drop_resets_the_stream_of_a_plain_connection() {
    let server = FaultServer::start_with((), "", |stream| stream).await;
    server.add("Version(nth=1):before=disconnect");
    let mut client = RuntimeServiceClient::new(server.connect().await);
    let status = client
        .version(v1::VersionRequest::default())
        .await
        .expect_err("no response");
    assert_eq!(status.code(), Code::Internal, "as gRPC maps a stream reset: {status:?}");
    client
        .version(v1::VersionRequest::default())
        .await
        .expect("the connection still works");
}

#[tokio::test]
async fn streams_support_faults_and_are_journalled() {
    let event = v1::ContainerEventResponse {
        container_id: "c1".to_owned(),
        ..Default::default()
    };
    let server = FaultServer::start((), event.encode_to_vec()).await;
    server.add("GetContainerEvents(nth=1):after=error(Aborted,\"no events today\")");
    let mut client = RuntimeServiceClient::new(server.connect().await);
    let status = client
        .get_container_events(v1::GetEventsRequest {})
        .await
        .expect_err("refused");
    assert_eq!((status.code(), status.message()), (Code::Aborted, "no events today"));

    let mut events = client
        .get_container_events(v1::GetEventsRequest {})
        .await
        .expect("a stream")
        .into_inner();
    assert_eq!(events.next().await.expect("an event").expect("no error"), event);
    assert!(events.next().await.is_none());
    let entry = journal_entry(&server.journal, 2).await;
    assert_eq!(
        (entry.code, entry.response.as_str()),
        (Code::Ok, r#"[{"container_id":"c1"}]"#)
    );
}

#[tokio::test]
async fn pod_annotations_apply_to_their_pod_only() {
    let mut resolver = OneContainerResolver::default();
    let rules = "CheckpointContainer(nth=2):before=error(Internal,\"second\");\nVersion:before=hang";
    resolver
        .0
        .annotations
        .insert(FAULT_ANNOTATION.to_owned(), rules.to_owned());
    let server = FaultServer::start(resolver, "").await;
    let mut client = RuntimeServiceClient::new(server.connect().await);
    client
        .checkpoint_container(checkpoint_request("c2"))
        .await
        .expect("a call about another pod");
    client
        .checkpoint_container(checkpoint_request("c1"))
        .await
        .expect("the first call");
    client
        .version(v1::VersionRequest::default())
        .await
        .expect("a call about no pod");
    let status = client
        .checkpoint_container(checkpoint_request("c1"))
        .await
        .expect_err("the second checkpoint fails");
    assert_eq!(status.message(), "second");
    let rule_status = server.engine.list();
    assert_eq!(rule_status.len(), 2);
    assert_eq!((rule_status[0].matched_calls, rule_status[0].fired_calls), (2, 1));
    assert_eq!(rule_status[0].source.to_string(), "annotation of default/web");

    assert_eq!(server.engine.clear(&[]), 2);
    client
        .checkpoint_container(checkpoint_request("c1"))
        .await
        .expect("cleared");
    assert!(server.engine.list().is_empty(), "what was cleared stays away");
}

#[tokio::test]
async fn a_bad_annotation_is_refused() {
    let server = FaultServer::start((), "").await;
    let mut client = RuntimeServiceClient::new(server.connect().await);
    let config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata::default()),
        annotations: [(FAULT_ANNOTATION.to_owned(), "Version:besides=hang".to_owned())].into(),
        ..Default::default()
    };
    let request = v1::RunPodSandboxRequest {
        config: Some(config.clone()),
        ..Default::default()
    };
    let run = client
        .run_pod_sandbox(request)
        .await
        .expect_err("an invalid annotation");
    let create = v1::CreateContainerRequest {
        sandbox_config: Some(config),
        ..Default::default()
    };
    let create = client
        .create_container(create)
        .await
        .expect_err("an invalid annotation");
    for status in [run, create] {
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            status
                .message()
                .starts_with("annotation fake-cri.dev/fault: column 9: expected a point"),
            "{status:?}"
        );
        assert!(
            status.message().ends_with("\n  Version:besides=hang\n          ^"),
            "{status:?}"
        );
    }
    assert!(server.received_calls.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn the_journal_has_requests_and_responses_without_secrets() {
    const SECRET: &str = "correct-horse-battery-staple";
    let answer = v1::CreateContainerResponse {
        container_id: "c7".to_owned(),
    };
    let server = FaultServer::start((), answer.encode_to_vec()).await;
    let mut client = RuntimeServiceClient::new(server.connect().await);
    let env = v1::KeyValue {
        key: "TOKEN".to_owned(),
        value: SECRET.into(),
    };
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: "p1".to_owned(),
        config: Some(v1::ContainerConfig {
            envs: vec![env],
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut request = Request::new(request);
    request.set_timeout(Duration::from_secs(120));
    client.create_container(request).await.expect("the call succeeds");
    let entry = journal_entry(&server.journal, 1).await;
    assert_eq!(entry.method, "RuntimeService/CreateContainer");
    let request: serde_json::Value = serde_json::from_str(&entry.request).expect("valid JSON");
    let expected = serde_json::json!({ "pod_sandbox_id": "p1", "config": { "envs": [{ "key": "TOKEN" }] } });
    assert_eq!(request, expected);
    assert_eq!(entry.response, r#"{"container_id":"c7"}"#);
    assert_eq!((entry.code, entry.timeout), (Code::Ok, Some(Duration::from_secs(120))));
    assert!(entry.started_at > 0 && entry.ended_at >= entry.started_at);
    assert!(!format!("{entry:?}").contains(SECRET));
}

#[tokio::test]
async fn an_oversized_request_is_refused() {
    let server = FaultServer::start((), "").await;
    let request = Request::new(vec![0; (16 << 20) + 1]);
    let status = call(server.connect().await, CHECKPOINT_PATH, request)
        .await
        .expect_err("too large");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(server.received_calls.lock().expect("no panic").is_empty());
}
