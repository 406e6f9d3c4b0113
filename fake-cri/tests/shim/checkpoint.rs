//! Checkpoints through the shim: neither the container nor the shim is harmed.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, pin::pin, time::Duration};

use fake_cri::{
    checkpoint::{Delay, DelayMemory, DelayPhase, ErrorKind, Freeze, Job, Phase},
    fault::{CheckpointFaults, Effect, Injection},
    process::{Pid, ProcessId, pidfd, pstree},
    shim::Shim,
    workload::WorkloadOptions,
};
use rstest::rstest;
use tokio::sync::Notify;

use crate::{
    footprint::private_memory_bytes,
    harness::{EXECUTABLE, ShimHarness, kill_shim_and_orphans, lock_orphan_tests, wait_for},
};

fn job(harness: &ShimHarness, init: ProcessId) -> Job {
    fs::create_dir_all(harness.path("out")).expect("the directory can be created");
    Job {
        container_id: harness.id().to_owned(),
        init,
        location: archive_path(harness),
        temporary: harness.path("out/.app.tar.part"),
        documents: Vec::new(),
        layout: fake_cri::checkpoint::Layout::default(),
        log: Some(harness.log_path()),
        freeze: Freeze::Snapshot,
        freeze_timeout: Duration::from_secs(10),
        deadline: None,
        fsync: false,
        strict: false,
        delay: None,
    }
}

fn archive_path(harness: &ShimHarness) -> PathBuf {
    harness.path("out/app.tar")
}

/// A delay during which a test can act.
fn long_delay(within: DelayPhase) -> Option<Delay> {
    let memory = DelayMemory::Rss;
    Some(Delay {
        base: Duration::from_secs(600),
        rate: None,
        jitter_factor: 1.0,
        memory,
        phase: within,
    })
}

fn output_files(harness: &ShimHarness) -> Vec<String> {
    let entries = fs::read_dir(harness.path("out")).expect("the path exists");
    entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect()
}

/// Asserts that the container is neither stopped nor traced, and that its counter moves.
async fn assert_keeps_running(harness: &ShimHarness, init: ProcessId) {
    for process in harness.processes() {
        let stat = pstree::ProcStat::read(process.pid).expect("the process is alive");
        assert!(
            !matches!(stat.state, 'T' | 't') && pstree::tracer_tid(process.pid.main_thread()).is_none(),
            "{stat:?}"
        );
    }
    assert!(init.is_alive());
    let heartbeats = harness
        .log_lines("stdout")
        .iter()
        .filter(|line| line.starts_with("heartbeat "))
        .count();
    harness
        .wait_line(&format!(
            "heartbeat {} pid={} start={}",
            heartbeats + 3,
            init.pid,
            init.start_time
        ))
        .await;
}

fn busy_workload() -> WorkloadOptions {
    WorkloadOptions {
        memory: Some(8 << 20),
        threads: Some(3),
        children: Some(1),
        heartbeat_interval: Some(Duration::from_millis(10)),
        ..WorkloadOptions::default()
    }
}

async fn start_workload(harness: &ShimHarness) -> (Shim, ProcessId) {
    let (shim, init) = harness.run(&harness.workload_spec(busy_workload())).await;
    harness.wait_line("heartbeat 1 ").await;
    harness.wait_line("child heartbeat 1 ").await;
    (shim, init)
}

#[tokio::test]
async fn the_container_keeps_running_and_the_shim_stays_small() {
    let harness = ShimHarness::new();
    let (shim, init) = start_workload(&harness).await;
    for _ in 0..3 {
        let mut phases = Vec::new();
        let report = shim
            .checkpoint(job(&harness, init), CheckpointFaults::default(), |phase| {
                phases.push(phase)
            })
            .await
            .expect("the checkpoint succeeds");
        assert_eq!((report.processes, report.threads), (2, 6));
        assert_eq!(phases, [Phase::Freeze, Phase::Capture, Phase::Write, Phase::Finish]);
        assert_eq!(output_files(&harness), ["app.tar"]);
        assert_eq!(
            fs::metadata(archive_path(&harness))
                .expect("the path exists")
                .permissions()
                .mode()
                & 0o7777,
            0o600
        );
        assert_keeps_running(&harness, init).await;
    }
    let bytes = private_memory_bytes(shim.process().pid.as_raw());
    println!("a shim's own memory after checkpoints: {} KiB", bytes >> 10);
    assert!(bytes < 3 << 20, "{bytes}");
    shim.signal(libc::SIGTERM).await.expect("the shim responds");
    assert_eq!(shim.wait_exit().await.code, 0);
}

