//! Checkpoints through the shim: its part is that the container and the shim come through them unharmed.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, pin::pin, time::Duration};

use fake_cri::{
    checkpoint::{Delay, DelayIn, DelayMemory, Effect, ErrorKind, Freeze, Injection, Job, Phase},
    process::{ProcessId, family, pidfd},
    shim::Shim,
    stand_in::Options,
};
use rstest::rstest;
use tokio::sync::Notify;

use crate::{
    rig::{EXECUTABLE, Rig, alone, eventually, kill},
    size::own_memory,
};

fn job(rig: &Rig, init: ProcessId) -> Job {
    fs::create_dir_all(rig.path("out")).expect("it can be made");
    Job {
        container_id: rig.id().to_owned(),
        init,
        location: archive(rig),
        temporary: rig.path("out/.app.tar.part"),
        documents: Vec::new(),
        layout: fake_cri::checkpoint::Layout::default(),
        log: Some(rig.log()),
        freeze: Freeze::Copy,
        freeze_bound: Duration::from_secs(10),
        deadline: None,
        fsync: false,
        strict: false,
        delay: None,
        injections: Vec::new(),
    }
}

fn archive(rig: &Rig) -> PathBuf {
    rig.path("out/app.tar")
}

/// Frozen for so long that a test can act meanwhile.
fn slow(within: DelayIn) -> Option<Delay> {
    let memory = DelayMemory::Rss;
    Some(Delay {
        base: Duration::from_secs(600),
        rate: None,
        factor: 1.0,
        memory,
        within,
    })
}

fn files(rig: &Rig) -> Vec<String> {
    let entries = fs::read_dir(rig.path("out")).expect("it is there");
    entries
        .map(|entry| entry.expect("it is there").file_name().to_string_lossy().into_owned())
        .collect()
}

/// Neither stopped nor traced, and its counter moves.
async fn runs_on(rig: &Rig, init: ProcessId) {
    for process in rig.processes() {
        let kin = family::Kin::of(process.pid).expect("it lives");
        assert!(
            !matches!(kin.state, b'T' | b't') && family::tracer(process.pid) == 0,
            "{kin:?}"
        );
    }
    assert!(init.alive());
    let ticks = rig
        .lines("stdout")
        .iter()
        .filter(|line| line.starts_with("tick "))
        .count();
    rig.line(&format!(
        "tick {} pid={} start={}",
        ticks + 3,
        init.pid,
        init.start_time
    ))
    .await;
}

fn busy_stand_in() -> Options {
    Options {
        memory: Some(8 << 20),
        threads: Some(3),
        children: Some(1),
        tick: Some(Duration::from_millis(10)),
        ..Options::default()
    }
}

async fn started(rig: &Rig) -> (Shim, ProcessId) {
    let (shim, init) = rig.run(&rig.stand_in(busy_stand_in())).await;
    rig.line("tick 1 ").await;
    rig.line("child tick 1 ").await;
    (shim, init)
}

#[tokio::test]
async fn a_container_runs_on_after_its_checkpoint_and_the_shim_stays_small() {
    let rig = Rig::new();
    let (shim, init) = started(&rig).await;
    for _ in 0..3 {
        let mut phases = Vec::new();
        let report = shim
            .checkpoint(job(&rig, init), |phase| phases.push(phase))
            .await
            .expect("it can be checkpointed");
        assert_eq!((report.processes, report.threads), (2, 6));
        assert_eq!(phases, [Phase::Freeze, Phase::Capture, Phase::Write, Phase::Finish]);
        assert_eq!(files(&rig), ["app.tar"]);
        assert_eq!(
            fs::metadata(archive(&rig)).expect("it is there").permissions().mode() & 0o7777,
            0o600
        );
        runs_on(&rig, init).await;
    }
    let bytes = own_memory(shim.process().pid);
    println!("a shim's own memory after checkpoints: {} KiB", bytes >> 10);
    assert!(bytes < 3 << 20, "{bytes}");
    shim.signal(libc::SIGTERM).await.expect("it runs");
    assert_eq!(shim.wait().await.code, 0);
}

