//! Calls for a running container: stats, resources, log, exec.

use crate::cri;

use cri::{Cri, annotated, builder, code, container_config};
use cri_proto::runtime::v1;
use tonic::Code;

#[tokio::test]
async fn stats_report_memory_and_cpu_time() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config.annotations = annotated(&[("memory", "32Mi")]);
    let id = pod.run(config).await;
    pod.wait_logged("app", "ready").await;
    let request = v1::ContainerStatsRequest {
        container_id: id.clone(),
    };
    let stats = cri
        .runtime()
        .container_stats(request)
        .await
        .unwrap()
        .into_inner()
        .stats
        .unwrap();
    let memory = stats.memory.unwrap();
    assert!(memory.rss_bytes.unwrap().value >= 32 << 20, "{memory:?}");
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    assert_eq!(stats.attributes.unwrap().id, id);
    let request = v1::ContainerStatsRequest {
        container_id: "ffff".to_owned(),
    };
    assert_eq!(code(cri.runtime().container_stats(request).await), Code::NotFound);
}

#[tokio::test]
async fn updated_resources_are_reported() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let id = pod.create(container_config("app")).await.unwrap();
    let limits = v1::LinuxContainerResources {
        memory_limit_in_bytes: 1 << 30,
        cpu_shares: 512,
        ..Default::default()
    };
    let request = |id: &str| v1::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(limits.clone()),
        ..Default::default()
    };
    cri.runtime().update_container_resources(request(&id)).await.unwrap();
    assert_eq!(
        cri.status(&id).await.unwrap().resources.unwrap().linux,
        Some(limits.clone())
    );
    assert_eq!(
        code(cri.runtime().update_container_resources(request("ffff")).await),
        Code::NotFound
    );
}

#[tokio::test]
async fn a_rotated_log_is_reopened() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let id = pod.run(container_config("app")).await;
    pod.wait_logged("app", "heartbeat").await;
    let path = pod.logs.path().join("app/0.log");
    std::fs::rename(&path, path.with_extension("old")).unwrap();
    let request = v1::ReopenContainerLogRequest {
        container_id: id.clone(),
    };
    cri.runtime().reopen_container_log(request.clone()).await.unwrap();
    pod.wait_logged("app", "heartbeat").await;
    cri.stop(&id, 0).await.unwrap();
    assert_eq!(
        code(cri.runtime().reopen_container_log(request).await),
        Code::FailedPrecondition
    );
}

fn exec_request(id: &str, cmd: &[&str], timeout: i64) -> v1::ExecSyncRequest {
    v1::ExecSyncRequest {
        container_id: id.to_owned(),
        cmd: cmd.iter().map(|&part| part.to_owned()).collect(),
        timeout,
    }
}

#[tokio::test]
async fn exec_follows_the_annotations() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config.annotations = annotated(&[("exec-stdout", "hello"), ("exec-stderr", "oh"), ("exec-exit-code", "7")]);
    let id = pod.run(config).await;
    let answer = cri
        .runtime()
        .exec_sync(exec_request(&id, &["ls"], 0))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (answer.stdout, answer.stderr, answer.exit_code),
        (b"hello".to_vec(), b"oh".to_vec(), 7)
    );
    let plain = pod.run(container_config("plain")).await;
    let answer = cri
        .runtime()
        .exec_sync(exec_request(&plain, &["ls"], 0))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((answer.stdout, answer.exit_code), (Vec::new(), 0));
    let mut config = container_config("slow");
    config.annotations = annotated(&[("exec-delay", "1h")]);
    let slow = pod.run(config).await;
    assert_eq!(
        code(cri.runtime().exec_sync(exec_request(&slow, &["ls"], 1)).await),
        Code::DeadlineExceeded
    );
    assert_eq!(
        code(cri.runtime().exec_sync(exec_request(&id, &[], 0)).await),
        Code::InvalidArgument
    );
    cri.stop(&id, 0).await.unwrap();
    assert_eq!(
        code(cri.runtime().exec_sync(exec_request(&id, &["ls"], 0)).await),
        Code::FailedPrecondition
    );
}

#[tokio::test]
async fn exec_host_runs_the_command_with_its_environment() {
    let cri = Cri::start_with(builder().exec_host()).await;
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config.command = ["/bin/sh", "-c"].map(str::to_owned).into();
    config.args = vec!["echo value=$KEY host=$HOSTNAME; echo oops >&2; exec sleep 1000".to_owned()];
    config.envs = vec![v1::KeyValue {
        key: "KEY".to_owned(),
        value: b"a b".to_vec(),
    }];
    let id = pod.run(config).await;
    let log = pod.wait_logged("app", "stderr F oops").await;
    assert!(log.contains("stdout F value=a b host=web"), "{log}");
    let script = "echo $KEY; echo no >&2; exit 3";
    let answer = cri
        .runtime()
        .exec_sync(exec_request(&id, &["/bin/sh", "-c", script], 0))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (answer.stdout, answer.stderr, answer.exit_code),
        (b"a b\n".to_vec(), b"no\n".to_vec(), 3)
    );
    assert_eq!(
        code(cri.runtime().exec_sync(exec_request(&id, &["sleep", "1000"], 1)).await),
        Code::DeadlineExceeded
    );
    assert_eq!(
        code(
            cri.runtime()
                .exec_sync(exec_request(&id, &["no-such-command"], 0))
                .await
        ),
        Code::Unknown
    );
}