#[rstest]
#[case(Phase::Freeze)]
#[case(Phase::Capture)]
#[case(Phase::Write)]
#[case(Phase::Finish)]
#[tokio::test]
async fn client_disconnect_cancels_the_checkpoint(#[case] target_phase: Phase) {
    let harness = ShimHarness::new();
    let (shim, init) = start_workload(&harness).await;
    let mut cancelled = 0;
    for round in 1..=30 {
        let reached = Notify::new();
        {
            // The future is dropped right after the phase. On a busy machine later phases may be reported together with
            // it.
            let mut checkpoint = pin!(
                shim.checkpoint(job(&harness, init), CheckpointFaults::default(), |phase| {
                    if phase == target_phase {
                        reached.notify_one();
                    }
                })
            );
            tokio::select! {
                biased;
                () = reached.notified() => cancelled += 1,
                result = &mut checkpoint => assert!(result.is_ok(), "{result:?}"),
            }
        }
        // The next checkpoint can start when this one has ended.
        let report = checkpoint_when_free(&harness, &shim, init).await;
        assert_eq!(report, (2, 6));
        fs::remove_file(archive_path(&harness)).expect("the path exists");
        assert_eq!(output_files(&harness), Vec::<String>::new());
        assert_keeps_running(&harness, init).await;
        // Little work remains after the last phase: the checkpoint has often finished before the caller can cancel.
        if cancelled == 3 || (target_phase == Phase::Finish && round == 3) {
            return;
        }
    }
    panic!("of 30 checkpoints {cancelled} were not done before their caller was away");
}

