//! The size limit of responses, the limit of open files, and the order of a container's times.

use crate::cri;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use cri::{Cri, WAIT_TIMEOUT, builder, container_config};
use cri_proto::runtime::v1;
use rstest::rstest;
use tonic::Code;

const RESPONSE_MAX_BYTES: usize = 16 << 20;

/// Parses the two sizes in the error of a response that is too large.
fn parse_sizes(message: &str) -> (usize, usize) {
    let (_, both) = message.rsplit_once('(').expect("sizes");
    let (size, limit) = both.trim_end_matches(')').split_once(" vs. ").expect("two sizes");
    (size.parse().expect("a number"), limit.parse().expect("a number"))
}

#[tokio::test]
async fn an_oversized_response_is_an_error_and_keeps_the_connection() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let config = |name: &str, bytes: usize| v1::ContainerConfig {
        annotations: [("large".to_owned(), "x".repeat(bytes))].into(),
        ..container_config(name)
    };
    // Exactly: a response of the limit is allowed.
    let mut runtime = cri.runtime();
    let list = v1::ListContainersRequest::default;
    pod.create(config("one", RESPONSE_MAX_BYTES / 2)).await.unwrap();
    let id = pod.create(config("two", RESPONSE_MAX_BYTES / 4)).await.unwrap();
    let answer = runtime.list_containers(list()).await.unwrap().into_inner();
    let left = RESPONSE_MAX_BYTES - prost::Message::encoded_len(&answer);
    cri.remove(&id).await.unwrap();
    pod.create(config("two", RESPONSE_MAX_BYTES / 4 + left)).await.unwrap();
    let answer = runtime.list_containers(list()).await.unwrap().into_inner();
    assert_eq!(prost::Message::encoded_len(&answer), RESPONSE_MAX_BYTES);
    pod.create(config("three", 0)).await.unwrap();
    let error = runtime.list_containers(list()).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    let (size, limit) = parse_sizes(error.message());
    assert!(
        error.message().contains("trying to send message larger than max") && size > limit,
        "{error}"
    );
    assert_eq!(limit, RESPONSE_MAX_BYTES);
    runtime
        .version(v1::VersionRequest::default())
        .await
        .expect("the connection works");
    // The journal has the call like any other.
    let journal = cri.process.control().journal(0).await.expect("a journal");
    let entry = journal
        .iter()
        .rev()
        .find(|entry| entry.method.ends_with("ListContainers"))
        .expect("the call succeeds");
    assert_eq!(entry.message, error.message());
}

#[rstest]
#[case("head -c 16777184 /dev/zero", true)]
#[case("head -c 16777185 /dev/zero", false)]
#[case("cat /dev/zero", false)]
#[tokio::test]
async fn exec_output_is_complete_or_an_error(#[case] script: &str, #[case] complete: bool) {
    let cri = Cri::start_with(builder().exec_host()).await;
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config.command = ["sleep", "1000"].map(str::to_owned).to_vec();
    let id = pod.run(config).await;
    let request = v1::ExecSyncRequest {
        container_id: id,
        cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
        timeout: 0,
    };
    match cri.runtime().exec_sync(request).await {
        Ok(answer) => assert_eq!((complete, answer.into_inner().stdout.len()), (true, 16_777_184)),
        Err(error) => {
            assert_eq!((complete, error.code()), (false, Code::ResourceExhausted));
            assert!(error.message().contains("16777184 bytes"), "{error}");
        }
    }
}

fn open_file_limits(pid: u32) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("the process is running");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("a line");
    let mut words = line["Max open files".len()..].split_whitespace().map(str::to_owned);
    (words.next().expect("a soft limit"), words.next().expect("a hard limit"))
}

#[tokio::test]
async fn open_file_limit_is_raised_for_fake_cri_only() {
    let dir = tempfile::tempdir().unwrap();
    let limited = dir.path().join("limited");
    let program = env!("CARGO_BIN_EXE_fake-cri");
    fs::write(
        &limited,
        format!("#!/bin/sh\nulimit -Sn 300\nexec '{program}' \"$@\"\n"),
    )
    .unwrap();
    fs::set_permissions(&limited, fs::Permissions::from_mode(0o755)).unwrap();
    let cri = Cri::start_with(builder().exec_host().executable(limited)).await;
    let (soft, hard) = open_file_limits(cri.process.pid().unwrap());
    assert_eq!(soft, hard);
    assert_ne!(soft, "300");
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config.command = ["sleep", "1000"].map(str::to_owned).to_vec();
    let id = pod.run(config).await;
    let (soft, hard_below) = open_file_limits(cri.pid(&id).await.unsigned_abs());
    assert_eq!((soft.as_str(), hard_below), ("300", hard));
}

fn fd_count(pid: u32) -> usize {
    fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_running_container_uses_one_fd() {
    const CONTAINERS: usize = 24;
    let mut cri = Cri::start().await;
    let before = fd_count(cri.process.pid().unwrap());
    let mut ids = Vec::new();
    {
        let pod = cri.pod("web").await;
        for number in 0..CONTAINERS {
            ids.push(pod.run(container_config(&format!("c{number}"))).await);
        }
    }
    // Connections of the test's clients close asynchronously. A few others may be open for a moment.
    let within = async |cri: &Cri, most: usize| {
        let few = async {
            while fd_count(cri.process.pid().unwrap()) > before + most {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        let ended = tokio::time::timeout(WAIT_TIMEOUT, few).await;
        assert!(
            ended.is_ok(),
            "{} descriptors, {before} before",
            fd_count(cri.process.pid().unwrap())
        );
    };
    within(&cri, CONTAINERS + 6).await;
    // Recovery after a restart does not need more fds.
    cri.process.restart().await.expect("fake-cri restarts");
    within(&cri, CONTAINERS + 6).await;
    for id in &ids {
        cri.remove(id).await.unwrap();
    }
    within(&cri, 6).await;
}

#[tokio::test]
async fn timestamps_of_a_container_are_ordered() {
    let mut cri = Cri::start_with(builder().exec_host()).await;
    let mut ended = Vec::new();
    {
        let pod = cri.pod("web").await;
        for number in 0..40 {
            let mut config = container_config(&format!("c{number}"));
            config.command = vec!["true".to_owned()];
            let id = pod.run(config).await;
            ended.push(cri.wait_exited(&id).await);
        }
    }
    cri.process.restart().await.expect("fake-cri restarts");
    for status in ended {
        let times = (status.created_at, status.started_at, status.finished_at);
        assert!(times.0 <= times.1 && times.1 <= times.2, "{times:?}");
        let again = cri.status(&status.id).await.unwrap();
        assert_eq!((again.created_at, again.started_at, again.finished_at), times);
    }
}
