//! Orphans, double forks, and what they leave.

use fake_cri::process::{ProcessId, family};

use crate::rig::{Rig, eventually};

#[tokio::test]
async fn orphans_are_adopted_and_reaped_by_the_shim() {
    let rig = Rig::new();
    // The second shell ends at once; its child, in a session of its own, becomes the shim's.
    let script = "sh -c 'setsid sleep 1000 & echo orphan $!'; sh -c 'sh -c \"exit 5\" &'; echo ready; sleep 1000";
    let (shim, init) = rig.run(&rig.shell(script)).await;
    let orphan: i32 = rig.line("orphan ").await[7..].parse().expect("a number");
    rig.line("ready").await;
    let kin = eventually("the adoption", || {
        family::Kin::of(orphan)
            .ok()
            .filter(|kin| kin.parent == shim.process().pid && kin.session == orphan)
    })
    .await;
    let children = || family::children(shim.process().pid).expect("it lives");
    eventually("no zombie", || {
        let mut pids: Vec<i32> = children().iter().map(|kin| kin.id.pid).collect();
        pids.sort_unstable();
        let mut expected = [init.pid, orphan];
        expected.sort_unstable();
        (pids == expected).then_some(())
    })
    .await;
    // It belongs to the container, so it ends with it.
    shim.signal(libc::SIGKILL).await.expect("it runs");
    shim.wait().await;
    assert!(!kin.id.alive());
    assert!(rig.processes().is_empty());
}

#[tokio::test]
async fn an_orphan_keeps_the_log_only_as_long_as_the_container_lives() {
    let rig = Rig::new();
    let script = "setsid sh -c 'trap \"\" TERM HUP; while :; do echo daemon; sleep 0.01; done' & until grep -q daemon $LOG; do sleep 0.01; done; exit 9";
    let mut spec = rig.shell(script);
    spec.env.push(("LOG".into(), rig.log().display().to_string()));
    let (shim, _) = rig.run(&spec).await;
    let exit = shim.wait().await;
    assert_eq!(exit.code, 9);
    assert!(rig.processes().is_empty());
    let before = rig.entries().len();
    assert!(before > 0);
}

#[tokio::test]
async fn processes_that_clear_their_environment_are_found_by_descent() {
    let rig = Rig::new();
    let script = "env -i sh -c 'setsid sleep 1000 & echo child $!; exit'; echo ready; sleep 1000";
    let (shim, _) = rig.run(&rig.shell(script)).await;
    let pid: i32 = rig.line("child ").await[6..].parse().expect("a number");
    let child = ProcessId::of(pid).expect("it runs");
    rig.line("ready").await;
    assert!(child.alive());
    shim.kill_all().await.expect("the shim lives");
    assert_eq!(shim.wait().await.signal, Some(libc::SIGKILL));
    assert!(!child.alive());
}

#[tokio::test]
async fn a_container_that_forks_without_end_is_ended() {
    let rig = Rig::new();
    let script =
        "fork() { while :; do sleep 1000 & done; }; for i in 1 2 3; do fork & done; echo ready; sleep 0.2; exit 6";
    let (shim, _) = rig.run(&rig.shell(script)).await;
    assert_eq!(shim.wait().await.code, 6);
    assert!(rig.processes().is_empty());
}