/// Checkpoints as soon as no other checkpoint is running.
async fn checkpoint_when_free(harness: &ShimHarness, shim: &Shim, init: ProcessId) -> (usize, usize) {
    loop {
        match shim
            .checkpoint(job(harness, init), CheckpointFaults::default(), |_| {})
            .await
        {
            Ok(report) => return (report.processes, report.threads),
            Err(failure) => assert_eq!(failure.kind, ErrorKind::Busy, "{failure}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[rstest]
#[case::frozen(DelayPhase::Freeze)]
#[case::running(DelayPhase::Write)]
#[tokio::test]
async fn a_concurrent_checkpoint_is_refused_and_the_shim_stays_responsive(#[case] within: DelayPhase) {
    let harness = ShimHarness::new();
    let (shim, init) = start_workload(&harness).await;
    let capture_done = Notify::new();
    let slow = Job {
        delay: long_delay(within),
        ..job(&harness, init)
    };
    let mut first = pin!(shim.checkpoint(slow, CheckpointFaults::default(), |phase| {
        if phase == Phase::Write {
            capture_done.notify_one();
        }
    }));
    let meanwhile = async {
        capture_done.notified().await;
        let failure = shim
            .checkpoint(job(&harness, init), CheckpointFaults::default(), |_| {})
            .await
            .expect_err("a checkpoint is running");
        assert_eq!(failure.kind, ErrorKind::Busy);
        assert_eq!(shim.stats().await.expect("the shim responds").processes, 2);
        let output = shim
            .exec(vec!["echo".into(), "hello".into()], Vec::new(), None)
            .await
            .expect("the shim responds");
        assert_eq!(output.stdout, b"hello\n");
    };
    tokio::select! {
        result = &mut first => panic!("{result:?}"),
        () = meanwhile => {}
    }
}

#[rstest]
#[case::frozen(DelayPhase::Freeze, true)]
#[case::running(DelayPhase::Write, false)]
#[tokio::test]
async fn a_container_killed_during_its_checkpoint_reports_the_signal(#[case] within: DelayPhase, #[case] fails: bool) {
    let harness = ShimHarness::new();
    let (shim, init) = start_workload(&harness).await;
    let capture_done = Notify::new();
    let mut slow = Job {
        delay: long_delay(within),
        ..job(&harness, init)
    };
    if let (false, Some(delay)) = (fails, &mut slow.delay) {
        delay.base = Duration::from_secs(1);
    }
    let checkpoint = shim.checkpoint(slow, CheckpointFaults::default(), |phase| {
        if phase == Phase::Write {
            capture_done.notify_one();
        }
    });
    let both = futures_util::future::join(checkpoint, async {
        capture_done.notified().await;
        if fails {
            // No event shows that the delay has begun. The checkpoint must end correctly in either case.
            tokio::time::sleep(Duration::from_millis(200)).await;
        } else {
            wait_for("all processes run and no snapshot exists", || {
                let all = || pstree::descendants(shim.process().pid).expect("the shim is running");
                // Includes zombies, because a killed snapshot is a zombie until it is reaped. Counted after the
                // container runs, because snapshots are made while it is frozen.
                let free = all()
                    .iter()
                    .all(|stat| pstree::tracer_tid(stat.id.pid.main_thread()).is_none())
                    && all().len() == 2;
                free.then_some(())
            })
            .await;
        }
        shim.signal(libc::SIGKILL).await.expect("the shim responds");
        shim.wait_exit().await
    });
    // Far below the delay.
    let (result, exit) = tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .expect("the delay is cut short");
    assert_eq!((exit.signal, exit.shim_lost), (Some(libc::SIGKILL), false));
    assert!(harness.processes().is_empty());
    if fails {
        assert_eq!(
            result.expect_err("the container has exited").kind,
            ErrorKind::NotRunning
        );
        assert_eq!(output_files(&harness), Vec::<String>::new());
    } else {
        assert_eq!(result.expect("all was captured before").processes, 2);
        assert_eq!(output_files(&harness), ["app.tar"]);
    }
    wait_for("the exit of the shim", || (!shim.process().is_alive()).then_some(())).await;
}

#[tokio::test]
async fn only_a_running_container_is_checkpointed() {
    let harness = ShimHarness::new();
    let shim = Shim::launch(EXECUTABLE.as_ref(), &harness.workload_spec(busy_workload()))
        .await
        .expect("the shim launches");
    let unknown_process = ProcessId {
        pid: Pid::from_raw(1),
        start_time: 0,
    };
    let failure = shim
        .checkpoint(job(&harness, unknown_process), CheckpointFaults::default(), |_| {})
        .await
        .expect_err("the container is not running");
    assert_eq!(failure.kind, ErrorKind::NotRunning);
    assert!(failure.message.contains("created"), "{failure}");
    shim.shutdown().await.expect("the shim exits");
    let failure = shim
        .checkpoint(job(&harness, unknown_process), CheckpointFaults::default(), |_| {})
        .await
        .expect_err("the container is gone");
    assert_eq!(failure.kind, ErrorKind::NotRunning);
}

#[tokio::test]
async fn exits_and_forks_around_the_freeze_are_not_lost() {
    let harness = ShimHarness::new();
    // Children and orphans start and exit all the time, and each exit code is checked.
    let script = "i=0; while [ $i -lt 1000000 ]; do i=$((i+1)); sh -c 'sh -c : & exit 3'; [ $? = 3 ] || exit 1; \
        echo heartbeat $i pid=$$; [ -e $STOP ] && exit 33; done";
    let mut spec = harness.shell_spec(script);
    spec.env
        .push(("STOP".into(), harness.path("stop").display().to_string()));
    let (shim, init) = harness.run(&spec).await;
    harness.wait_line("heartbeat 1 ").await;
    for _ in 0..20 {
        let report = shim
            .checkpoint(job(&harness, init), CheckpointFaults::default(), |_| {})
            .await
            .expect("the checkpoint succeeds");
        assert!(report.processes >= 1);
    }
    let heartbeats = harness.log_lines("stdout").len();
    harness.wait_line(&format!("heartbeat {} ", heartbeats + 3)).await;
    fs::write(harness.path("stop"), "").expect("the file is writable");
    assert_eq!(shim.wait_exit().await.code, 33, "the script saw a wrong exit code");
}

#[tokio::test]
async fn exec_processes_are_not_checkpointed() {
    let harness = ShimHarness::new();
    let (shim, init) = start_workload(&harness).await;
    let script = "setsid sleep 1000 & (sleep 1000 &); echo started; sleep 1000";
    let argv = ["sh", "-c", script].map(String::from).to_vec();
    let mut exec = pin!(shim.exec(argv, Vec::new(), None));
    let checkpoint = async {
        wait_for("the command and its children", || {
            (harness.processes().len() == 6).then_some(())
        })
        .await;
        shim.checkpoint(job(&harness, init), CheckpointFaults::default(), |_| {})
            .await
    };
    tokio::select! {
        output = &mut exec => panic!("{output:?}"),
        report = checkpoint => assert_eq!(report.expect("the checkpoint succeeds").processes, 2),
    }
}

#[rstest]
#[case(Phase::Freeze)]
#[case(Phase::Capture)]
#[case(Phase::Write)]
#[case(Phase::Finish)]
#[tokio::test]
async fn a_shim_killed_in_a_checkpoint_leaves_no_stopped_process(#[case] target_phase: Phase) {
    let _alone = lock_orphan_tests().await;
    let harness = ShimHarness::new();
    let (shim, init) = start_workload(&harness).await;
    let process = shim.process();
    // With a pending fault, the shim waits until the phase is acknowledged.
    let faults = CheckpointFaults {
        injections: vec![Injection {
            phase: target_phase,
            effect: Effect::Delay(Duration::ZERO),
        }],
        defects: Vec::new(),
    };
    let failure = shim
        .checkpoint(job(&harness, init), faults, |phase| {
            if phase == target_phase {
                assert!(pidfd::signal(process, libc::SIGKILL).expect("the process can be killed"));
            }
        })
        .await
        .expect_err("the shim was killed");
    assert_eq!(failure.kind, ErrorKind::NotRunning, "{failure}");
    // The processes of the tracer are detached by the kernel, before any cleanup.
    wait_for("no process stopped or traced", || {
        let mut all = harness.processes().into_iter();
        all.all(|it| {
            pstree::tracer_tid(it.pid.main_thread()).is_none()
                && pstree::ProcStat::read(it.pid).is_ok_and(|stat| stat.state != 't')
        })
        .then_some(())
    })
    .await;
    assert_eq!(kill_shim_and_orphans(&harness, &shim, init).await, 2);
    assert!(!archive_path(&harness).exists());
}
