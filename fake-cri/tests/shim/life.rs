//! Start, end, and what is known afterwards.

use std::{path::Path, time::Duration};

use fake_cri::{
    process::pidfd,
    shim::{Attached, LaunchSpec, Reason, Shim, ShimError, State},
};
use rstest::rstest;

use crate::rig::{EXECUTABLE, Rig, eventually};

#[rstest]
#[case::success("exit 0", 0, None, Reason::Completed)]
#[case::failure("exit 3", 3, None, Reason::Error)]
#[case::largest("exit 255", 255, None, Reason::Error)]
#[case::signal("kill -TERM $$", 143, Some(15), Reason::Error)]
#[case::real_time_signal("kill -40 $$", 168, Some(40), Reason::Error)]
#[case::killed("kill -KILL $$", 137, Some(9), Reason::Error)]
#[tokio::test]
async fn the_end_is_known(
    #[case] script: &str,
    #[case] code: i32,
    #[case] signal: Option<i32>,
    #[case] reason: Reason,
) {
    let rig = Rig::new();
    let before = jiff::Timestamp::now().as_nanosecond() as i64;
    let (shim, _) = rig.run(&rig.shell(script)).await;
    let exit = shim.wait().await;
    assert_eq!(
        (exit.code, exit.signal, exit.reason, exit.lost),
        (code, signal, reason, false)
    );
    assert!(
        before <= exit.started_at_ns && exit.started_at_ns <= exit.finished_at_ns,
        "{exit:?}"
    );
    // The record says the same to one that comes later.
    match Shim::attach(&rig.dir()).await.expect("the folder is there") {
        Attached::Exited(recorded) => assert_eq!(recorded, exit),
        other => panic!("{other:?}"),
    }
    assert_eq!(shim.wait().await, exit);
    eventually("the shim's end", || (!shim.process().alive()).then_some(())).await;
}

#[tokio::test]
async fn a_container_has_its_own_argv_environment_folder_and_session() {
    let rig = Rig::new();
    let folder = rig.path("work");
    std::fs::create_dir(&folder).expect("it can be made");
    let script = r#"echo "$0 $1"; env | sort; pwd; read line || echo eof; cat /proc/self/stat; ls /proc/self/fd; umask;
        grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status"#;
    let spec = LaunchSpec {
        cwd: Some(folder.clone()),
        ..rig.host(&["sh", "-c", script, "zero", "one"])
    };
    let (shim, init) = rig.run(&spec).await;
    assert_eq!(shim.wait().await.code, 0);
    let lines = rig.lines("stdout");
    let text = lines.join("\n");
    let expected = format!(
        "zero one\nCOLOUR=blue\nFAKE_CRI_CONTAINER={}\nPATH=/usr/local/bin:/usr/bin:/bin\nPWD={}\n",
        rig.id(),
        folder.display()
    );
    assert!(text.starts_with(&expected), "{text}");
    assert_eq!(lines[5..7], [folder.display().to_string(), "eof".to_owned()], "{text}");
    let stat: Vec<&str> = lines[7].split(' ').collect();
    assert_eq!(
        (stat[4], stat[5]),
        (&*init.pid.to_string(), &*init.pid.to_string()),
        "group and session"
    );
    // ls itself opens the folder as 3.
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
async fn a_missing_command_fails_the_start_as_runc_says_it(#[case] argv: &[&str], #[case] words: &str) {
    let rig = Rig::new();
    let shim = Shim::launch(Path::new(EXECUTABLE), &rig.host(argv))
        .await
        .expect("it launches");
    match shim.start().await {
        Err(ShimError::Exec { message }) => assert_eq!(message, words),
        other => panic!("{other:?}"),
    }
    shim.shutdown().await.expect("it ends");
    assert!(!shim.process().alive());
}

#[tokio::test]
async fn what_the_kernel_will_not_run_fails_the_start_too() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::new();
    let file = rig.path("garbage");
    std::fs::write(&file, b"\x7fELF garbage").expect("it can be written");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let name = file.display().to_string();
    let shim = Shim::launch(Path::new(EXECUTABLE), &rig.host(&[&name]))
        .await
        .expect("it launches");
    let message = shim.start().await.expect_err("it is no program").to_string();
    assert_eq!(
        message,
        format!("unable to start container process: exec {name}: exec format error")
    );
    let nowhere = LaunchSpec {
        cwd: Some("/no/such/folder".into()),
        dir: rig.path("second"),
        ..rig.shell("true")
    };
    let other = Shim::launch(Path::new(EXECUTABLE), &nowhere)
        .await
        .expect("it launches");
    let message = other.start().await.expect_err("there is no such folder").to_string();
    let words = r#"chdir to cwd ("/no/such/folder") set in config.json failed: no such file or directory"#;
    assert!(message.ends_with(words), "{message}");
    other.shutdown().await.expect("it ends");
    shim.shutdown().await.expect("it ends");
}

