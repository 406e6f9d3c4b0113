//! SIGKILL at the phases of a checkpoint. Killing fake-cri does not affect the container; killing the shim ends the
//! container without leftovers.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::cri::{Cri, Pod, WAIT_TIMEOUT, annotated, builder, container_config, pod_config};
use crate::processes::{PidAndStart, parent, process_tree, start_time, stat, stopped_or_traced};
use cri_proto::runtime::v1;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rstest::rstest;
use tonic::{Request, Status};

/// The number of kills per phase.
const KILLS_PER_PHASE: usize = 10;

/// The number of kills at random times: `KILL_INSTANTS`, which is 200 in CI.
fn instants(default: usize) -> usize {
    match std::env::var("KILL_INSTANTS") {
        Ok(count) => count.parse().expect("a number"),
        Err(_) => default,
    }
}

/// A pod whose process has several threads, a child, and enough memory that writing takes a measurable time.
async fn pod(cri: &Cri) -> Pod<'_> {
    let mut config = pod_config("web");
    config.annotations = annotated(&[
        ("memory", "4Mi"),
        ("threads", "3"),
        ("children", "1"),
        ("heartbeat-interval", "10ms"),
    ]);
    cri.pod_with_config(config).await
}

async fn checkpoint(cri: &Cri, id: &str, location: &Path) -> Result<(), Status> {
    let request = v1::CheckpointContainerRequest {
        container_id: id.to_owned(),
        location: location.to_string_lossy().into_owned(),
        timeout: 0,
    };
    cri.runtime()
        .checkpoint_container(Request::new(request))
        .await
        .map(drop)
}

async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_until_none(what, || if holds() { None } else { Some(()) }).await;
}

