//! What a SIGKILL does: to fake-cri nothing, to a shim an end that is told as such.

use std::process::{Command, Stdio};

use fake_cri::{
    process::{ProcessId, pidfd},
    shim::{Attached, Shim, State, kill_leftovers},
};
use rstest::rstest;

use crate::rig::{Rig, alone, eventually, kill};

/// Set for the part of this file that plays fake-cri and is killed: the folder of the test that started it.
const PART: &str = "SHIM_TEST_PART";

/// Not a test of its own: what the test below runs in a process that it then kills.
#[tokio::test]
async fn part_of_a_client_that_is_killed() {
    let Ok(spec) = std::env::var(PART) else { return };
    let spec = serde_json::from_str(&spec).expect("the test wrote it");
    let shim = Shim::launch(crate::rig::EXECUTABLE.as_ref(), &spec)
        .await
        .expect("it launches");
    shim.start().await.expect("it starts");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_fake_cri_changes_nothing_for_the_container() {
    let rig = Rig::new();
    let script = format!(
        "i=0; until [ -e {} ]; do i=$((i+1)); echo $i; sleep 0.01; done; exit 21",
        rig.path("go").display()
    );
    let spec = serde_json::to_string(&rig.shell(&script)).expect("plain data");
    let mut client = Command::new(std::env::current_exe().expect("it is known"))
        .args(["lost::part_of_a_client_that_is_killed", "--exact", "--nocapture"])
        .env(PART, spec)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    rig.line("3").await;
    client.kill().expect("it is ours");
    client.wait().expect("it is ours");
    let (shim, init) = match Shim::attach(&rig.dir()).await.expect("it answers") {
        Attached::Live(shim, State::Running { init, .. }) => (shim, init),
        other => panic!("{other:?}"),
    };
    let seen: u64 = rig.lines("stdout").len() as u64;
    rig.line(&(seen + 5).to_string()).await;
    assert!(init.alive());
    std::fs::write(rig.path("go"), "").expect("it can be written");
    let exit = shim.wait().await;
    assert_eq!((exit.code, exit.lost), (21, false));
    let numbers: Vec<u64> = rig
        .lines("stdout")
        .iter()
        .map(|line| line.parse().expect("a number"))
        .collect();
    assert!(
        numbers.iter().copied().eq(1..=numbers.len() as u64),
        "no line was lost or repeated"
    );
}

#[tokio::test]
async fn an_end_that_nobody_saw_is_known_afterwards() {
    let rig = Rig::new();
    let (shim, _) = rig.run(&rig.shell("exit 17")).await;
    eventually("the shim's end", || (!shim.process().alive()).then_some(())).await;
    drop(shim);
    match Shim::attach(&rig.dir()).await.expect("the folder is there") {
        Attached::Exited(exit) => assert_eq!(exit.code, 17),
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
async fn a_killed_shim_leaves_nothing(#[case] script: &str, #[case] processes: usize, #[case] more: usize) {
    let _alone = alone().await;
    let rig = Rig::new();
    let (shim, init) = rig.run(&rig.shell(script)).await;
    let members = eventually("all processes", || {
        let all = fake_cri::process::family::descendants(shim.process().pid).expect("it lives");
        let names: Vec<_> = all
            .iter()
            .map(|kin| std::fs::read_to_string(format!("/proc/{}/comm", kin.id.pid)))
            .collect();
        let settled = names.iter().all(|name| {
            name.as_ref()
                .is_ok_and(|name| ["sh\n", "sleep\n"].contains(&name.as_str()))
        });
        (settled && all.len() == processes).then_some(all)
    })
    .await;
    // Processes are killed in the order of their pids: a shell whose child goes first may start the next one.
    let killed = kill(&rig, &shim, init).await;
    assert!(
        (processes..=processes + more).contains(&killed),
        "{killed} of {processes}"
    );
    assert!(members.iter().all(|kin| !kin.id.alive()), "{members:?}");
    assert!(matches!(
        Shim::attach(&rig.dir()).await.expect("the folder is there"),
        Attached::Lost
    ));
}

#[tokio::test]
async fn leftovers_of_one_container_are_not_another_ones() {
    let _alone = alone().await;
    let (rig, other_rig) = (Rig::new(), Rig::new());
    let (shim, init) = rig.run(&rig.shell("exec sleep 1000")).await;
    let (other, other_init) = other_rig.run(&other_rig.shell("setsid sleep 1000 & wait")).await;
    eventually("both", || (other_rig.processes().len() == 2).then_some(())).await;
    let reused = ProcessId {
        start_time: other_init.start_time - 1,
        ..other_init
    };
    assert_eq!(kill(&rig, &shim, init).await, 1);
    kill_leftovers(rig.id(), &[reused]).await.expect("nothing resists");
    assert_eq!(other_rig.processes().len(), 2);
    assert!(other.stats().await.is_ok());
    assert!(pidfd::signal(other_init, libc::SIGKILL).expect("it is ours"));
    assert_eq!(other.wait().await.signal, Some(libc::SIGKILL));
}
