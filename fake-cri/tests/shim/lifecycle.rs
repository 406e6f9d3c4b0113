//! Start and exit of a container, and the record of its exit.

use std::{path::Path, time::Duration};

use fake_cri::{
    process::pidfd,
    shim::{ExitReason, LaunchSpec, Shim, ShimAttachment, ShimError, ShimState},
};
use rstest::rstest;

use crate::harness::{EXECUTABLE, ShimHarness, wait_for};

#[rstest]
#[case::success("exit 0", 0, None, ExitReason::Completed)]
#[case::failure("exit 3", 3, None, ExitReason::Error)]
#[case::largest("exit 255", 255, None, ExitReason::Error)]
#[case::signal("kill -TERM $$", 143, Some(15), ExitReason::Error)]
#[case::real_time_signal("kill -40 $$", 168, Some(40), ExitReason::Error)]
#[case::killed("kill -KILL $$", 137, Some(9), ExitReason::Error)]
#[tokio::test]
async fn exit_code_signal_and_reason_are_recorded(
    #[case] script: &str,
    #[case] code: i32,
    #[case] signal: Option<i32>,
    #[case] reason: ExitReason,
) {
    let harness = ShimHarness::new();
    let before = jiff::Timestamp::now().as_nanosecond() as i64;
    let (shim, _) = harness.run(&harness.shell_spec(script)).await;
    let exit = shim.wait_exit().await;
    assert_eq!(
        (exit.code, exit.signal, exit.reason, exit.shim_lost),
        (code, signal, reason, false)
    );
    assert!(
        before <= exit.started_at_ns && exit.started_at_ns <= exit.finished_at_ns,
        "{exit:?}"
    );
    // The record in the state directory has the same exit.
    match Shim::attach(&harness.shim_dir())
        .await
        .expect("the state directory exists")
    {
        ShimAttachment::Exited(recorded) => assert_eq!(recorded, exit),
        other => panic!("{other:?}"),
    }
    assert_eq!(shim.wait_exit().await, exit);
    wait_for("the exit of the shim", || (!shim.process().is_alive()).then_some(())).await;
}

#[tokio::test]
async fn a_container_has_its_argv_environment_working_dir_and_session() {
    let harness = ShimHarness::new();
    let work_dir = harness.path("work");
    std::fs::create_dir(&work_dir).expect("the directory can be created");
    let script = r#"echo "$0 $1"; env | sort; pwd; read line || echo eof; cat /proc/self/stat; ls /proc/self/fd; umask;
        grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status"#;
    let spec = LaunchSpec {
        cwd: Some(work_dir.clone()),
        ..harness.host_spec(&["sh", "-c", script, "zero", "one"])
    };
    let (shim, init) = harness.run(&spec).await;
    assert_eq!(shim.wait_exit().await.code, 0);
    let lines = harness.log_lines("stdout");
    let text = lines.join("\n");
    let expected = format!(
        "zero one\nCOLOUR=blue\nFAKE_CRI_CONTAINER_ID={}\nPATH=/usr/local/bin:/usr/bin:/bin\nPWD={}\n",
        harness.id(),
        work_dir.display()
    );
    assert!(text.starts_with(&expected), "{text}");
    assert_eq!(
        lines[5..7],
        [work_dir.display().to_string(), "eof".to_owned()],
        "{text}"
    );
    let stat: Vec<&str> = lines[7].split(' ').collect();
    assert_eq!(
        (stat[4], stat[5]),
        (&*init.pid.to_string(), &*init.pid.to_string()),
        "group and session"
    );
    // ls itself opens the directory as fd 3.
    assert_eq!(lines[8..13], ["0", "1", "2", "3", "0022"], "{text}");
    for (line, name) in lines[13..].iter().zip(["SigBlk", "SigIgn"]) {
        assert_eq!(line, &format!("{name}:\t0000000000000000"));
    }
}

#[rstest]
#[case::name(&["no-such-program"], r#"exec: "no-such-program": executable file not found in $PATH"#)]
#[case::path(&["/no/such/program"], r#"exec: "/no/such/program": stat /no/such/program: no such file or directory"#)]
#[case::not_executable(&["/etc/passwd"], r#"exec: "/etc/passwd": permission denied"#)]
#[tokio::test]
async fn a_missing_command_fails_with_the_runc_error(#[case] argv: &[&str], #[case] words: &str) {
    let harness = ShimHarness::new();
    let shim = Shim::launch(Path::new(EXECUTABLE), &harness.host_spec(argv))
        .await
        .expect("the shim launches");
    match shim.start().await {
        Err(ShimError::ExecFailed { message }) => assert_eq!(message, words),
        other => panic!("{other:?}"),
    }
    shim.shutdown().await.expect("the shim exits");
    assert!(!shim.process().is_alive());
}

#[tokio::test]
async fn exec_and_chdir_errors_fail_the_start() {
    use std::os::unix::fs::PermissionsExt;
    let harness = ShimHarness::new();
    let file = harness.path("garbage");
    std::fs::write(&file, b"\x7fELF garbage").expect("the file is writable");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("the file is accessible");
    let name = file.display().to_string();
    let shim = Shim::launch(Path::new(EXECUTABLE), &harness.host_spec(&[&name]))
        .await
        .expect("the shim launches");
    let message = shim.start().await.expect_err("not a program").to_string();
    assert_eq!(
        message,
        format!("unable to start container process: exec {name}: exec format error")
    );
    let nowhere = LaunchSpec {
        cwd: Some("/no/such/directory".into()),
        dir: harness.path("second"),
        ..harness.shell_spec("true")
    };
    let other = Shim::launch(Path::new(EXECUTABLE), &nowhere)
        .await
        .expect("the shim launches");
    let message = other.start().await.expect_err("a missing directory").to_string();
    let words = r#"chdir to cwd ("/no/such/directory") set in config.json failed: no such file or directory"#;
    assert!(message.ends_with(words), "{message}");
    other.shutdown().await.expect("the shim exits");
    shim.shutdown().await.expect("the shim exits");
}

