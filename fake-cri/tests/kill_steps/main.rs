//! SIGKILL at every kind of step of a checkpoint, to fake-cri and to the shim: the shim is traced by the test, and stands at one
//! of its own system calls when the signal is sent. So the kills fall where they should, on any machine: into the freeze, the
//! reading of what stands, the copying (between the steps of each call that a process is made to make), the thaw, the reading of
//! the copy, its removal, and the end.
//!
//! The container watches over itself (`fixtures/programs/steadfast.c`): registers, mappings, descriptors, blocked signals,
//! children. It says so as long as all is as it was.
#![cfg(target_arch = "x86_64")]

#[path = "../corpus/mod.rs"]
#[expect(dead_code, reason = "its programs end, this one does not")]
mod corpus;
#[path = "../cri/mod.rs"]
mod cri;
#[path = "../family/mod.rs"]
mod family;
mod stage;
mod tracer;

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use cri::{Cri, PATIENCE, Pod, builder, container_config};
use cri_proto::runtime::v1;
use family::{PidAndStart, parent, process_tree, start_time, stopped_or_traced};
use stage::Stage;
use tonic::{Request, Status};
use tracer::{KillTarget, Tracer};

/// At how many instants fake-cri is killed, and the shim: as many as `KILL_INSTANTS` says, which is 200 in CI.
fn instants(default: usize) -> usize {
    match std::env::var("KILL_INSTANTS") {
        Ok(count) => count.parse().expect("a number"),
        Err(_) => default,
    }
}

/// The program that watches over itself, as a container of the host.
struct SelfChecker {
    folder: tempfile::TempDir,
    command: Vec<String>,
}

