//! SIGKILL of fake-cri does not affect the container; SIGKILL of a shim is reported as a lost shim.

use std::process::{Command, Stdio};

use fake_cri::{
    process::{ProcessId, pidfd},
    shim::{Shim, ShimAttachment, ShimState, kill_orphans},
};
use rstest::rstest;

use crate::harness::{ShimHarness, kill_shim_and_orphans, lock_orphan_tests, wait_for};

/// Set in the process that acts as fake-cri and is killed. The value is the launch specification of the test.
const CLIENT_SPEC_ENV: &str = "SHIM_TEST_PART";

/// Not a test: runs in a process that the test below kills.
#[tokio::test]
async fn client_process() {
    let Ok(spec) = std::env::var(CLIENT_SPEC_ENV) else {
        return;
    };
    let spec = serde_json::from_str(&spec).expect("a valid specification");
    let shim = Shim::launch(crate::harness::EXECUTABLE.as_ref(), &spec)
        .await
        .expect("the shim launches");
    shim.start().await.expect("the container starts");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn the_container_survives_a_killed_client() {
    let harness = ShimHarness::new();
    let script = format!(
        "i=0; until [ -e {} ]; do i=$((i+1)); echo $i; sleep 0.01; done; exit 21",
        harness.path("go").display()
    );
    let spec = serde_json::to_string(&harness.shell_spec(&script)).expect("valid data");
    let mut client = Command::new(std::env::current_exe().expect("the container is known"))
        .args(["recovery::client_process", "--exact", "--nocapture"])
        .env(CLIENT_SPEC_ENV, spec)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the container starts");
    harness.wait_line("3").await;
    client.kill().expect("the process is a child");
    client.wait().expect("the process is a child");
    let (shim, init) = match Shim::attach(&harness.shim_dir()).await.expect("the shim responds") {
        ShimAttachment::Live(shim, ShimState::Running { init, .. }) => (shim, init),
        other => panic!("{other:?}"),
    };
    let line_count: u64 = harness.log_lines("stdout").len() as u64;
    harness.wait_line(&(line_count + 5).to_string()).await;
    assert!(init.is_alive());
    std::fs::write(harness.path("go"), "").expect("the file is writable");
    let exit = shim.wait_exit().await;
    assert_eq!((exit.code, exit.shim_lost), (21, false));
    let counters: Vec<u64> = harness
        .log_lines("stdout")
        .iter()
        .map(|line| line.parse().expect("a number"))
        .collect();
    assert!(
        counters.iter().copied().eq(1..=counters.len() as u64),
        "no line was lost or repeated"
    );
}

#[tokio::test]
async fn an_unobserved_exit_is_recorded() {
    let harness = ShimHarness::new();
    let (shim, _) = harness.run(&harness.shell_spec("exit 17")).await;
    wait_for("the exit of the shim", || (!shim.process().is_alive()).then_some(())).await;
    drop(shim);
    match Shim::attach(&harness.shim_dir())
        .await
        .expect("the state directory exists")
    {
        ShimAttachment::Exited(exit) => assert_eq!(exit.code, 17),
        other => panic!("{other:?}"),
    }
}

#[rstest]
#[case::one("exec sleep 1000", 1, 0)]
#[case::children("sleep 1000 & sleep 1000 & wait", 3, 0)]
#[case::own_sessions("setsid sleep 1000 & setsid sh -c 'sleep 1000 & wait' & wait", 4, 0)]
#[case::clean_environment("env -i /bin/sleep 1000 & env -i setsid /bin/sleep 1000 & wait", 3, 0)]
#[case::deaf("trap '' TERM INT HUP; sleep 1000 & wait; while :; do sleep 1000; done", 2, 1)]
#[tokio::test]
async fn orphans_of_a_killed_shim_are_killed(#[case] script: &str, #[case] processes: usize, #[case] more: usize) {
    let _alone = lock_orphan_tests().await;
    let harness = ShimHarness::new();
    let (shim, init) = harness.run(&harness.shell_spec(script)).await;
    let members = wait_for("all processes", || {
        let all = fake_cri::process::pstree::descendants(shim.process().pid).expect("the process is alive");
        let names: Vec<_> = all
            .iter()
            .map(|stat| std::fs::read_to_string(format!("/proc/{}/comm", stat.id.pid)))
            .collect();
        let all_started = names.iter().all(|name| {
            name.as_ref()
                .is_ok_and(|name| ["sh\n", "sleep\n"].contains(&name.as_str()))
        });
        (all_started && all.len() == processes).then_some(all)
    })
    .await;
    // Processes are killed in the order of their pids, so a shell whose child is killed first may start the next child.
    let killed = kill_shim_and_orphans(&harness, &shim, init).await;
    assert!(
        (processes..=processes + more).contains(&killed),
        "{killed} of {processes}"
    );
    assert!(members.iter().all(|stat| !stat.id.is_alive()), "{members:?}");
    assert!(matches!(
        Shim::attach(&harness.shim_dir())
            .await
            .expect("the state directory exists"),
        ShimAttachment::Lost
    ));
}

#[tokio::test]
async fn orphans_of_other_containers_are_kept() {
    let _alone = lock_orphan_tests().await;
    let (harness, other_harness) = (ShimHarness::new(), ShimHarness::new());
    let (shim, init) = harness.run(&harness.shell_spec("exec sleep 1000")).await;
    let (other, other_init) = other_harness
        .run(&other_harness.shell_spec("setsid sleep 1000 & wait"))
        .await;
    wait_for("both", || (other_harness.processes().len() == 2).then_some(())).await;
    let reused = ProcessId {
        start_time: other_init.start_time - 1,
        ..other_init
    };
    assert_eq!(kill_shim_and_orphans(&harness, &shim, init).await, 1);
    kill_orphans(harness.id(), &[reused])
        .await
        .expect("the processes can be killed");
    assert_eq!(other_harness.processes().len(), 2);
    assert!(other.stats().await.is_ok());
    assert!(pidfd::signal(other_init, libc::SIGKILL).expect("the process is a child"));
    assert_eq!(other.wait_exit().await.signal, Some(libc::SIGKILL));
}
