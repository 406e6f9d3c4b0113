//! The largest answers, the limit of open files, and the order of a container's times.

mod cri;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use cri::{Cri, PATIENCE, builder, container_config};
use cri_proto::runtime::v1;
use rstest::rstest;
use tonic::Code;

const LARGEST: usize = 16 << 20;

/// The two sizes that an error of a large answer names.
fn sizes(message: &str) -> (usize, usize) {
    let (_, both) = message.rsplit_once('(').expect("sizes");
    let (size, limit) = both.trim_end_matches(')').split_once(" vs. ").expect("two sizes");
    (size.parse().expect("a number"), limit.parse().expect("a number"))
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_an_error_with_both_sizes_and_the_connection_stays() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let config = |name: &str, bytes: usize| v1::ContainerConfig {
        annotations: [("large".to_owned(), "x".repeat(bytes))].into(),
        ..container_config(name)
    };
    // To the byte: an answer of the largest size is one.
    let mut runtime = cri.runtime();
    let list = v1::ListContainersRequest::default;
    pod.create(config("one", LARGEST / 2)).await.unwrap();
    let id = pod.create(config("two", LARGEST / 4)).await.unwrap();
    let answer = runtime.list_containers(list()).await.unwrap().into_inner();
    let left = LARGEST - prost::Message::encoded_len(&answer);
    cri.remove(&id).await.unwrap();
    pod.create(config("two", LARGEST / 4 + left)).await.unwrap();
    let answer = runtime.list_containers(list()).await.unwrap().into_inner();
    assert_eq!(prost::Message::encoded_len(&answer), LARGEST);
    pod.create(config("three", 0)).await.unwrap();
    let error = runtime.list_containers(list()).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    let (size, limit) = sizes(error.message());
    assert!(
        error.message().contains("trying to send message larger than max") && size > limit,
        "{error}"
    );
    assert_eq!(limit, LARGEST);
    runtime
        .version(v1::VersionRequest::default())
        .await
        .expect("the connection works");
    // The journal has the status, as for any call.
    let journal = cri.process.control().journal(0).await.expect("a journal");
    let entry = journal
        .iter()
        .rev()
        .find(|entry| entry.method.ends_with("ListContainers"))
        .expect("the call");
    assert_eq!(entry.message, error.message());
}

#[rstest]
#[case("head -c 16777184 /dev/zero", true)]
#[case("head -c 16777185 /dev/zero", false)]
#[case("cat /dev/zero", false)]
#[tokio::test]
async fn output_of_a_command_is_whole_or_an_error(#[case] script: &str, #[case] whole: bool) {
    let cri = Cri::with(builder().exec_host()).await;
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
        Ok(answer) => assert_eq!((whole, answer.into_inner().stdout.len()), (true, 16_777_184)),
        Err(error) => {
            assert_eq!((whole, error.code()), (false, Code::ResourceExhausted));
            assert!(error.message().contains("16777184 bytes"), "{error}");
        }
    }
}

fn soft_limit(pid: u32) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .expect("a line");
    let mut words = line["Max open files".len()..].split_whitespace().map(str::to_owned);
    (words.next().expect("soft"), words.next().expect("hard"))
}

#[tokio::test]
async fn fake_cri_has_the_hard_limit_of_open_files_and_its_containers_the_one_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let limited = folder.path().join("limited");
    let program = env!("CARGO_BIN_EXE_fake-cri");
    fs::write(
        &limited,
        format!("#!/bin/sh\nulimit -Sn 300\nexec '{program}' \"$@\"\n"),
    )
    .unwrap();
    fs::set_permissions(&limited, fs::Permissions::from_mode(0o755)).unwrap();
    let cri = Cri::with(builder().exec_host().executable(limited)).await;
    let (soft, hard) = soft_limit(cri.process.pid().unwrap());
    assert_eq!(soft, hard);
    assert_ne!(soft, "300");
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config.command = ["sleep", "1000"].map(str::to_owned).to_vec();
    let id = pod.run(config).await;
    let (soft, hard_below) = soft_limit(cri.pid(&id).await.unsigned_abs());
    assert_eq!((soft.as_str(), hard_below), ("300", hard));
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_container_takes_one_descriptor_while_it_runs_and_none_afterwards() {
    const CONTAINERS: usize = 24;
    let mut cri = Cri::start().await;
    let before = descriptors(cri.process.pid().unwrap());
    let mut ids = Vec::new();
    {
        let pod = cri.pod("web").await;
        for number in 0..CONTAINERS {
            ids.push(pod.run(container_config(&format!("c{number}"))).await);
        }
    }
    // Connections of this test's clients end in their own time. A few others may be there for a moment.
    let within = async |cri: &Cri, most: usize| {
        let few = async {
            while descriptors(cri.process.pid().unwrap()) > before + most {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        let ended = tokio::time::timeout(PATIENCE, few).await;
        assert!(
            ended.is_ok(),
            "{} descriptors, {before} before",
            descriptors(cri.process.pid().unwrap())
        );
    };
    within(&cri, CONTAINERS + 6).await;
    // One that is found again after a restart takes no more.
    cri.process.restart().await.expect("it starts again");
    within(&cri, CONTAINERS + 6).await;
    for id in &ids {
        cri.remove(id).await.unwrap();
    }
    within(&cri, 6).await;
}

#[tokio::test]
async fn a_container_is_created_then_started_then_ends() {
    let mut cri = Cri::with(builder().exec_host()).await;
    let mut ended = Vec::new();
    {
        let pod = cri.pod("web").await;
        for number in 0..40 {
            let mut config = container_config(&format!("c{number}"));
            config.command = vec!["true".to_owned()];
            let id = pod.run(config).await;
            ended.push(cri.ended(&id).await);
        }
    }
    cri.process.restart().await.expect("it starts again");
    for status in ended {
        let times = (status.created_at, status.started_at, status.finished_at);
        assert!(times.0 <= times.1 && times.1 <= times.2, "{times:?}");
        let again = cri.status(&status.id).await.unwrap();
        assert_eq!((again.created_at, again.started_at, again.finished_at), times);
    }
}
