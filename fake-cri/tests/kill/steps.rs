//! SIGKILL at every kind of step of a checkpoint, to fake-cri and to the shim. The test traces the shim, which is
//! stopped at one of its system calls when the signal is sent. So the kills hit every stage on any machine: the freeze,
//! the collection, the snapshots (between the steps of each remote syscall), the thaw, the reading of the snapshots,
//! their removal, and the end.
//!
//! The container checks itself (`fixtures/programs/self_check.c`): registers, mappings, descriptors, blocked signals,
//! children. It logs `ok N` as long as nothing has changed.

mod stage;
mod tracer;

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use cri_proto::runtime::v1;
use stage::Stage;
use tonic::{Request, Status};
use tracer::{KillTarget, Tracer};

use crate::{
    cri::{Cri, Pod, WAIT_TIMEOUT, builder, container_config},
    processes::{PidAndStart, parent, process_tree, start_time, stopped_or_traced},
    program_sources,
};

/// The number of kills of fake-cri, and of the shim: `KILL_INSTANTS`, which is 200 in CI.
fn instants(default: usize) -> usize {
    match std::env::var("KILL_INSTANTS") {
        Ok(count) => count.parse().expect("a number"),
        Err(_) => default,
    }
}

/// The program that checks itself, as a container of the host.
struct SelfChecker {
    dir: tempfile::TempDir,
    command: Vec<String>,
}

impl SelfChecker {
    fn build() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let command = program_sources::program_command("self_check.c", &[], dir.path());
        let command = command.iter().map(PathBuf::as_path).chain([dir.path()]);
        let command = command.map(|part| part.to_string_lossy().into_owned()).collect();
        Self { dir, command }
    }

    async fn run(&self, pod: &Pod<'_>, name: &str) -> String {
        let config = v1::ContainerConfig {
            command: self.command.clone(),
            ..container_config(name)
        };
        let id = pod.run(config).await;
        pod.wait_logged(name, " ok 1").await;
        id
    }

    fn location(&self) -> PathBuf {
        self.dir.path().join("archives/a.tar")
    }
}

async fn checkpoint(cri: &Cri, id: &str, location: &Path) -> Result<(), Status> {
    let request = v1::CheckpointContainerRequest {
        container_id: id.to_owned(),
        location: location.to_string_lossy().into_owned(),
        timeout: 0,
    };
    let mut client = cri.runtime();
    client.checkpoint_container(Request::new(request)).await.map(drop)
}

