//! A restored container is a container like any other.

use std::time::Duration;

use cri_proto::runtime::v1;

use crate::{
    cri::{Cri, PATIENCE, alive, annotated, builder, container_config},
    programs::{Program, checkpoint, host, missing, rest, said},
};

/// The processes below one, itself included.
fn family(pid: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children
        .split_whitespace()
        .flat_map(|child| family(child.parse().unwrap()));
    [pid].into_iter().chain(children).collect()
}

/// A process's number in the innermost namespace it is in.
fn inner(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("NSpid:")).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

async fn exec(cri: &Cri, id: &str, command: &[&str]) -> v1::ExecSyncResponse {
    let request = v1::ExecSyncRequest {
        container_id: id.to_owned(),
        cmd: command.iter().map(|word| (*word).to_owned()).collect(),
        timeout: 10,
    };
    cri.runtime().exec_sync(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn it_keeps_its_numbers_and_can_be_asked_and_stopped() {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = Program::build("family.c", &[], folder.path());
    let cri = host().await;
    let pod = cri.pod("life").await;
    let first = pod.run(program.config("first")).await;
    pod.logged("first", "step 60").await;
    let old = family(cri.pid(&first).await);
    assert_eq!(old.len(), 3);
    program.checkpoint_and_end(&pod, &first, "first").await;

    let second = pod.run(program.annotated("second")).await;
    let status = cri.status(&second).await.unwrap();
    assert_eq!(status.state(), v1::ContainerState::ContainerRunning);
    let pid = cri.pid(&second).await;
    let new = family(pid);
    assert_eq!(new.iter().map(|pid| inner(*pid)).collect::<Vec<_>>(), old);
    // Its environment says whose it is, as that of any container's process.
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let mark = format!("FAKE_CRI_CONTAINER={second}");
    assert!(
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == mark.as_bytes())
    );
    let answer = exec(&cri, &second, &["echo", "here"]).await;
    assert_eq!((answer.stdout.as_slice(), answer.exit_code), (&b"here\n"[..], 0));
    let request = v1::ContainerStatsRequest {
        container_id: second.clone(),
    };
    let stats = cri.runtime().container_stats(request).await.unwrap().into_inner();
    assert!(stats.stats.unwrap().memory.unwrap().rss_bytes.unwrap().value > 0);

    cri.stop(&second, 10).await.unwrap();
    let status = cri.ended(&second).await;
    assert_eq!(status.exit_code, 128 + libc::SIGTERM);
    assert!(!new.iter().any(|pid| alive(*pid)));
}

#[tokio::test]
async fn it_can_be_checkpointed_and_restored_again() {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut program = Program::build("signals.c", &[], folder.path());
    // Strictly: what a restored container has for its own is not missing from its archive.
    let builder = builder().exec_host().arg("--strict-capture");
    let cri = Cri::with(builder.fault("CheckpointContainer:freeze=leave-frozen")).await;
    let pod = cri.pod("again").await;
    let first = pod.run(program.config("first")).await;
    pod.logged("first", "step 10").await;
    let number = cri.pid(&first).await;
    program.checkpoint_and_end(&pod, &first, "first").await;
    let mut steps = said(&pod, "first").len() as u64;
    for name in ["second", "third"] {
        let restored = pod.run(program.restored(name)).await;
        assert_eq!(inner(cri.pid(&restored).await), number);
        let next = format!("step {}", steps + 5);
        pod.logged(name, &next).await;
        program.archive = folder.path().join(format!("{name}.tar"));
        steps += program.checkpoint_and_end(&pod, &restored, name).await;
    }
    program.go();
    let last = pod.run(program.restored("last")).await;
    cri.ended(&last).await;
    assert_eq!(said(&pod, "last"), rest(steps));
}

#[tokio::test]
async fn it_ends_with_its_shim_and_nothing_else_does() {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let program = Program::build("family.c", &[], folder.path());
    let cri = Cri::with(builder().exec_host().state_dir(state.path())).await;
    let pod = cri.pod("shim").await;
    let first = pod.run(program.config("first")).await;
    pod.logged("first", "step 60").await;
    // The first one runs on beside the one that goes on from it.
    checkpoint(&cri, &first, &program.archive).await.unwrap();
    let second = pod.run(program.restored("second")).await;
    let (old, new) = (family(cri.pid(&first).await), family(cri.pid(&second).await));
    assert_eq!((old.len(), new.len()), (3, 3));
    let status = std::fs::read_to_string(format!("/proc/{}/status", new[0])).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    let shim = nix::unistd::Pid::from_raw(parent.trim().parse().unwrap());
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).unwrap();
    let gone = async {
        while new.iter().any(|pid| alive(*pid)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("all of it ends");
    assert_eq!(cri.ended(&second).await.reason, "ShimDied");
    assert!(old.iter().all(|pid| alive(*pid)), "the one it was made from runs on");
}

/// One letter: what a process does.
fn state(pid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().chars().next().unwrap()
}

/// Waits until job control has a process stopped.
async fn stopped(pid: i32) {
    let stopped = async {
        while state(pid) != 'T' {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, stopped).await.expect("it is stopped");
}

#[tokio::test]
async fn what_was_stopped_stays_so_until_it_is_let_go() {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = Program::build("threads.c", &[], folder.path());
    let cri = Cri::with(builder().exec_host()).await;
    let pod = cri.pod("stopped").await;
    let first = pod.run(program.config("first")).await;
    pod.logged("first", "step 20").await;
    let pid = nix::unistd::Pid::from_raw(cri.pid(&first).await);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    stopped(pid.as_raw()).await;
    let steps = program.checkpoint_and_end(&pod, &first, "first").await;
    program.go();
    let second = pod.run(program.restored("second")).await;
    let pid = cri.pid(&second).await;
    stopped(pid).await;
    assert!(said(&pod, "second").is_empty());
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    cri.ended(&second).await;
    assert_eq!(said(&pod, "second"), rest(steps));
}

/// A parent whose children have ended each in its own way, and which asks how only when it is told to go on.
const BEREAVED: &str = r#"
import os, signal, sys, time
heard = []
signal.signal(signal.SIGCHLD, lambda number, frame: heard.append(number))
children = []
for way in ("code", "term", "kill"):
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if way == "code":
            os._exit(7)
        os.kill(os.getpid(), signal.SIGTERM if way == "term" else signal.SIGKILL)
        time.sleep(60)
    children.append(child)
    while len(heard) < len(children):
        time.sleep(0.002)
os.write(1, b"step 1\n")
while not os.path.exists(os.path.join(sys.argv[1], "go")):
    time.sleep(0.002)
for child in children:
    status = os.waitpid(child, 0)[1]
    os.write(1, b"%d\n" % status)
os.write(1, b"%d signals\n" % len(heard))
"#;

#[tokio::test]
async fn zombies_wait_for_their_parent() {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = Program::python(BEREAVED, folder.path());
    let cri = host().await;
    let pod = cri.pod("zombies").await;
    let first = pod.run(program.config("first")).await;
    pod.logged("first", "step 1").await;
    program.checkpoint_and_end(&pod, &first, "first").await;
    program.go();
    let second = pod.run(program.restored("second")).await;
    let status = cri.ended(&second).await;
    let expected = [
        (7 << 8).to_string(),
        libc::SIGTERM.to_string(),
        libc::SIGKILL.to_string(),
        "3 signals".to_owned(),
    ];
    assert_eq!(said(&pod, "second"), expected);
    assert_eq!(status.exit_code, 0);
}

#[tokio::test]
async fn a_stand_in_goes_on_with_its_memory() {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("checkpoint.tar");
    let cri = Cri::with(builder().fault("CheckpointContainer:freeze=leave-frozen")).await;
    let pod = cri.pod("stand-in").await;
    let options = [
        ("memory", "64Mi"),
        ("threads", "3"),
        ("children", "2"),
        ("files", "2"),
        ("canaries", "yes"),
    ];
    let config = v1::ContainerConfig {
        annotations: annotated(&options),
        ..container_config("first")
    };
    let first = pod.run(config).await;
    // Its children tell ticks of their own.
    pod.logged("first", " F tick 3 ").await;
    let old = family(cri.pid(&first).await);
    checkpoint(&cri, &first, &archive).await.unwrap();
    cri.stop(&first, 0).await.unwrap();
    cri.ended(&first).await;
    // `tick N pid=P start=S`: the next one, by the same process as it sees itself.
    let ticks = |name: &str| -> Vec<String> {
        said(&pod, name)
            .into_iter()
            .filter(|line| line.starts_with("tick "))
            .collect()
    };
    let last = ticks("first").pop().unwrap();
    let number: u64 = last.split(' ').nth(1).unwrap().parse().unwrap();
    let next = last.replacen(&format!("tick {number} "), &format!("tick {} ", number + 1), 1);

    let config = v1::ContainerConfig {
        annotations: annotated(&[("restore-from", &archive.to_string_lossy())]),
        ..container_config("second")
    };
    let second = pod.run(config).await;
    pod.logged("second", &format!(" F tick {} ", number + 2)).await;
    assert_eq!(ticks("second")[0], next);
    let new = family(cri.pid(&second).await);
    assert_eq!(new.iter().map(|pid| inner(*pid)).collect::<Vec<_>>(), old);
    cri.stop(&second, 10).await.unwrap();
    assert_eq!(cri.ended(&second).await.exit_code, 0);
}