/// Waits until nothing is left; panics with the leftovers after a timeout.
async fn wait_until_none<T: std::fmt::Debug>(what: &str, mut left: impl FnMut() -> Option<T>) {
    let end = tokio::time::Instant::now() + WAIT_TIMEOUT;
    while let Some(left) = left() {
        assert!(tokio::time::Instant::now() < end, "timed out: {what}: {left:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn heartbeats(log: &Path) -> usize {
    fs::read_to_string(log)
        .expect("the log")
        .lines()
        .filter(|line| line.contains(" heartbeat "))
        .count()
}

/// Asserts that the archive can be read to its end and has the first and the last member.
fn assert_complete(archive: &Path) {
    let mut archive = tar::Archive::new(fs::File::open(archive).expect("the archive exists"));
    let mut names = Vec::new();
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("a complete member");
        names.push(entry.path().expect("a name").to_string_lossy().into_owned());
        let size = entry.size();
        let read = entry.read_to_end(&mut Vec::new()).expect("a readable member");
        assert_eq!(read as u64, size);
    }
    for member in [
        "checkpoint/",
        "checkpoint/inventory.img",
        "checkpoint/pages-1.img",
        "dump.log",
    ] {
        assert!(names.iter().any(|name| name == member), "{member} is not in {names:?}");
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .expect("the directory is readable")
        .map(|file| file.expect("an entry").path())
        .collect()
}

#[rstest]
#[case("freeze")]
#[case("capture")]
#[case("write")]
#[case("finish")]
#[tokio::test]
async fn killing_fake_cri_keeps_the_container_running(#[case] phase: &str) {
    let mut cri = Cri::start().await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let location = dir.path().join("a.tar");
    let (id, log, logs) = {
        let pod = pod(&cri).await;
        let id = pod.run(container_config("app")).await;
        pod.wait_logged("app", "heartbeat 1 ").await;
        (id, pod.logs.path().join("app/0.log"), pod.logs)
    };
    let pid = cri.pid(&id).await;
    let started = start_time(pid).expect("the process is running");
    let tree = process_tree(pid);
    assert!(tree.len() >= 2, "the process has a child: {tree:?}");

    for round in 0..KILLS_PER_PHASE {
        // In every other round an archive exists, which must stay unchanged.
        if round % 2 == 1 {
            checkpoint(&cri, &id, &location)
                .await
                .expect("a checkpoint without a fault");
        }
        let before = files(dir.path());
        let fault = format!("CheckpointContainer:{phase}=crash");
        cri.process.control().add_faults([fault]).await.expect("a valid rule");
        checkpoint(&cri, &id, &location).await.expect_err("fake-cri was killed");
        let status = cri.process.wait_exit().await.expect("fake-cri was running");
        assert_eq!(status.to_string(), "signal: 9 (SIGKILL)");

        let all_running = || tree.iter().all(|(pid, _)| stopped_or_traced(*pid).is_empty());
        wait_until("nothing is stopped or traced", all_running).await;
        let heartbeats_before = heartbeats(&log);
        wait_until("the heartbeats go on", || heartbeats(&log) > heartbeats_before + 1).await;
        if location.exists() {
            assert_complete(&location);
        }

        cri.process.restart().await.expect("fake-cri restarts");
        assert_eq!(
            files(dir.path()).iter().filter(|file| **file != location).count(),
            0,
            "no temporary is left"
        );
        assert!(before.iter().all(|file| file.exists()), "existing files remain");
        if location.exists() {
            assert_complete(&location);
            fs::remove_file(&location).expect("the file can be removed");
        }
        let container = cri.status(&id).await.expect("the container is known");
        assert_eq!(container.state(), v1::ContainerState::ContainerRunning);
        assert_eq!((cri.pid(&id).await, start_time(pid)), (pid, Some(started)));
        assert_eq!(process_tree(pid).len(), tree.len());
    }
    checkpoint(&cri, &id, &location)
        .await
        .expect("the last checkpoint succeeds");
    assert_complete(&location);
    drop(logs);
}

/// A pod whose memory takes a measurable time to copy and to read.
async fn large_pod(cri: &Cri) -> Pod<'_> {
    let mut config = pod_config("web");
    config.annotations = annotated(&[
        ("memory", "48Mi"),
        ("threads", "2"),
        ("children", "1"),
        ("heartbeat-interval", "10ms"),
    ]);
    cri.pod_with_config(config).await
}

/// The last phase that fake-cri reported.
const PHASES: [&str; 5] = ["nothing yet", "freeze", "capture", "write", "finish"];

/// The number of phases in the log of fake-cri after this offset.
fn phases_reported(cri: &Cri, logged: usize) -> usize {
    let log = cri.process.log();
    log[logged..].matches("phase=").count().min(PHASES.len() - 1)
}

/// Waits for a time within a checkpoint of [`large_pod`], a different time in each round. The start of a phase depends
/// on the machine, so the time counts from the start of one of the phases in turn.
async fn wait_for_instant(cri: &Cri, logged: usize, location: &Path, round: usize) {
    let end = tokio::time::Instant::now() + WAIT_TIMEOUT;
    // A checkpoint that is faster than this loop has finished when its archive exists.
    while phases_reported(cri, logged) < round % PHASES.len() && !location.exists() {
        assert!(tokio::time::Instant::now() < end, "no phase begins");
        tokio::task::yield_now().await;
    }
    // Shorter than the resolution of tokio's timer.
    std::thread::sleep(Duration::from_micros((round as u64 * 397) % 3_000));
}

#[tokio::test]
async fn killing_fake_cri_at_any_instant_leaves_no_snapshot() {
    let mut cri = Cri::start_with(builder().env("FAKE_CRI_LOG", "fake_cri=debug")).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let location = dir.path().join("a.tar");
    let (id, log, _logs) = {
        let pod = large_pod(&cri).await;
        let id = pod.run(container_config("app")).await;
        pod.wait_logged("app", "heartbeat 1 ").await;
        (id, pod.logs.path().join("app/0.log"), pod.logs)
    };
    let tree = process_tree(cri.pid(&id).await);
    assert_eq!(tree.len(), 2, "the process has a child: {tree:?}");
    let mut failed_calls = 0;
    let mut kills_by_phase = BTreeMap::new();
    for round in 0..instants(40) {
        let logged = cri.process.log().len();
        let killed = async {
            wait_for_instant(&cri, logged, &location, round).await;
            let pid = cri.process.pid().expect("the process is running");
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("fake-cri is running");
        };
        let (answer, ()) = tokio::join!(checkpoint(&cri, &id, &location), killed);
        failed_calls += usize::from(answer.is_err());
        cri.process.wait_exit().await.expect("fake-cri was running");
        *kills_by_phase.entry(PHASES[phases_reported(&cri, logged)]).or_insert(0) += 1;
        let extra_processes = || Some(process_tree(tree[0].0)).filter(|now| *now != tree);
        wait_until_none("no new process", extra_processes).await;
        let all_running = || tree.iter().all(|(pid, _)| stopped_or_traced(*pid).is_empty());
        wait_until("nothing is stopped or traced", all_running).await;
        let heartbeats_before = heartbeats(&log);
        wait_until("the heartbeats go on", || heartbeats(&log) > heartbeats_before + 1).await;
        cri.process.restart().await.expect("fake-cri restarts");
        assert!(files(dir.path()).iter().all(|file| *file == location));
        if location.exists() {
            assert_complete(&location);
            fs::remove_file(&location).expect("the file can be removed");
        }
    }
    eprintln!("kills of fake-cri by the last reported phase: {kills_by_phase:?}");
    assert!(failed_calls > 0, "no checkpoint failed");
    // The step within a phase is random here; `kill_steps` covers all kinds of steps.
    assert_eq!(
        kills_by_phase.len(),
        PHASES.len(),
        "not in every phase: {kills_by_phase:?}"
    );
}

#[tokio::test]
async fn killing_the_shim_at_any_instant_leaves_no_snapshot() {
    let cri = Cri::start_with(builder().env("FAKE_CRI_LOG", "fake_cri=debug")).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let location = dir.path().join("a.tar");
    let pod = large_pod(&cri).await;
    for round in 0..instants(20) {
        let app = format!("app-{round}");
        let id = pod.run(container_config(&app)).await;
        pod.wait_logged(&app, "heartbeat 1 ").await;
        let shim = parent(cri.pid(&id).await).expect("a parent process");
        let tree = process_tree(shim);
        let logged = cri.process.log().len();
        let killed = async {
            wait_for_instant(&cri, logged, &location, round).await;
            // The process tree just before the kill may contain a snapshot.
            let tree = process_tree(shim);
            kill(Pid::from_raw(shim), Signal::SIGKILL).expect("the shim exists");
            tree
        };
        let (_, last_tree) = tokio::join!(checkpoint(&cri, &id, &location), killed);
        cri.wait_exited(&id).await;
        let all: Vec<PidAndStart> = tree.into_iter().chain(last_tree).collect();
        let is_alive = |(pid, start): &&PidAndStart| start_time(*pid) == Some(*start);
        let left = || all.iter().find(is_alive).map(|(pid, _)| (*pid, stat(*pid)));
        wait_until_none("all processes exited and reaped", left).await;
        cri.remove(&id).await.expect("the container can be removed");
        if location.exists() {
            assert_complete(&location);
            fs::remove_file(&location).expect("the file can be removed");
        }
        wait_until("no file is left", || files(dir.path()).is_empty()).await;
    }
}

#[rstest]
#[case("freeze")]
#[case("capture")]
#[case("write")]
#[case("finish")]
#[tokio::test]
async fn killing_the_shim_in_a_phase_leaves_nothing(#[case] phase: &str) {
    let options = builder().env("FAKE_CRI_LOG", "fake_cri=debug");
    let cri = Cri::start_with(options.fault(format!("CheckpointContainer:{phase}=hang"))).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let location = dir.path().join("a.tar");
    let pod = pod(&cri).await;
    let mut name = phase.to_owned();
    name[..1].make_ascii_uppercase();
    let reached = |log: String| log.matches(&format!("phase={name}")).count();

    for round in 0..KILLS_PER_PHASE {
        let app = format!("app-{round}");
        let id = pod.run(container_config(&app)).await;
        pod.wait_logged(&app, "heartbeat 1 ").await;
        let shim = parent(cri.pid(&id).await).expect("a parent process");
        let tree = process_tree(shim);
        assert!(tree.len() >= 3, "expected a shim, a process and a child: {tree:?}");

        let killed = async {
            wait_until("the phase begins", || reached(cri.process.log()) > round).await;
            kill(Pid::from_raw(shim), Signal::SIGKILL).expect("the shim exists");
        };
        let (answer, ()) = tokio::join!(checkpoint(&cri, &id, &location), killed);
        answer.expect_err("the shim was killed");
        let status = cri.wait_exited(&id).await;
        assert_ne!(status.exit_code, 0, "{status:?}");
        let is_alive = |(pid, start): &&PidAndStart| start_time(*pid) == Some(*start);
        let left = || tree.iter().find(is_alive).map(|(pid, _)| (*pid, stat(*pid)));
        wait_until_none("all processes exited and reaped", left).await;
        wait_until("no file is left", || files(dir.path()).is_empty()).await;
        cri.remove(&id).await.expect("the container can be removed");
    }
    cri.process
        .control()
        .clear_faults(&[])
        .await
        .expect("the call succeeds");
    let id = pod.run(container_config("last")).await;
    checkpoint(&cri, &id, &location).await.expect("the next container runs");
    assert_complete(&location);
}
