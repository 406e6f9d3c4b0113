//! Recovery: a killed fake-cri, a killed shim, and the cleanup of an ephemeral fake-cri.

use crate::cri;

use std::time::Duration;

use cri::{Cri, WAIT_TIMEOUT, alive, annotated, builder, code, container_config};
use cri_proto::runtime::v1::{self, ContainerState};
use tonic::Code;

#[tokio::test]
async fn containers_survive_a_killed_runtime() {
    let mut cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let (pod_id, logs) = (pod.id.clone(), pod.logs.path().to_owned());
    let created = pod.create(container_config("created")).await.unwrap();
    let running = pod.run(container_config("running")).await;
    let exited = pod.run(container_config("exited")).await;
    cri.stop(&exited, 0).await.unwrap();
    let logs_dir = pod.logs;
    let mut before = Vec::new();
    for id in [&created, &running, &exited] {
        before.push(cri.status_and_info(id).await.unwrap());
    }
    let pid = cri.pid(&running).await;

    for _ in 0..3 {
        cri.process.kill().await;
        assert!(alive(pid));
        let log = logs.join("running/0.log");
        let lines = || std::fs::read_to_string(&log).unwrap().lines().count();
        let written = lines();
        wait_until(|| lines() > written).await;
        cri.process.restart().await.unwrap();
        for (id, before) in [&created, &running, &exited].into_iter().zip(&before) {
            assert_eq!(&cri.status_and_info(id).await.unwrap(), before);
        }
        assert_eq!(
            cri.pod_status(&pod_id).await.unwrap().state(),
            v1::PodSandboxState::SandboxReady
        );
    }
    // All operations on the containers still work.
    cri.start_container(&created).await.unwrap();
    cri.stop(&running, 10).await.unwrap();
    let status = cri.status(&running).await.unwrap();
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    cri.remove(&exited).await.unwrap();
    drop(logs_dir);
}

#[tokio::test]
async fn an_exit_during_downtime_keeps_its_code() {
    let mut cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config.annotations = annotated(&[("exit-after", "500ms"), ("exit-code", "42")]);
    let id = pod.run(config).await;
    let started = cri.status(&id).await.unwrap().started_at;
    let pid = cri.pid(&id).await;
    let logs_dir = pod.logs;
    cri.process.kill().await;
    wait_until(|| !alive(pid)).await;
    cri.process.restart().await.unwrap();
    let status = cri.status(&id).await.unwrap();
    assert_eq!(status.state(), ContainerState::ContainerExited);
    assert_eq!((status.exit_code, status.reason.as_str()), (42, "Error"));
    assert_eq!(status.started_at, started);
    let after = Duration::from_nanos(u64::try_from(status.finished_at - started).unwrap());
    assert!(
        (Duration::from_millis(400)..Duration::from_secs(20)).contains(&after),
        "{after:?}"
    );
    drop(logs_dir);
}

/// Polls until a condition without an event holds.
async fn wait_until(condition: impl Fn() -> bool) {
    let poll = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WAIT_TIMEOUT, poll)
        .await
        .expect("the condition holds before the timeout");
}

/// The shim of a container is the parent of its init process.
fn parent_pid(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_killed_shim_ends_its_container() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let mut config = container_config("app");
    config.annotations = annotated(&[("children", "2")]);
    let id = pod.run(config).await;
    let other = pod.run(container_config("other")).await;
    pod.wait_logged("app", "ready").await;
    let pid = cri.pid(&id).await;
    kill(parent_pid(pid));
    let status = cri.wait_exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "ShimDied"));
    assert!(!alive(pid));
    assert_eq!(
        cri.status(&other).await.unwrap().state(),
        ContainerState::ContainerRunning
    );
    cri.remove(&id).await.unwrap();
}

#[tokio::test]
async fn a_shim_killed_during_downtime_is_noticed() {
    let mut cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let id = pod.run(container_config("app")).await;
    let logs_dir = pod.logs;
    let pid = cri.pid(&id).await;
    let shim = parent_pid(pid);
    cri.process.kill().await;
    kill(shim);
    cri.process.restart().await.unwrap();
    let status = cri.wait_exited(&id).await;
    assert_eq!(status.reason, "ShimDied");
    assert!(!alive(pid));
    drop(logs_dir);
}

#[tokio::test]
async fn an_ephemeral_runtime_removes_everything() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let id = pod.run(container_config("app")).await;
    let logs_dir = pod.logs;
    let pid = cri.pid(&id).await;
    let shim = parent_pid(pid);
    let socket = cri.process.socket().to_owned();
    let status = cri.process.shutdown().await.unwrap();
    assert!(status.success());
    assert!(!alive(pid) && !alive(shim) && !socket.exists());
    drop(logs_dir);
}

#[tokio::test]
async fn a_deleted_state_dir_keeps_nothing_alive() {
    let cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let id = pod.run(container_config("app")).await;
    let logs_dir = pod.logs;
    let pid = cri.pid(&id).await;
    let shim = parent_pid(pid);
    std::fs::remove_dir_all(cri.process.state_dir()).unwrap();
    cri.process.shutdown().await.unwrap();
    assert!(!alive(pid) && !alive(shim));
    drop(logs_dir);
}

#[tokio::test]
async fn a_dropped_handle_purges_after_a_kill() {
    let mut cri = Cri::start().await;
    let pod = cri.pod("web").await;
    let id = pod.run(container_config("app")).await;
    let logs_dir = pod.logs;
    let pid = cri.pid(&id).await;
    let dir = cri.process.socket().parent().unwrap().to_owned();
    cri.process.kill().await;
    assert!(alive(pid));
    drop(cri);
    assert!(!alive(pid) && !dir.exists());
    drop(logs_dir);
}

#[tokio::test]
async fn a_second_runtime_on_the_state_dir_is_refused() {
    let cri = Cri::start().await;
    let error = builder().state_dir(cri.process.state_dir()).start().await.unwrap_err();
    assert!(error.to_string().contains("in use by another fake-cri"), "{error}");
    assert_eq!(code(cri.status("ffff").await), Code::NotFound);
}

#[tokio::test]
async fn live_sockets_are_refused_and_stale_ones_replaced() {
    let mut cri = Cri::start().await;
    let error = builder().listen(cri.process.socket()).start().await.unwrap_err();
    assert!(error.to_string().contains("another process listens on it"), "{error}");
    // SIGKILL leaves the socket file behind.
    cri.process.kill().await;
    assert!(cri.process.socket().exists());
    cri.process.restart().await.unwrap();
    assert_eq!(code(cri.status("ffff").await), Code::NotFound);
}
