//! What the faults of a checkpoint do to the call, the archive and the container of a real fake-cri.

mod cri;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use cri::{Cri, Pod, builder, container_config};
use cri_proto::runtime::v1;
use rstest::rstest;
use tonic::{Code, Request, Status};

/// One container, and a folder for its archives.
struct Bench<'a> {
    cri: &'a Cri,
    pod: Pod<'a>,
    id: String,
    folder: tempfile::TempDir,
}

impl<'a> Bench<'a> {
    async fn new(cri: &'a Cri) -> Bench<'a> {
        let pod = cri.pod("web").await;
        let id = pod.run(container_config("app")).await;
        pod.logged("app", "tick 1 ").await;
        Bench {
            cri,
            pod,
            id,
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    fn archive(&self) -> PathBuf {
        self.folder.path().join("a.tar")
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

    /// The archive and nothing else is in its folder.
    fn files(&self) -> Vec<String> {
        let files = fs::read_dir(self.folder.path()).expect("the folder");
        files
            .map(|file| file.expect("a file").file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// Waits for a tick that was not there before.
    async fn ticks_on(&self) {
        let log = fs::read_to_string(self.pod.logs.path().join("app/0.log")).expect("the log");
        let ticks = log.lines().filter(|line| line.contains(" tick ")).count();
        self.pod.logged("app", &format!("tick {} ", ticks + 1)).await;
    }
}

fn members(archive: &Path) -> Vec<String> {
    let mut archive = tar::Archive::new(fs::File::open(archive).expect("an archive"));
    let entries = archive.entries().expect("a tar");
    let name = |entry: tar::Entry<'_, fs::File>| entry.path().expect("a name").to_string_lossy().into_owned();
    entries.map(|entry| name(entry.expect("a whole member"))).collect()
}

/// The state letters of a process's threads, without doubles.
fn states(pid: i32) -> String {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let mut states: Vec<char> = tasks
        .map(|task| {
            let stat = fs::read_to_string(task.expect("a thread").path().join("stat")).expect("its state");
            let (_, rest) = stat.rsplit_once(") ").expect("the name ends");
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
async fn a_failed_checkpoint_leaves_nothing_and_the_container_runs_on(#[case] rules: &str, #[case] code: Code) {
    let cri = Cri::with(builder().fault(rules)).await;
    let bench = Bench::new(&cri).await;
    let status = bench.checkpoint(0).await.expect_err("a fault");
    assert_eq!(status.code(), code, "{status:?}");
    if rules.contains("on fire") {
        assert_eq!(status.message(), "disk on fire");
    }
    assert_eq!(bench.files(), [""; 0]);
    bench.ticks_on().await;
    cri.process.control().clear_faults(&[]).await.expect("an answer");
    bench.checkpoint(0).await.expect("the next one succeeds");
    assert!(members(&bench.archive()).contains(&"checkpoint/inventory.img".to_owned()));
}

/// At once, before the pages and among them.
#[rstest]
#[case("CheckpointContainer:write=io-error")]
#[case("preset:disk-broken")]
#[case("CheckpointContainer:write=io-error(1MiB)")]
#[tokio::test]
async fn a_disk_that_breaks_is_told_leaves_nothing_and_the_next_archive_is_whole(#[case] rules: &str) {
    let cri = Cri::with(builder().fault(rules)).await;
    let bench = Bench::new(&cri).await;
    let pid = cri.pid(&bench.id).await;
    let status = bench.checkpoint(0).await.expect_err("the disk is broken");
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    for part in ["write ", &*bench.folder.path().to_string_lossy(), "Input/output error"] {
        assert!(status.message().contains(part), "{part} is not in {status:?}");
    }
    assert_eq!(bench.files(), [""; 0]);
    assert!(!states(pid).contains(['t', 'T']), "{}", states(pid));
    bench.ticks_on().await;
    assert_eq!(cri.pid(&bench.id).await, pid, "it is the same process");
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a process");
    assert_eq!(children, "", "no copy is left");
    cri.process.control().clear_faults(&[]).await.expect("an answer");
    bench.checkpoint(0).await.expect("the next one succeeds");
    assert!(members(&bench.archive()).contains(&"dump.log".to_owned()));
    assert_eq!(bench.files(), ["a.tar"]);
}

#[rstest]
#[case("freeze")]
#[case("capture")]
#[case("write")]
#[case("finish")]
#[tokio::test]
async fn a_hang_in_a_phase_ends_with_the_timeout(#[case] phase: &str) {
    let cri = Cri::with(builder().fault(format!("CheckpointContainer:{phase}=hang"))).await;
    let bench = Bench::new(&cri).await;
    let start = Instant::now();
    let status = bench.checkpoint(1).await.expect_err("a hang");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(start.elapsed() >= Duration::from_secs(1) && start.elapsed() < Duration::from_secs(10));
    assert_eq!(bench.files(), [""; 0]);
    bench.ticks_on().await;
}

#[tokio::test]
async fn archives_come_out_as_they_were_asked() {
    let cri = Cri::start().await;
    let bench = Bench::new(&cri).await;
    let control = cri.process.control();
    bench.checkpoint(0).await.expect("no fault yet");
    let whole = members(&bench.archive());
    let size = fs::metadata(bench.archive()).expect("an archive").len();
    let mode = |path: PathBuf| fs::metadata(path).expect("an archive").permissions().mode() & 0o7777;
    assert_eq!(mode(bench.archive()), 0o600);

    let with = async |rules: &str| {
        let _ = fs::remove_file(bench.archive());
        let ids = control.add_faults([rules]).await.expect("rules");
        let answer = bench.checkpoint(0).await;
        control.clear_faults(&ids).await.expect("an answer");
        answer
    };
    with("preset:world-readable-archive").await.expect("a success");
    assert_eq!(mode(bench.archive()), 0o644);
    assert_eq!(members(&bench.archive()), whole);

    for (preset, missing) in [
        ("missing-inventory", "checkpoint/inventory.img"),
        ("missing-pstree", "checkpoint/pstree.img"),
        ("missing-pages", "checkpoint/pages-1.img"),
    ] {
        with(&format!("preset:{preset}")).await.expect("a success");
        let left = members(&bench.archive());
        let expected: Vec<_> = whole.iter().filter(|member| *member != missing).cloned().collect();
        assert_eq!(left, expected, "{preset}");
        assert!(left.len() < whole.len(), "{preset}: {whole:?}");
    }

    with("preset:empty-archive").await.expect("a success");
    assert_eq!(fs::metadata(bench.archive()).expect("an archive").len(), 0);
    with("preset:no-archive").await.expect("a success");
    assert_eq!(bench.files(), [""; 0]);

    with("preset:truncated-archive").await.expect("a success");
    let cut = fs::metadata(bench.archive()).expect("an archive").len();
    assert!(cut > size / 4 && cut < size * 3 / 4, "{cut} of {size}");
    with("preset:partial-archive").await.expect_err("a failure");
    let cut = fs::metadata(bench.archive()).expect("an archive").len();
    assert!(cut > size / 4 && cut < size * 3 / 4, "{cut} of {size}");

    with("preset:corrupt-archive").await.expect("a success");
    let mut archive = tar::Archive::new(fs::File::open(bench.archive()).expect("an archive"));
    assert!(
        archive.entries().expect("a file").any(|entry| entry.is_err()),
        "a member is damaged"
    );
    bench.ticks_on().await;
}

#[tokio::test]
async fn a_container_can_be_left_frozen_or_killed() {
    let cri = Cri::start().await;
    let bench = Bench::new(&cri).await;
    let control = cri.process.control();
    let pid = cri.pid(&bench.id).await;

    let ids = control.add_faults(["preset:left-frozen"]).await.expect("a preset");
    bench.checkpoint(0).await.expect("a success");
    let stopped = states(pid);
    assert!(stopped.chars().all(|state| matches!(state, 'T' | 't')), "{stopped}");
    let status = cri.status(&bench.id).await.expect("the container is there");
    assert_eq!(
        status.state(),
        v1::ContainerState::ContainerRunning,
        "as with the real ones"
    );
    control.clear_faults(&ids).await.expect("an answer");
    cri.stop(&bench.id, 0).await.expect("a frozen container can be stopped");

    let id = bench.pod.run(container_config("next")).await;
    control.add_faults(["preset:container-killed"]).await.expect("a preset");
    let bench = Bench { id, ..bench };
    bench.checkpoint(0).await.expect("a success");
    assert_eq!(cri.ended(&bench.id).await.exit_code, 137);
    assert!(!members(&bench.archive()).is_empty());
}

#[tokio::test]
async fn a_delay_in_capture_keeps_the_container_still_and_one_in_finish_does_not() {
    let cri = Cri::start().await;
    let bench = Bench::new(&cri).await;
    let control = cri.process.control();
    let pid = cri.pid(&bench.id).await;
    for (phase, still) in [("capture", true), ("write", true), ("finish", false)] {
        let ids = control
            .add_faults([format!("CheckpointContainer:{phase}=delay(400ms)")])
            .await
            .expect("a rule");
        let seen = async {
            let mut seen = String::new();
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(15)).await;
                seen += &states(pid);
            }
            seen
        };
        let start = Instant::now();
        let (answer, seen) = tokio::join!(bench.checkpoint(0), seen);
        answer.expect("a success");
        assert!(start.elapsed() >= Duration::from_millis(400), "{phase}");
        // 20 looks, of which most are within the delay.
        let traced = seen.chars().filter(|state| *state == 't').count();
        assert_eq!(traced > 10, still, "{phase}: {seen}");
        control.clear_faults(&ids).await.expect("an answer");
    }
}