async fn wait_until_none<T: std::fmt::Debug>(what: &str, mut wrong: impl FnMut() -> Option<T>) {
    let end = tokio::time::Instant::now() + WAIT_TIMEOUT;
    while let Some(wrong) = wrong() {
        assert!(tokio::time::Instant::now() < end, "in vain: {what}: {wrong:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The number of successful self-checks of a container. Panics if a check failed.
fn ok_count(log: &Path) -> usize {
    let log = fs::read_to_string(log).expect("the log");
    let lines = || log.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
    let mismatch = lines().find(|line| !line.starts_with("ok "));
    assert_eq!(mismatch, None, "the container has detected a change");
    lines().count()
}

/// Asserts that the archive can be read to its end.
fn assert_complete(archive: &Path) {
    let mut archive = tar::Archive::new(fs::File::open(archive).expect("the archive exists"));
    let mut last = String::new();
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("a complete member");
        last = entry.path().expect("a name").to_string_lossy().into_owned();
        let read = entry.read_to_end(&mut Vec::new()).expect("a readable member");
        assert_eq!(read as u64, entry.size());
    }
    assert_eq!(last, "dump.log");
}

fn files(location: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(location.parent().expect("a directory")).expect("the directory is readable");
    files.map(|file| file.expect("an entry").path()).collect()
}

/// A fake-cri with a long freeze timeout: the test stops the shim at each system call, so a freeze takes seconds on a
/// busy machine.
async fn cri() -> Cri {
    Cri::start_with(builder().exec_host().args(["--freeze-timeout", "60s"])).await
}

/// Checkpoints while the shim is traced, and kills at this step of this stage. Returns whether that step was reached,
/// and the number of steps in each stage so far.
async fn checkpoint_traced(
    cri: &Cri,
    id: &str,
    location: &Path,
    shim: i32,
    at: Option<(Stage, usize, KillTarget)>,
) -> (Result<(), Status>, bool, BTreeMap<Stage, usize>) {
    let tracer = Tracer::start(shim, at);
    let answer = checkpoint(cri, id, location).await;
    let result = tracer.end();
    (answer, result.killed, result.steps)
}

/// The steps at which to kill: some of each stage, spread over the stage, most of them while a process has foreign
/// registers.
fn plan_kills(steps: &BTreeMap<Stage, usize>, instants: usize) -> Vec<(Stage, usize)> {
    let weights: usize = Stage::ALL.iter().map(|stage| stage.weight()).sum();
    let mut plan = Vec::new();
    for stage in Stage::ALL {
        let count = *steps
            .get(&stage)
            .unwrap_or_else(|| panic!("no step in {stage:?}: {steps:?}"));
        let kills = (instants * stage.weight()).div_ceil(weights);
        plan.extend((0..kills).map(|kill| (stage, kill * count / kills)));
    }
    plan
}

#[tokio::test]
async fn killing_fake_cri_at_any_step_keeps_the_container_intact() {
    let program = SelfChecker::build();
    let location = program.location();
    fs::create_dir(location.parent().expect("a directory")).expect("a directory");
    let mut cri = cri().await;
    let (id, log, _logs) = {
        let pod = cri.pod("web").await;
        let id = program.run(&pod, "app").await;
        (id, pod.logs.path().join("app/0.log"), pod.logs)
    };
    let first = cri.pid(&id).await;
    let shim = parent(first).expect("a parent process");
    let before = process_tree(first);
    assert_eq!(before.len(), 2, "the process has a child: {before:?}");

    let (answer, _, steps) = checkpoint_traced(&cri, &id, &location, shim, None).await;
    answer.expect("no process was killed");
    fs::remove_file(&location).expect("the archive exists");
    let mut kills = BTreeMap::<Stage, usize>::new();
    for (stage, step) in plan_kills(&steps, instants(14)) {
        // The number of steps varies between checkpoints.
        let mut step = step;
        loop {
            let fake_cri = cri.process.pid().expect("the process is running").cast_signed();
            let (answer, killed, _) = checkpoint_traced(
                &cri,
                &id,
                &location,
                shim,
                Some((stage, step, KillTarget::Client(fake_cri))),
            )
            .await;
            if killed {
                answer.expect_err("fake-cri was killed");
                break;
            }
            answer.expect("no process was killed");
            assert!(step > 0, "no step in {stage:?}");
            step /= 2;
        }
        *kills.entry(stage).or_default() += 1;
        cri.process.wait_exit().await.expect("fake-cri was running");

        let extra_processes = || Some(process_tree(first)).filter(|now| *now != before);
        wait_until_none("no new process", extra_processes).await;
        let stopped = || {
            before
                .iter()
                .map(|(pid, _)| stopped_or_traced(*pid))
                .find(|held| !held.is_empty())
        };
        wait_until_none("no process is stopped or traced", stopped).await;
        let ok_before = ok_count(&log);
        wait_until_none("the self-check succeeds", || {
            (ok_count(&log) < ok_before + 2).then_some(ok_before)
        })
        .await;
        cri.process.restart().await.expect("fake-cri restarts");
        assert!(
            files(&location).iter().all(|file| *file == location),
            "{:?}",
            files(&location)
        );
        if location.exists() {
            // The archive was about to appear.
            assert_eq!(stage, Stage::Finish);
            assert_complete(&location);
            fs::remove_file(&location).expect("the file can be removed");
        }
    }
    eprintln!("fake-cri was killed in {kills:?}, of {steps:?} steps");
    assert!(Stage::ALL.iter().all(|stage| kills[stage] > 0), "{kills:?}");
    checkpoint(&cri, &id, &location).await.expect("the last container runs");
    assert_complete(&location);
    assert_eq!((cri.pid(&id).await, start_time(first)), (first, Some(before[0].1)));
    let ok_before = ok_count(&log);
    wait_until_none("the self-check succeeds", || {
        (ok_count(&log) < ok_before + 2).then_some(ok_before)
    })
    .await;
}

#[tokio::test]
async fn killing_the_shim_at_any_step_leaves_no_process() {
    let program = SelfChecker::build();
    let location = program.location();
    fs::create_dir(location.parent().expect("a directory")).expect("a directory");
    let cri = cri().await;
    let pod = cri.pod("web").await;
    let id = program.run(&pod, "first").await;
    let shim = parent(cri.pid(&id).await).expect("a parent process");
    let (answer, _, steps) = checkpoint_traced(&cri, &id, &location, shim, None).await;
    answer.expect("no process was killed");
    fs::remove_file(&location).expect("the archive exists");
    cri.stop(&id, 0).await.expect("the container stops");

    let mut kills = BTreeMap::<Stage, usize>::new();
    for (round, (stage, step)) in plan_kills(&steps, instants(14)).into_iter().enumerate() {
        let name = format!("app-{round}");
        let id = program.run(&pod, &name).await;
        let shim = parent(cri.pid(&id).await).expect("a parent process");
        let before = process_tree(shim);
        assert_eq!(before.len(), 3, "expected a shim, a process and a child: {before:?}");
        let mut step = step;
        let copies = loop {
            let tracer = Tracer::start(shim, Some((stage, step, KillTarget::Shim)));
            let answer = checkpoint(&cri, &id, &location).await;
            let result = tracer.end();
            if result.killed {
                answer.expect_err("the shim was killed");
                break result.tree;
            }
            answer.expect("no process was killed");
            fs::remove_file(&location).expect("the archive exists");
            assert!(step > 0, "no step in {stage:?}");
            step /= 2;
        };
        *kills.entry(stage).or_default() += 1;
        cri.wait_exited(&id).await;
        ok_count(&pod.logs.path().join(&name).join("0.log"));
        let all: Vec<PidAndStart> = before.into_iter().chain(copies).collect();
        let is_alive = |(pid, start): &&PidAndStart| start_time(*pid) == Some(*start);
        wait_until_none("all processes have exited and are reaped", || {
            all.iter().find(is_alive).copied()
        })
        .await;
        cri.remove(&id).await.expect("the container can be removed");
        wait_until_none("no file remains", || files(&location).first().cloned()).await;
    }
    eprintln!("the shim was killed in {kills:?}, of {steps:?} steps");
    assert!(Stage::ALL.iter().all(|stage| kills[stage] > 0), "{kills:?}");
    let id = program.run(&pod, "last").await;
    checkpoint(&cri, &id, &location).await.expect("the next container runs");
    assert_complete(&location);
}
