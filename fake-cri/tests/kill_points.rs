//! SIGKILL at the engine's own phase points: to fake-cri, which changes nothing for the container, and to the shim, which
//! ends the container and leaves nothing of it.

mod cri;
mod family;

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use cri::{Cri, PATIENCE, Pod, annotated, builder, container_config, pod_config};
use cri_proto::runtime::v1;
use family::{Process, family, held, parent, start_time, stat};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rstest::rstest;
use tonic::{Request, Status};

/// How often a phase is killed in.
const TIMES: usize = 10;

/// At how many instants of a checkpoint, wherever they fall: as many as `KILL_INSTANTS` says, which is 200 in CI.
fn instants(few: usize) -> usize {
    match std::env::var("KILL_INSTANTS") {
        Ok(many) => many.parse().expect("a number"),
        Err(_) => few,
    }
}

/// A process of several threads, with a child, and memory that takes a while to write.
async fn pod(cri: &Cri) -> Pod<'_> {
    let mut config = pod_config("web");
    config.annotations = annotated(&[("memory", "4Mi"), ("threads", "3"), ("children", "1"), ("tick", "10ms")]);
    cri.pod_of(config).await
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

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    none_left(what, || if holds() { None } else { Some(()) }).await;
}

/// Waits until nothing is left, and says what is when it takes too long.
async fn none_left<T: std::fmt::Debug>(what: &str, mut left: impl FnMut() -> Option<T>) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while let Some(left) = left() {
        assert!(tokio::time::Instant::now() < end, "in vain: {what}: {left:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn ticks(log: &Path) -> usize {
    fs::read_to_string(log)
        .expect("the log")
        .lines()
        .filter(|line| line.contains(" tick "))
        .count()
}

/// Panics unless the archive can be read to its end and has what comes first and last in it.
fn assert_whole(archive: &Path) {
    let mut archive = tar::Archive::new(fs::File::open(archive).expect("an archive"));
    let mut names = Vec::new();
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("a whole member");
        names.push(entry.path().expect("a name").to_string_lossy().into_owned());
        let size = entry.size();
        let read = entry.read_to_end(&mut Vec::new()).expect("its bytes");
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

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .expect("the folder")
        .map(|file| file.expect("a file").path())
        .collect()
}

#[rstest]
#[case("freeze")]
#[case("capture")]
#[case("write")]
#[case("finish")]
#[tokio::test]
async fn killing_fake_cri_changes_nothing_for_the_container(#[case] phase: &str) {
    let mut cri = Cri::start().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let location = folder.path().join("a.tar");
    let (id, log, logs) = {
        let pod = pod(&cri).await;
        let id = pod.run(container_config("app")).await;
        pod.logged("app", "tick 1 ").await;
        (id, pod.logs.path().join("app/0.log"), pod.logs)
    };
    let pid = cri.pid(&id).await;
    let started = start_time(pid).expect("it runs");
    let members = family(pid);
    assert!(members.len() >= 2, "it has a child: {members:?}");

    for round in 0..TIMES {
        // Every other time there is an archive already, which must stay what it was.
        if round % 2 == 1 {
            checkpoint(&cri, &id, &location)
                .await
                .expect("a checkpoint without a fault");
        }
        let before = files(folder.path());
        let fault = format!("CheckpointContainer:{phase}=crash");
        cri.process.control().add_faults([fault]).await.expect("a rule");
        checkpoint(&cri, &id, &location)
            .await
            .expect_err("nobody is left to answer");
        let status = cri.process.crashed().await.expect("it was running");
        assert_eq!(status.to_string(), "signal: 9 (SIGKILL)");

        let free = || members.iter().all(|(pid, _)| held(*pid).is_empty());
        eventually("nothing is stopped or traced", free).await;
        let ticked = ticks(&log);
        eventually("the ticks go on", || ticks(&log) > ticked + 1).await;
        if location.exists() {
            assert_whole(&location);
        }

        cri.process.restart().await.expect("it starts again");
        assert_eq!(
            files(folder.path()).iter().filter(|file| **file != location).count(),
            0,
            "no temporary is left"
        );
        assert!(before.iter().all(|file| file.exists()), "what was there is there");
        if location.exists() {
            assert_whole(&location);
            fs::remove_file(&location).expect("it can be removed");
        }
        let container = cri.status(&id).await.expect("it is known");
        assert_eq!(container.state(), v1::ContainerState::ContainerRunning);
        assert_eq!((cri.pid(&id).await, start_time(pid)), (pid, Some(started)));
        assert_eq!(family(pid).len(), members.len());
    }
    checkpoint(&cri, &id, &location).await.expect("the last one succeeds");
    assert_whole(&location);
    drop(logs);
}

/// A process whose memory takes a while to copy and to read.
async fn large_pod(cri: &Cri) -> Pod<'_> {
    let mut config = pod_config("web");
    config.annotations = annotated(&[
        ("memory", "48Mi"),
        ("threads", "2"),
        ("children", "1"),
        ("tick", "10ms"),
    ]);
    cri.pod_of(config).await
}