#[rstest]
#[case(Phase::Freeze)]
#[case(Phase::Capture)]
#[case(Phase::Write)]
#[case(Phase::Finish)]
#[tokio::test]
async fn a_caller_that_goes_away_cancels(#[case] at: Phase) {
    let rig = Rig::new();
    let (shim, init) = started(&rig).await;
    let mut gone = 0;
    for round in 1..=30 {
        let reached = Notify::new();
        {
            // Dropped right after the phase was told. On a busy machine all the rest may be told with it.
            let mut checkpoint = pin!(shim.checkpoint(job(&rig, init), |phase| {
                if phase == at {
                    reached.notify_one();
                }
            }));
            tokio::select! {
                biased;
                () = reached.notified() => gone += 1,
                result = &mut checkpoint => assert!(result.is_ok(), "{result:?}"),
            }
        }
        // The next one is let in once this one is over.
        let report = eventually_checkpointed(&rig, &shim, init).await;
        assert_eq!(report, (2, 6));
        fs::remove_file(archive(&rig)).expect("it is there");
        assert_eq!(files(&rig), Vec::<String>::new());
        runs_on(&rig, init).await;
        // After the last phase little is left to do: it is often done before anyone could go away.
        if gone == 3 || (at == Phase::Finish && round == 3) {
            return;
        }
    }
    panic!("of 30 checkpoints {gone} were not done before their caller was away");
}

