//! Reaping of orphans and of double-forked processes.

use fake_cri::process::{Pid, ProcessId, pstree};

use crate::harness::{ShimHarness, wait_for};

#[tokio::test]
async fn the_shim_adopts_and_reaps_orphans() {
    let harness = ShimHarness::new();
    // The second shell exits at once. Its child, in a new session, becomes a child of the shim.
    let script = "sh -c 'setsid sleep 1000 & echo orphan $!'; sh -c 'sh -c \"exit 5\" &'; echo ready; sleep 1000";
    let (shim, init) = harness.run(&harness.shell_spec(script)).await;
    let orphan: Pid = harness.wait_line("orphan ").await[7..].parse().expect("a number");
    harness.wait_line("ready").await;
    let stat = wait_for("the orphan becomes a child of the shim", || {
        pstree::ProcStat::read(orphan)
            .ok()
            .filter(|stat| stat.ppid == shim.process().pid && stat.sid == orphan)
    })
    .await;
    let children = || pstree::children(shim.process().pid).expect("the process is alive");
    wait_for("no zombie", || {
        let mut pids: Vec<Pid> = children().iter().map(|stat| stat.id.pid).collect();
        pids.sort_unstable();
        let mut expected = [init.pid, orphan];
        expected.sort_unstable();
        (pids == expected).then_some(())
    })
    .await;
    // The orphan belongs to the container, so it ends with the container.
    shim.signal(libc::SIGKILL).await.expect("the shim responds");
    shim.wait_exit().await;
    assert!(!stat.id.is_alive());
    assert!(harness.processes().is_empty());
}

#[tokio::test]
async fn orphans_end_with_the_container() {
    let harness = ShimHarness::new();
    let script = "setsid sh -c 'trap \"\" TERM HUP; while :; do echo daemon; sleep 0.01; done' & until grep -q daemon $LOG; do sleep 0.01; done; exit 9";
    let mut spec = harness.shell_spec(script);
    spec.env.push(("LOG".into(), harness.log_path().display().to_string()));
    let (shim, _) = harness.run(&spec).await;
    let exit = shim.wait_exit().await;
    assert_eq!(exit.code, 9);
    assert!(harness.processes().is_empty());
    let before = harness.log_entries().len();
    assert!(before > 0);
}

#[tokio::test]
async fn processes_without_the_id_variable_are_found_by_descent() {
    let harness = ShimHarness::new();
    let script = "env -i sh -c 'setsid sleep 1000 & echo child $!; exit'; echo ready; sleep 1000";
    let (shim, _) = harness.run(&harness.shell_spec(script)).await;
    let pid: Pid = harness.wait_line("child ").await[6..].parse().expect("a number");
    let child = ProcessId::from_pid(pid).expect("the process is running");
    harness.wait_line("ready").await;
    assert!(child.is_alive());
    shim.kill_all().await.expect("the shim is alive");
    assert_eq!(shim.wait_exit().await.signal, Some(libc::SIGKILL));
    assert!(!child.is_alive());
}

#[tokio::test]
async fn a_forking_container_can_be_killed() {
    let harness = ShimHarness::new();
    let script =
        "fork() { while :; do sleep 1000 & done; }; for i in 1 2 3; do fork & done; echo ready; sleep 0.2; exit 6";
    let (shim, _) = harness.run(&harness.shell_spec(script)).await;
    assert_eq!(shim.wait_exit().await.code, 6);
    assert!(harness.processes().is_empty());
}
