//! An archive that fake-cri writes of real processes passes every case.

use std::{fs, path::Path, time::Duration};

use checkpoint_conformance::{
    archive::{Expectations, Limits, inspect_file},
    engine::Outcome,
    suites::archive::check_all,
};
use cri_proto::runtime::v1;
use fake_cri::FakeCri;

use crate::helpers::failure_texts;

const IMAGE_NAME: &str = "localhost/test-workload:1";
const SECRET: &str = "s3cret-of-this-test";

/// Waits for the canary in the log of the container.
async fn read_canary(log: &Path) -> String {
    let wait_for_canary = async {
        loop {
            let text = fs::read_to_string(log).unwrap_or_default();
            let line = text.lines().find_map(|line| line.split_once(" canary "));
            if let Some((_, canary)) = line {
                return canary.trim().to_owned();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait_for_canary)
        .await
        .expect("the container logs its canary")
}

#[rstest::rstest]
#[case::small(&[])]
#[case::threads(&[("fake-cri.dev/threads", "4"), ("fake-cri.dev/memory", "4Mi")])]
#[case::children(&[("fake-cri.dev/children", "2"), ("fake-cri.dev/open-files", "2")])]
#[tokio::test]
async fn fake_cri_archives_pass_every_case(#[case] options: &[(&str, &str)]) {
    let directory = tempfile::tempdir().expect("create a temporary directory");
    let executable = env!("CARGO_BIN_EXE_checkpoint-conformance");
    let server = FakeCri::builder()
        .executable(executable)
        .start()
        .await
        .expect("start fake-cri");
    let (mut runtime, mut images) = (server.runtime_client(), server.image_client());
    let image = Some(v1::ImageSpec {
        image: IMAGE_NAME.to_owned(),
        ..Default::default()
    });
    let pull = v1::PullImageRequest {
        image: image.clone(),
        ..Default::default()
    };
    images.pull_image(pull).await.expect("pull the image");
    let pod = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web".to_owned(),
            uid: "0a1b".to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        labels: [
            ("io.kubernetes.pod.name", "web"),
            ("io.kubernetes.pod.namespace", "default"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into(),
        log_directory: directory.path().to_string_lossy().into_owned(),
        annotations: options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..Default::default()
    };
    let request = v1::RunPodSandboxRequest {
        config: Some(pod.clone()),
        ..Default::default()
    };
    let pod_sandbox_id = runtime
        .run_pod_sandbox(request)
        .await
        .expect("run the pod sandbox")
        .into_inner()
        .pod_sandbox_id;
    let container = v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: "app".to_owned(),
            attempt: 0,
        }),
        image,
        log_path: "app.log".to_owned(),
        envs: vec![v1::KeyValue {
            key: "TOKEN".to_owned(),
            value: SECRET.into(),
        }],
        ..Default::default()
    };
    let request = v1::CreateContainerRequest {
        pod_sandbox_id,
        config: Some(container),
        sandbox_config: Some(pod),
    };
    let container_id = runtime
        .create_container(request)
        .await
        .expect("create the container")
        .into_inner()
        .container_id;
    let request = v1::StartContainerRequest {
        container_id: container_id.clone(),
    };
    runtime.start_container(request).await.expect("start the container");
    let canary = read_canary(&directory.path().join("app.log")).await;
    let location = directory.path().join("checkpoint.tar");
    let request = v1::CheckpointContainerRequest {
        container_id,
        location: location.to_string_lossy().into_owned(),
        timeout: 0,
    };
    runtime
        .checkpoint_container(request)
        .await
        .expect("checkpoint the container");
    server.shutdown().await;

    let expected = Expectations {
        memory: Some(canary.into_bytes()),
        secrets: vec![SECRET.as_bytes().to_vec()],
        layout: None,
    };
    let records = check_all(&inspect_file(&location, &expected, Limits::default()).expect("read the archive"));
    let not_passed = records
        .iter()
        .filter(|record| !matches!(record.outcome, Outcome::Pass { .. }));
    // Skipped, because the container has no deleted or append-only files, mounts, shared or compressed memory, timers
    // or epoll instances.
    let expected_skips = [
        "archive/metadata/lists-valid",
        "archive/mounts/bind-mounts-in-spec",
        "archive/mounts/no-host-sources",
        "archive/mounts/deleted-files-inside",
        "archive/processes/posix-timer-targets",
        "archive/memory/compressed-blocks-valid",
        "archive/memory/shared-memory",
        "archive/open-files/epoll-targets-open",
        "archive/open-files/append-only-without-size",
    ];
    let not_passed: Vec<_> = not_passed
        .filter(|record| !matches!(record.outcome, Outcome::Skip { .. }) || !expected_skips.contains(&record.info.id))
        .map(|record| record.info.id)
        .collect();
    assert!(not_passed.is_empty(), "{}", failure_texts(&records));
}