/// Checkpoints as soon as none is under way.
async fn eventually_checkpointed(rig: &Rig, shim: &Shim, init: ProcessId) -> (usize, usize) {
    loop {
        match shim.checkpoint(job(rig, init), |_| {}).await {
            Ok(report) => return (report.processes, report.threads),
            Err(failure) => assert_eq!(failure.kind, ErrorKind::Busy, "{failure}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[rstest]
#[case::frozen(DelayIn::Freeze)]
#[case::running(DelayIn::Write)]
#[tokio::test]
async fn a_second_checkpoint_is_refused_and_the_shim_answers_meanwhile(#[case] within: DelayIn) {
    let rig = Rig::new();
    let (shim, init) = started(&rig).await;
    let captured = Notify::new();
    let slow = Job {
        delay: slow(within),
        ..job(&rig, init)
    };
    let mut first = pin!(shim.checkpoint(slow, |phase| {
        if phase == Phase::Write {
            captured.notify_one();
        }
    }));
    let meanwhile = async {
        captured.notified().await;
        let failure = shim
            .checkpoint(job(&rig, init), |_| {})
            .await
            .expect_err("one is under way");
        assert_eq!(failure.kind, ErrorKind::Busy);
        assert_eq!(shim.stats().await.expect("it answers").processes, 2);
        let output = shim
            .exec(vec!["echo".into(), "hello".into()], Vec::new(), None)
            .await
            .expect("it answers");
        assert_eq!(output.stdout, b"hello\n");
    };
    tokio::select! {
        result = &mut first => panic!("{result:?}"),
        () = meanwhile => {}
    }
}

#[rstest]
#[case::frozen(DelayIn::Freeze, true)]
#[case::running(DelayIn::Write, false)]
#[tokio::test]
async fn a_container_that_is_killed_under_its_checkpoint_ends_as_such(#[case] within: DelayIn, #[case] fails: bool) {
    let rig = Rig::new();
    let (shim, init) = started(&rig).await;
    let captured = Notify::new();
    let mut slow = Job {
        delay: slow(within),
        ..job(&rig, init)
    };
    if let (false, Some(delay)) = (fails, &mut slow.delay) {
        delay.base = Duration::from_secs(1);
    }
    let checkpoint = shim.checkpoint(slow, |phase| {
        if phase == Phase::Write {
            captured.notify_one();
        }
    });
    let both = futures_util::future::join(checkpoint, async {
        captured.notified().await;
        if fails {
            // Until the delay has begun nothing tells; either way it must end well.
            tokio::time::sleep(Duration::from_millis(200)).await;
        } else {
            eventually("all run on and nothing is read any more", || {
                let all = || family::descendants(shim.process().pid).expect("the shim runs");
                // With zombies: a copy that was killed is one until it is removed. Counted after they are seen to run, since copies
                // are made while they stand.
                let free = all().iter().all(|kin| family::tracer(kin.id.pid) == 0) && all().len() == 2;
                free.then_some(())
            })
            .await;
        }
        shim.signal(libc::SIGKILL).await.expect("it runs");
        shim.wait().await
    });
    // Far below the delay.
    let (result, exit) = tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .expect("the delay is cut short");
    assert_eq!((exit.signal, exit.lost), (Some(libc::SIGKILL), false));
    assert!(rig.processes().is_empty());
    if fails {
        assert_eq!(result.expect_err("it ended").kind, ErrorKind::NotRunning);
        assert_eq!(files(&rig), Vec::<String>::new());
    } else {
        assert_eq!(result.expect("all was captured before").processes, 2);
        assert_eq!(files(&rig), ["app.tar"]);
    }
    eventually("the shim's end", || (!shim.process().alive()).then_some(())).await;
}

#[tokio::test]
async fn only_a_running_container_is_checkpointed() {
    let rig = Rig::new();
    let shim = Shim::launch(EXECUTABLE.as_ref(), &rig.stand_in(busy_stand_in()))
        .await
        .expect("it launches");
    let nobody = ProcessId { pid: 1, start_time: 0 };
    let failure = shim
        .checkpoint(job(&rig, nobody), |_| {})
        .await
        .expect_err("it does not run");
    assert_eq!(failure.kind, ErrorKind::NotRunning);
    assert!(failure.message.contains("created"), "{failure}");
    shim.shutdown().await.expect("it ends");
    let failure = shim
        .checkpoint(job(&rig, nobody), |_| {})
        .await
        .expect_err("it is gone");
    assert_eq!(failure.kind, ErrorKind::NotRunning);
}

#[tokio::test]
async fn exits_and_births_while_it_is_frozen_are_not_lost() {
    let rig = Rig::new();
    // Children and orphans come and go all the time, each exit code is looked at.
    let script = "i=0; while [ $i -lt 1000000 ]; do i=$((i+1)); sh -c 'sh -c : & exit 3'; [ $? = 3 ] || exit 1; \
        echo tick $i pid=$$; [ -e $STOP ] && exit 33; done";
    let mut spec = rig.shell(script);
    spec.env.push(("STOP".into(), rig.path("stop").display().to_string()));
    let (shim, init) = rig.run(&spec).await;
    rig.line("tick 1 ").await;
    for _ in 0..20 {
        let report = shim
            .checkpoint(job(&rig, init), |_| {})
            .await
            .expect("it can be checkpointed");
        assert!(report.processes >= 1);
    }
    let ticks = rig.lines("stdout").len();
    rig.line(&format!("tick {} ", ticks + 3)).await;
    fs::write(rig.path("stop"), "").expect("it can be written");
    assert_eq!(shim.wait().await.code, 33, "it never saw a wrong exit code");
}

#[tokio::test]
async fn a_command_beside_the_container_is_no_part_of_it() {
    let rig = Rig::new();
    let (shim, init) = started(&rig).await;
    let script = "setsid sleep 1000 & (sleep 1000 &); echo started; sleep 1000";
    let argv = ["sh", "-c", script].map(String::from).to_vec();
    let mut exec = pin!(shim.exec(argv, Vec::new(), None));
    let checkpoint = async {
        eventually("the command and its children", || {
            (rig.processes().len() == 6).then_some(())
        })
        .await;
        shim.checkpoint(job(&rig, init), |_| {}).await
    };
    tokio::select! {
        output = &mut exec => panic!("{output:?}"),
        report = checkpoint => assert_eq!(report.expect("it can be checkpointed").processes, 2),
    }
}

#[rstest]
#[case(Phase::Freeze)]
#[case(Phase::Capture)]
#[case(Phase::Write)]
#[case(Phase::Finish)]
#[tokio::test]
async fn a_shim_killed_in_a_checkpoint_leaves_nothing_stopped_or_stray(#[case] at: Phase) {
    let _alone = alone().await;
    let rig = Rig::new();
    let (shim, init) = started(&rig).await;
    let process = shim.process();
    // Where a fault may act, the shim waits until the phase was heard of.
    let waits = Job {
        injections: vec![Injection {
            phase: at,
            effect: Effect::Delay(Duration::ZERO),
        }],
        ..job(&rig, init)
    };
    let failure = shim
        .checkpoint(waits, |phase| {
            if phase == at {
                assert!(pidfd::signal(process, libc::SIGKILL).expect("it may be killed"));
            }
        })
        .await
        .expect_err("the shim was killed");
    assert_eq!(failure.kind, ErrorKind::NotRunning, "{failure}");
    // What the tracer held runs on by itself, before anybody has cleaned up.
    eventually("no process stopped or traced", || {
        let mut all = rig.processes().into_iter();
        all.all(|it| family::tracer(it.pid) == 0 && family::Kin::of(it.pid).is_ok_and(|kin| kin.state != b't'))
            .then_some(())
    })
    .await;
    assert_eq!(kill(&rig, &shim, init).await, 2);
    assert!(!archive(&rig).exists());
}