/// What fake-cri has heard of last.
const PHASES: [&str; 5] = ["nothing yet", "freeze", "capture", "write", "finish"];

/// How many phases fake-cri has heard of in what it logged from here on.
fn phases(cri: &Cri, logged: usize) -> usize {
    let log = cri.process.log();
    log[logged..].matches("phase=").count().min(PHASES.len() - 1)
}

/// Waits for a time within a checkpoint of [`large_pod`] that has just been asked for, another one each round: how long it takes
/// until one begins depends on the machine, so the time counts from one of its phases, each in its turn.
async fn instant(cri: &Cri, logged: usize, location: &Path, round: usize) {
    let end = tokio::time::Instant::now() + PATIENCE;
    // One that is quicker than this loop is over when its archive is there.
    while phases(cri, logged) < round % PHASES.len() && !location.exists() {
        assert!(tokio::time::Instant::now() < end, "no phase begins");
        tokio::task::yield_now().await;
    }
    // Shorter than tokio's timer counts.
    std::thread::sleep(Duration::from_micros((round as u64 * 397) % 3_000));
}

#[tokio::test]
async fn killing_fake_cri_at_any_instant_leaves_no_copy() {
    let mut cri = Cri::with(builder().env("FAKE_CRI_LOG", "fake_cri=debug")).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let location = folder.path().join("a.tar");
    let (id, log, _logs) = {
        let pod = large_pod(&cri).await;
        let id = pod.run(container_config("app")).await;
        pod.logged("app", "tick 1 ").await;
        (id, pod.logs.path().join("app/0.log"), pod.logs)
    };
    let members = family(cri.pid(&id).await);
    assert_eq!(members.len(), 2, "it has a child: {members:?}");
    let mut cut_short = 0;
    let mut fell = BTreeMap::new();
    for round in 0..instants(40) {
        let logged = cri.process.log().len();
        let killed = async {
            instant(&cri, logged, &location, round).await;
            let pid = cri.process.pid().expect("it runs");
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("it is there");
        };
        let (answer, ()) = tokio::join!(checkpoint(&cri, &id, &location), killed);
        cut_short += usize::from(answer.is_err());
        cri.process.crashed().await.expect("it was running");
        *fell.entry(PHASES[phases(&cri, logged)]).or_insert(0) += 1;
        let stray = || Some(family(members[0].0)).filter(|now| *now != members);
        none_left("only what was there before", stray).await;
        let free = || members.iter().all(|(pid, _)| held(*pid).is_empty());
        eventually("nothing is stopped or traced", free).await;
        let ticked = ticks(&log);
        eventually("the ticks go on", || ticks(&log) > ticked + 1).await;
        cri.process.restart().await.expect("it starts again");
        assert!(files(folder.path()).iter().all(|file| *file == location));
        if location.exists() {
            assert_whole(&location);
            fs::remove_file(&location).expect("it can be removed");
        }
    }
    eprintln!("fake-cri was killed when it had heard of {fell:?}");
    assert!(cut_short > 0, "none was killed in time");
    // Which step of a phase it was is left to chance; `kill_steps` sees to it that every kind of step gets its share.
    assert_eq!(fell.len(), PHASES.len(), "not in every phase: {fell:?}");
}