impl SelfChecker {
    fn build() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let command = corpus::program_command("steadfast.c", &[], folder.path());
        let command = command.iter().map(PathBuf::as_path).chain([folder.path()]);
        let command = command.map(|part| part.to_string_lossy().into_owned()).collect();
        Self { folder, command }
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
        self.folder.path().join("archives/a.tar")
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
    let end = tokio::time::Instant::now() + PATIENCE;
    while let Some(wrong) = wrong() {
        assert!(tokio::time::Instant::now() < end, "in vain: {what}: {wrong:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// How often a container has found all as it was; panics when it has found anything else.
fn ok_count(log: &Path) -> usize {
    let log = fs::read_to_string(log).expect("the log");
    let lines = || log.lines().filter_map(|line| line.splitn(4, ' ').nth(3));
    let mismatch = lines().find(|line| !line.starts_with("ok "));
    assert_eq!(mismatch, None, "the container has found something else than it was");
    lines().count()
}

/// Panics unless the archive can be read to its end.
fn assert_complete(archive: &Path) {
    let mut archive = tar::Archive::new(fs::File::open(archive).expect("an archive"));
    let mut last = String::new();
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("a whole member");
        last = entry.path().expect("a name").to_string_lossy().into_owned();
        let read = entry.read_to_end(&mut Vec::new()).expect("its bytes");
        assert_eq!(read as u64, entry.size());
    }
    assert_eq!(last, "dump.log");
}

fn files(location: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(location.parent().expect("a folder")).expect("the folder");
    files.map(|file| file.expect("a file").path()).collect()
}

/// A fake-cri with time for a freeze: where each system call of the shim is waited for by the test, a busy machine takes seconds.
async fn cri() -> Cri {
    Cri::start_with(builder().exec_host().args(["--freeze-timeout", "60s"])).await
}

/// Checkpoints while the shim is traced, and kills at this step of this stage; whether it came to that, and how many steps each
/// stage had until then.
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

/// The steps at which to kill: of each stage some, spread over it, and most where a process stands with foreign registers.
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
    fs::create_dir(location.parent().expect("a folder")).expect("a folder");
    let mut cri = cri().await;
    let (id, log, _logs) = {
        let pod = cri.pod("web").await;
        let id = program.run(&pod, "app").await;
        (id, pod.logs.path().join("app/0.log"), pod.logs)
    };
    let first = cri.pid(&id).await;
    let shim = parent(first).expect("its parent");
    let before = process_tree(first);
    assert_eq!(before.len(), 2, "it has a child: {before:?}");

    let (answer, _, steps) = checkpoint_traced(&cri, &id, &location, shim, None).await;
    answer.expect("nothing is killed yet");
    fs::remove_file(&location).expect("an archive");
    let mut kills = BTreeMap::<Stage, usize>::new();
    for (stage, step) in plan_kills(&steps, instants(14)) {
        // Not every checkpoint makes as many steps.
        let mut step = step;
        loop {
            let fake_cri = cri.process.pid().expect("it runs").cast_signed();
            let (answer, killed, _) = checkpoint_traced(
                &cri,
                &id,
                &location,
                shim,
                Some((stage, step, KillTarget::Client(fake_cri))),
            )
            .await;
            if killed {
                answer.expect_err("nobody is left to answer");
                break;
            }
            answer.expect("nothing was killed");
            assert!(step > 0, "no step in {stage:?}");
            step /= 2;
        }
        *kills.entry(stage).or_default() += 1;
        cri.process.wait_exit().await.expect("it was running");

        let extra_processes = || Some(process_tree(first)).filter(|now| *now != before);
        wait_until_none("only what was there before", extra_processes).await;
        let stopped = || {
            before
                .iter()
                .map(|(pid, _)| stopped_or_traced(*pid))
                .find(|held| !held.is_empty())
        };
        wait_until_none("nothing is stopped or traced", stopped).await;
        let ok_before = ok_count(&log);
        wait_until_none("it finds all as it was", || {
            (ok_count(&log) < ok_before + 2).then_some(ok_before)
        })
        .await;
        cri.process.restart().await.expect("it starts again");
        assert!(
            files(&location).iter().all(|file| *file == location),
            "{:?}",
            files(&location)
        );
        if location.exists() {
            // It was about to appear.
            assert_eq!(stage, Stage::Finish);
            assert_complete(&location);
            fs::remove_file(&location).expect("it can be removed");
        }
    }
    eprintln!("fake-cri was killed in {kills:?}, of {steps:?} steps");
    assert!(Stage::ALL.iter().all(|stage| kills[stage] > 0), "{kills:?}");
    checkpoint(&cri, &id, &location).await.expect("the last one is well");
    assert_complete(&location);
    assert_eq!((cri.pid(&id).await, start_time(first)), (first, Some(before[0].1)));
    let ok_before = ok_count(&log);
    wait_until_none("it finds all as it was", || {
        (ok_count(&log) < ok_before + 2).then_some(ok_before)
    })
    .await;
}

#[tokio::test]
async fn killing_the_shim_at_any_step_leaves_no_process() {
    let program = SelfChecker::build();
    let location = program.location();
    fs::create_dir(location.parent().expect("a folder")).expect("a folder");
    let cri = cri().await;
    let pod = cri.pod("web").await;
    let id = program.run(&pod, "first").await;
    let shim = parent(cri.pid(&id).await).expect("its parent");
    let (answer, _, steps) = checkpoint_traced(&cri, &id, &location, shim, None).await;
    answer.expect("nothing is killed yet");
    fs::remove_file(&location).expect("an archive");
    cri.stop(&id, 0).await.expect("it ends");

    let mut kills = BTreeMap::<Stage, usize>::new();
    for (round, (stage, step)) in plan_kills(&steps, instants(14)).into_iter().enumerate() {
        let name = format!("app-{round}");
        let id = program.run(&pod, &name).await;
        let shim = parent(cri.pid(&id).await).expect("its parent");
        let before = process_tree(shim);
        assert_eq!(before.len(), 3, "a shim, a process, its child: {before:?}");
        let mut step = step;
        let copies = loop {
            let tracer = Tracer::start(shim, Some((stage, step, KillTarget::Shim)));
            let answer = checkpoint(&cri, &id, &location).await;
            let result = tracer.end();
            if result.killed {
                answer.expect_err("its shim is dead");
                break result.tree;
            }
            answer.expect("nothing was killed");
            fs::remove_file(&location).expect("an archive");
            assert!(step > 0, "no step in {stage:?}");
            step /= 2;
        };
        *kills.entry(stage).or_default() += 1;
        cri.wait_exited(&id).await;
        ok_count(&pod.logs.path().join(&name).join("0.log"));
        let all: Vec<PidAndStart> = before.into_iter().chain(copies).collect();
        let is_alive = |(pid, start): &&PidAndStart| start_time(*pid) == Some(*start);
        wait_until_none("every process is gone and reaped", || {
            all.iter().find(is_alive).copied()
        })
        .await;
        cri.remove(&id).await.expect("what is left of it can be removed");
        wait_until_none("no file is left", || files(&location).first().cloned()).await;
    }
    eprintln!("the shim was killed in {kills:?}, of {steps:?} steps");
    assert!(Stage::ALL.iter().all(|stage| kills[stage] > 0), "{kills:?}");
    let id = program.run(&pod, "last").await;
    checkpoint(&cri, &id, &location)
        .await
        .expect("the next container is well");
    assert_complete(&location);
}