#[tokio::test]
async fn attach_finds_the_shim_in_each_state() {
    let harness = ShimHarness::new();
    let shim = Shim::launch(Path::new(EXECUTABLE), &harness.shell_spec("sleep 1000"))
        .await
        .expect("the shim launches");
    match Shim::attach(&harness.shim_dir()).await.expect("the shim responds") {
        ShimAttachment::Live(reattached, ShimState::Created) => assert_eq!(reattached.process(), shim.process()),
        other => panic!("{other:?}"),
    }
    let init = shim.start().await.expect("the container starts");
    assert!(
        matches!(shim.start().await, Err(ShimError::WrongState { .. })),
        "a second start is refused"
    );
    let reattached = match Shim::attach(&harness.shim_dir()).await.expect("the shim responds") {
        ShimAttachment::Live(reattached, ShimState::Running { init: found, .. }) if found == init => reattached,
        other => panic!("{other:?}"),
    };
    reattached.signal(libc::SIGTERM).await.expect("the shim responds");
    let (one, other) = tokio::join!(shim.wait_exit(), reattached.wait_exit());
    assert_eq!((one.signal, &one), (Some(libc::SIGTERM), &other));
    assert!(matches!(
        Shim::attach(&harness.shim_dir())
            .await
            .expect("the state directory exists"),
        ShimAttachment::Exited(_)
    ));
    assert!(matches!(
        reattached.signal(libc::SIGTERM).await,
        Err(ShimError::Gone | ShimError::WrongState { .. })
    ));
    let empty = ShimHarness::new();
    std::fs::create_dir(empty.shim_dir()).expect("the directory can be created");
    assert!(matches!(
        Shim::attach(&empty.shim_dir())
            .await
            .expect("the state directory exists"),
        ShimAttachment::Lost
    ));
}

#[tokio::test]
async fn a_shim_that_never_started_leaves_no_exit_record() {
    let harness = ShimHarness::new();
    let shim = Shim::launch(Path::new(EXECUTABLE), &harness.shell_spec("true"))
        .await
        .expect("the shim launches");
    shim.shutdown().await.expect("the shim exits");
    shim.shutdown().await.expect("a second time too");
    assert!(matches!(
        Shim::attach(&harness.shim_dir())
            .await
            .expect("the state directory exists"),
        ShimAttachment::Lost
    ));
}

#[rstest]
#[case::by_its_own_signal(true)]
#[case::by_request(false)]
#[tokio::test]
async fn shutdown_kills_the_container_first(#[case] signal: bool) {
    let harness = ShimHarness::new();
    let (shim, _) = harness
        .run(&harness.shell_spec("trap '' TERM; sleep 1000 & setsid sleep 1000 & wait"))
        .await;
    wait_for("three processes", || (harness.processes().len() == 3).then_some(())).await;
    if signal {
        assert!(pidfd::signal(shim.process(), libc::SIGTERM).expect("the process can be signalled"));
    } else {
        shim.shutdown().await.expect("the shim exits");
    }
    let exit = shim.wait_exit().await;
    assert_eq!((exit.code, exit.signal, exit.shim_lost), (137, Some(9), false));
    assert!(harness.processes().is_empty());
}

#[tokio::test]
async fn long_paths_are_supported() {
    let harness = ShimHarness::new();
    let dir = harness.path(&format!("{}/{}", "a".repeat(200), "b".repeat(200)));
    let (shim, _) = harness
        .run(&LaunchSpec {
            dir: dir.clone(),
            ..harness.shell_spec("exit 7")
        })
        .await;
    assert_eq!(shim.wait_exit().await.code, 7);
    assert!(
        matches!(Shim::attach(&dir).await.expect("the state directory exists"), ShimAttachment::Exited(exit) if exit.code == 7)
    );
}

#[tokio::test]
async fn an_executable_that_is_no_shim_is_refused() {
    let harness = ShimHarness::new();
    for (executable, words) in [("/bin/true", "without a handshake"), ("/no/such/file", "No such file")] {
        let error = Shim::launch(Path::new(executable), &harness.shell_spec("true"))
            .await
            .expect_err("not a shim")
            .to_string();
        assert!(error.contains(words) && error.contains(executable), "{error}");
    }
}

#[tokio::test]
async fn fifty_concurrent_containers() {
    let rigs: Vec<ShimHarness> = (0..50).map(|_| ShimHarness::new()).collect();
    let all = rigs.iter().enumerate().map(|(number, harness)| async move {
        let (shim, _) = harness
            .run(&harness.shell_spec(&format!("echo here; sleep 0.1; exit {number}")))
            .await;
        assert_eq!(shim.wait_exit().await.code, number as i32);
        assert_eq!(harness.log_lines("stdout"), ["here"]);
    });
    tokio::time::timeout(Duration::from_secs(120), futures_util::future::join_all(all))
        .await
        .expect("before the timeout");
}