#[tokio::test]
async fn a_shim_is_found_again_in_each_state() {
    let rig = Rig::new();
    let shim = Shim::launch(Path::new(EXECUTABLE), &rig.shell("sleep 1000"))
        .await
        .expect("it launches");
    match Shim::attach(&rig.dir()).await.expect("it answers") {
        Attached::Live(again, State::Created) => assert_eq!(again.process(), shim.process()),
        other => panic!("{other:?}"),
    }
    let init = shim.start().await.expect("it starts");
    assert!(
        matches!(shim.start().await, Err(ShimError::State { .. })),
        "a second start is refused"
    );
    let again = match Shim::attach(&rig.dir()).await.expect("it answers") {
        Attached::Live(again, State::Running { init: found, .. }) if found == init => again,
        other => panic!("{other:?}"),
    };
    again.signal(libc::SIGTERM).await.expect("it runs");
    let (one, other) = tokio::join!(shim.wait(), again.wait());
    assert_eq!((one.signal, &one), (Some(libc::SIGTERM), &other));
    assert!(matches!(
        Shim::attach(&rig.dir()).await.expect("the folder is there"),
        Attached::Exited(_)
    ));
    assert!(matches!(
        again.signal(libc::SIGTERM).await,
        Err(ShimError::Gone | ShimError::State { .. })
    ));
    let empty = Rig::new();
    std::fs::create_dir(empty.dir()).expect("it can be made");
    assert!(matches!(
        Shim::attach(&empty.dir()).await.expect("the folder is there"),
        Attached::Lost
    ));
}

#[tokio::test]
async fn a_shim_that_was_never_started_leaves_no_exit() {
    let rig = Rig::new();
    let shim = Shim::launch(Path::new(EXECUTABLE), &rig.shell("true"))
        .await
        .expect("it launches");
    shim.shutdown().await.expect("it ends");
    shim.shutdown().await.expect("a second time too");
    assert!(matches!(
        Shim::attach(&rig.dir()).await.expect("the folder is there"),
        Attached::Lost
    ));
}

#[rstest]
#[case::by_its_own_signal(true)]
#[case::by_request(false)]
#[tokio::test]
async fn a_shim_that_must_end_ends_its_container_first(#[case] signal: bool) {
    let rig = Rig::new();
    let (shim, _) = rig
        .run(&rig.shell("trap '' TERM; sleep 1000 & setsid sleep 1000 & wait"))
        .await;
    eventually("three processes", || (rig.processes().len() == 3).then_some(())).await;
    if signal {
        assert!(pidfd::signal(shim.process(), libc::SIGTERM).expect("it may be signalled"));
    } else {
        shim.shutdown().await.expect("it ends");
    }
    let exit = shim.wait().await;
    assert_eq!((exit.code, exit.signal, exit.lost), (137, Some(9), false));
    assert!(rig.processes().is_empty());
}

#[tokio::test]
async fn a_long_path_is_no_obstacle() {
    let rig = Rig::new();
    let dir = rig.path(&format!("{}/{}", "a".repeat(200), "b".repeat(200)));
    let (shim, _) = rig
        .run(&LaunchSpec {
            dir: dir.clone(),
            ..rig.shell("exit 7")
        })
        .await;
    assert_eq!(shim.wait().await.code, 7);
    assert!(matches!(Shim::attach(&dir).await.expect("the folder is there"), Attached::Exited(exit) if exit.code == 7));
}

#[tokio::test]
async fn an_executable_that_is_no_shim_is_told_from_one() {
    let rig = Rig::new();
    for (executable, words) in [("/bin/true", "without a word"), ("/no/such/file", "No such file")] {
        let error = Shim::launch(Path::new(executable), &rig.shell("true"))
            .await
            .expect_err("it is no shim")
            .to_string();
        assert!(error.contains(words) && error.contains(executable), "{error}");
    }
}

#[tokio::test]
async fn fifty_containers_at_once() {
    let rigs: Vec<Rig> = (0..50).map(|_| Rig::new()).collect();
    let all = rigs.iter().enumerate().map(|(number, rig)| async move {
        let (shim, _) = rig
            .run(&rig.shell(&format!("echo here; sleep 0.1; exit {number}")))
            .await;
        assert_eq!(shim.wait().await.code, number as i32);
        assert_eq!(rig.lines("stdout"), ["here"]);
    });
    tokio::time::timeout(Duration::from_secs(120), futures_util::future::join_all(all))
        .await
        .expect("in time");
}
