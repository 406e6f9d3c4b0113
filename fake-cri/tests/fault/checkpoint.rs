//! The effects of checkpoint faults on the call, the archive and the container of a real fake-cri.

use crate::cri;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use cri::{Cri, Pod, WAIT_TIMEOUT, builder, container_config};
use cri_proto::runtime::v1;
use rstest::rstest;
use tonic::{Code, Request, Status};

/// A container with a directory for its archives.
struct TestContainer<'a> {
    cri: &'a Cri,
    pod: Pod<'a>,
    id: String,
    dir: tempfile::TempDir,
}

impl<'a> TestContainer<'a> {
    async fn new(cri: &'a Cri) -> TestContainer<'a> {
        let pod = cri.pod("web").await;
        let id = pod.run(container_config("app")).await;
        pod.wait_logged("app", "heartbeat 1 ").await;
        TestContainer {
            cri,
            pod,
            id,
            dir: tempfile::tempdir().expect("a temporary directory"),
        }
    }

    fn archive(&self) -> PathBuf {
        self.dir.path().join("a.tar")
    }

    async fn checkpoint(&self, timeout: i64) -> Result<(), Status> {
        let request = v1::CheckpointContainerRequest {
            container_id: self.id.clone(),
            location: self.archive().to_string_lossy().into_owned(),
            timeout,
        };
        self.cri
            .runtime()
            .checkpoint_container(Request::new(request))
            .await
            .map(drop)
    }

    /// The files in the archive directory.
    fn files(&self) -> Vec<String> {
        let files = fs::read_dir(self.dir.path()).expect("the directory is readable");
        files
            .map(|file| file.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// Waits for a new heartbeat.
    async fn assert_keeps_ticking(&self) {
        let log = fs::read_to_string(self.pod.logs.path().join("app/0.log")).expect("the log");
        let heartbeats = log.lines().filter(|line| line.contains(" heartbeat ")).count();
        self.pod
            .wait_logged("app", &format!("heartbeat {} ", heartbeats + 1))
            .await;
    }
}

fn members(archive: &Path) -> Vec<String> {
    let mut archive = tar::Archive::new(fs::File::open(archive).expect("the archive exists"));
    let entries = archive.entries().expect("a tar");
    let name = |entry: tar::Entry<'_, fs::File>| entry.path().expect("a name").to_string_lossy().into_owned();
    entries.map(|entry| name(entry.expect("a complete member"))).collect()
}

/// The distinct state letters of a process's threads.
fn thread_states(pid: i32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let mut states: Vec<char> = tasks
        .map(|task| {
            let stat = fs::read_to_string(task.expect("a thread").path().join("stat")).expect("a stat file");
            let (_, rest) = stat.rsplit_once(") ").expect("the end of the name");
            rest.chars().next().expect("a letter")
        })
        .collect();
    states.sort_unstable();
    states.dedup();
    states.into_iter().collect()
}

#[rstest]
#[case("preset:disk-full", Code::ResourceExhausted)]
#[case("CheckpointContainer:freeze=error(Internal,\"disk on fire\")", Code::Internal)]
#[case("CheckpointContainer:capture=error(Unknown,\"disk on fire\")", Code::Unknown)]
#[case("CheckpointContainer:write=error(Aborted,\"disk on fire\")", Code::Aborted)]
#[case("CheckpointContainer:finish=error(DataLoss,\"disk on fire\")", Code::DataLoss)]
#[tokio::test]
async fn a_failed_checkpoint_leaves_no_file(#[case] rules: &str, #[case] code: Code) {
    let cri = Cri::start_with(builder().fault(rules)).await;
    let container = TestContainer::new(&cri).await;
    let status = container.checkpoint(0).await.expect_err("a fault");
    assert_eq!(status.code(), code, "{status:?}");
    if rules.contains("on fire") {
        assert_eq!(status.message(), "disk on fire");
    }
    assert_eq!(container.files(), [""; 0]);
    container.assert_keeps_ticking().await;
    cri.process
        .control()
        .clear_faults(&[])
        .await
        .expect("the call succeeds");
    container.checkpoint(0).await.expect("the next checkpoint succeeds");
    assert!(members(&container.archive()).contains(&"checkpoint/inventory.img".to_owned()));
}

/// The fault acts before the first page, and between pages.
#[rstest]
#[case("CheckpointContainer:write=io-error")]
#[case("preset:disk-io-error")]
#[case("CheckpointContainer:write=io-error(1MiB)")]
#[tokio::test]
async fn a_disk_error_leaves_no_file_and_the_next_archive_is_complete(#[case] rules: &str) {
    let cri = Cri::start_with(builder().fault(rules)).await;
    let container = TestContainer::new(&cri).await;
    let pid = cri.pid(&container.id).await;
    let status = container.checkpoint(0).await.expect_err("the injected disk error");
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    for part in ["write ", &*container.dir.path().to_string_lossy(), "Input/output error"] {
        assert!(status.message().contains(part), "{part} is not in {status:?}");
    }
    assert_eq!(container.files(), [""; 0]);
    assert!(!thread_states(pid).contains(['t', 'T']), "{}", thread_states(pid));
    container.assert_keeps_ticking().await;
    assert_eq!(cri.pid(&container.id).await, pid, "the process is the same");
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a process");
    assert_eq!(children, "", "no snapshot remains");
    cri.process
        .control()
        .clear_faults(&[])
        .await
        .expect("the call succeeds");
    container.checkpoint(0).await.expect("the next checkpoint succeeds");
    assert!(members(&container.archive()).contains(&"dump.log".to_owned()));
    assert_eq!(container.files(), ["a.tar"]);
}

#[rstest]
#[case("freeze")]
#[case("capture")]
#[case("write")]
#[case("finish")]
#[tokio::test]
async fn a_hang_in_a_phase_ends_with_the_timeout(#[case] phase: &str) {
    let cri = Cri::start_with(builder().fault(format!("CheckpointContainer:{phase}=hang"))).await;
    let container = TestContainer::new(&cri).await;
    let start = Instant::now();
    let status = container.checkpoint(1).await.expect_err("a hang");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(start.elapsed() >= Duration::from_secs(1) && start.elapsed() < Duration::from_secs(10));
    assert_eq!(container.files(), [""; 0]);
    container.assert_keeps_ticking().await;
}

#[tokio::test]
async fn archive_faults_change_the_archive() {
    let cri = Cri::start().await;
    let container = TestContainer::new(&cri).await;
    let control = cri.process.control();
    container.checkpoint(0).await.expect("no rule fires yet");
    let all_members = members(&container.archive());
    let size = fs::metadata(container.archive()).expect("the archive exists").len();
    let mode = |path: PathBuf| fs::metadata(path).expect("the archive exists").permissions().mode() & 0o7777;
    assert_eq!(mode(container.archive()), 0o600);

    let with = async |rules: &str| {
        let _ = fs::remove_file(container.archive());
        let ids = control.add_faults([rules]).await.expect("rules");
        let answer = container.checkpoint(0).await;
        control.clear_faults(&ids).await.expect("the call succeeds");
        answer
    };
    with("preset:world-readable-archive")
        .await
        .expect("the checkpoint succeeds");
    assert_eq!(mode(container.archive()), 0o644);
    assert_eq!(members(&container.archive()), all_members);

    for (preset, missing) in [
        ("missing-inventory", "checkpoint/inventory.img"),
        ("missing-pstree", "checkpoint/pstree.img"),
        ("missing-pages", "checkpoint/pages-1.img"),
    ] {
        with(&format!("preset:{preset}"))
            .await
            .expect("the checkpoint succeeds");
        let left = members(&container.archive());
        let expected: Vec<_> = all_members
            .iter()
            .filter(|member| *member != missing)
            .cloned()
            .collect();
        assert_eq!(left, expected, "{preset}");
        assert!(left.len() < all_members.len(), "{preset}: {all_members:?}");
    }

    with("preset:empty-archive").await.expect("the checkpoint succeeds");
    assert_eq!(fs::metadata(container.archive()).expect("the archive exists").len(), 0);
    with("preset:no-archive").await.expect("the checkpoint succeeds");
    assert_eq!(container.files(), [""; 0]);

    with("preset:truncated-archive").await.expect("the checkpoint succeeds");
    let cut = fs::metadata(container.archive()).expect("the archive exists").len();
    assert!(cut > size / 4 && cut < size * 3 / 4, "{cut} of {size}");
    with("preset:partial-archive").await.expect_err("a failure");
    let cut = fs::metadata(container.archive()).expect("the archive exists").len();
    assert!(cut > size / 4 && cut < size * 3 / 4, "{cut} of {size}");

    with("preset:corrupt-archive").await.expect("the checkpoint succeeds");
    let mut archive = tar::Archive::new(fs::File::open(container.archive()).expect("the archive exists"));
    assert!(
        archive.entries().expect("a readable tar").any(|entry| entry.is_err()),
        "a member is damaged"
    );
    container.assert_keeps_ticking().await;
}

#[tokio::test]
async fn a_container_can_be_left_frozen_or_killed() {
    let cri = Cri::start().await;
    let container = TestContainer::new(&cri).await;
    let control = cri.process.control();
    let pid = cri.pid(&container.id).await;

    let ids = control.add_faults(["preset:left-frozen"]).await.expect("a preset");
    container.checkpoint(0).await.expect("the checkpoint succeeds");
    // A running thread stops when it next returns to user mode after SIGSTOP.
    let all_stopped = async {
        while thread_states(pid).chars().any(|state| !matches!(state, 'T' | 't')) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT_TIMEOUT, all_stopped)
        .await
        .expect("every thread stops");
    let status = cri.status(&container.id).await.expect("the container exists");
    assert_eq!(
        status.state(),
        v1::ContainerState::ContainerRunning,
        "as with the real ones"
    );
    control.clear_faults(&ids).await.expect("the call succeeds");
    cri.stop(&container.id, 0)
        .await
        .expect("a frozen container can be stopped");

    let id = container.pod.run(container_config("next")).await;
    control.add_faults(["preset:container-killed"]).await.expect("a preset");
    let container = TestContainer { id, ..container };
    container.checkpoint(0).await.expect("the checkpoint succeeds");
    assert_eq!(cri.wait_exited(&container.id).await.exit_code, 137);
    assert!(!members(&container.archive()).is_empty());
}

#[tokio::test]
async fn delays_before_finish_keep_the_container_frozen() {
    let cri = Cri::start().await;
    let container = TestContainer::new(&cri).await;
    let control = cri.process.control();
    let pid = cri.pid(&container.id).await;
    for (phase, still) in [("capture", true), ("write", true), ("finish", false)] {
        let ids = control
            .add_faults([format!("CheckpointContainer:{phase}=delay(400ms)")])
            .await
            .expect("a valid rule");
        let observed_states = async {
            let mut observed_states = String::new();
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(15)).await;
                observed_states += &thread_states(pid);
            }
            observed_states
        };
        let start = Instant::now();
        let (answer, observed_states) = tokio::join!(container.checkpoint(0), observed_states);
        answer.expect("the checkpoint succeeds");
        assert!(start.elapsed() >= Duration::from_millis(400), "{phase}");
        // 20 samples, most of them during the delay.
        let traced = observed_states.chars().filter(|state| *state == 't').count();
        assert_eq!(traced > 10, still, "{phase}: {observed_states}");
        control.clear_faults(&ids).await.expect("the call succeeds");
    }
}