#[tokio::test]
async fn killing_the_shim_at_any_instant_leaves_no_copy() {
    let cri = Cri::with(builder().env("FAKE_CRI_LOG", "fake_cri=debug")).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let location = folder.path().join("a.tar");
    let pod = large_pod(&cri).await;
    for round in 0..instants(20) {
        let app = format!("app-{round}");
        let id = pod.run(container_config(&app)).await;
        pod.logged(&app, "tick 1 ").await;
        let shim = parent(cri.pid(&id).await).expect("its parent");
        let members = family(shim);
        let logged = cri.process.log().len();
        let killed = async {
            instant(&cri, logged, &location, round).await;
            // What was there in the very moment before: a copy may be among them.
            let members = family(shim);
            kill(Pid::from_raw(shim), Signal::SIGKILL).expect("the shim is there");
            members
        };
        let (_, late) = tokio::join!(checkpoint(&cri, &id, &location), killed);
        cri.ended(&id).await;
        let all: Vec<Process> = members.into_iter().chain(late).collect();
        let lives = |(pid, start): &&Process| start_time(*pid) == Some(*start);
        let left = || all.iter().find(lives).map(|(pid, _)| (*pid, stat(*pid)));
        none_left("every process is gone and reaped", left).await;
        cri.remove(&id).await.expect("what is left of it can be removed");
        if location.exists() {
            assert_whole(&location);
            fs::remove_file(&location).expect("it can be removed");
        }
        eventually("no file is left", || files(folder.path()).is_empty()).await;
    }
}

#[rstest]
#[case("freeze")]
#[case("capture")]
#[case("write")]
#[case("finish")]
#[tokio::test]
async fn killing_the_shim_leaves_nothing_stopped_stray_or_partial(#[case] phase: &str) {
    let options = builder().env("FAKE_CRI_LOG", "fake_cri=debug");
    let cri = Cri::with(options.fault(format!("CheckpointContainer:{phase}=hang"))).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let location = folder.path().join("a.tar");
    let pod = pod(&cri).await;
    let mut name = phase.to_owned();
    name[..1].make_ascii_uppercase();
    let reached = |log: String| log.matches(&format!("phase={name}")).count();

    for round in 0..TIMES {
        let app = format!("app-{round}");
        let id = pod.run(container_config(&app)).await;
        pod.logged(&app, "tick 1 ").await;
        let shim = parent(cri.pid(&id).await).expect("its parent");
        let members = family(shim);
        assert!(members.len() >= 3, "a shim, a process, its child: {members:?}");

        let killed = async {
            eventually("the phase begins", || reached(cri.process.log()) > round).await;
            kill(Pid::from_raw(shim), Signal::SIGKILL).expect("the shim is there");
        };
        let (answer, ()) = tokio::join!(checkpoint(&cri, &id, &location), killed);
        answer.expect_err("its shim is dead");
        let status = cri.ended(&id).await;
        assert_ne!(status.exit_code, 0, "{status:?}");
        let lives = |(pid, start): &&Process| start_time(*pid) == Some(*start);
        let left = || members.iter().find(lives).map(|(pid, _)| (*pid, stat(*pid)));
        none_left("every process is gone and reaped", left).await;
        eventually("no file is left", || files(folder.path()).is_empty()).await;
        cri.remove(&id).await.expect("what is left of it can be removed");
    }
    cri.process.control().clear_faults(&[]).await.expect("an answer");
    let id = pod.run(container_config("last")).await;
    checkpoint(&cri, &id, &location)
        .await
        .expect("the next container is well");
    assert_whole(&location);
}
