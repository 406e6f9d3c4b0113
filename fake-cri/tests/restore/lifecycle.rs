//! A restored container behaves like any other container.

use std::time::Duration;

use cri_proto::runtime::v1;

use crate::{
    cri::{Cri, WAIT_TIMEOUT, alive, annotated, builder, container_config},
    programs::{TestProgram, checkpoint, host_exec_cri, remaining_steps, skip_reason, stdout_lines},
};

/// A process and its descendants.
fn process_tree(pid: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children
        .split_whitespace()
        .flat_map(|child| process_tree(child.parse().unwrap()));
    [pid].into_iter().chain(children).collect()
}

/// The pid in the innermost pid namespace.
fn innermost_pid(pid: i32) -> i32 {
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
async fn restored_container_keeps_pids_and_can_be_managed() {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = TestProgram::build("family.c", &[], dir.path());
    let cri = host_exec_cri().await;
    let pod = cri.pod("life").await;
    let first = pod.run(program.config("first")).await;
    pod.wait_logged("first", "step 60").await;
    let old = process_tree(cri.pid(&first).await);
    assert_eq!(old.len(), 3);
    program.checkpoint_and_stop(&pod, &first, "first").await;

    let second = pod.run(program.restored_by_annotation("second")).await;
    let status = cri.status(&second).await.unwrap();
    assert_eq!(status.state(), v1::ContainerState::ContainerRunning);
    let pid = cri.pid(&second).await;
    let new = process_tree(pid);
    assert_eq!(new.iter().map(|pid| innermost_pid(*pid)).collect::<Vec<_>>(), old);
    // The environment has the id of the container, as in any container process.
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let id_variable = format!("FAKE_CRI_CONTAINER_ID={second}");
    assert!(
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == id_variable.as_bytes())
    );
    let response = exec(&cri, &second, &["echo", "here"]).await;
    assert_eq!((response.stdout.as_slice(), response.exit_code), (&b"here\n"[..], 0));
    let request = v1::ContainerStatsRequest {
        container_id: second.clone(),
    };
    let stats = cri.runtime().container_stats(request).await.unwrap().into_inner();
    assert!(stats.stats.unwrap().memory.unwrap().rss_bytes.unwrap().value > 0);

    cri.stop(&second, 10).await.unwrap();
    let status = cri.wait_exited(&second).await;
    assert_eq!(status.exit_code, 128 + libc::SIGTERM);
    assert!(!new.iter().any(|pid| alive(*pid)));
}

#[tokio::test]
async fn restored_container_can_be_checkpointed_again() {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut program = TestProgram::build("signals.c", &[], dir.path());
    // Strict: the state that fake-cri gives a restored container must not be reported as unsupported.
    let builder = builder().exec_host().arg("--strict-capture");
    let cri = Cri::start_with(builder.fault("CheckpointContainer:freeze=leave-frozen")).await;
    let pod = cri.pod("again").await;
    let first = pod.run(program.config("first")).await;
    pod.wait_logged("first", "step 10").await;
    let pid = cri.pid(&first).await;
    program.checkpoint_and_stop(&pod, &first, "first").await;
    let mut steps = stdout_lines(&pod, "first").len() as u64;
    for name in ["second", "third"] {
        let restored = pod.run(program.restored_by_image(name)).await;
        assert_eq!(innermost_pid(cri.pid(&restored).await), pid);
        let next = format!("step {}", steps + 5);
        pod.wait_logged(name, &next).await;
        program.archive = dir.path().join(format!("{name}.tar"));
        steps += program.checkpoint_and_stop(&pod, &restored, name).await;
    }
    program.release();
    let last = pod.run(program.restored_by_image("last")).await;
    cri.wait_exited(&last).await;
    assert_eq!(stdout_lines(&pod, "last"), remaining_steps(steps));
}

#[tokio::test]
async fn restored_container_dies_with_its_shim() {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let program = TestProgram::build("family.c", &[], dir.path());
    let cri = Cri::start_with(builder().exec_host().state_dir(state.path())).await;
    let pod = cri.pod("shim").await;
    let first = pod.run(program.config("first")).await;
    pod.wait_logged("first", "step 60").await;
    // The original keeps running next to the restored container.
    checkpoint(&cri, &first, &program.archive).await.unwrap();
    let second = pod.run(program.restored_by_image("second")).await;
    let (old, new) = (
        process_tree(cri.pid(&first).await),
        process_tree(cri.pid(&second).await),
    );
    assert_eq!((old.len(), new.len()), (3, 3));
    let status = std::fs::read_to_string(format!("/proc/{}/status", new[0])).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    let shim = nix::unistd::Pid::from_raw(parent.trim().parse().unwrap());
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).unwrap();
    let all_exited = async {
        while new.iter().any(|pid| alive(*pid)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT_TIMEOUT, all_exited)
        .await
        .expect("all processes exit");
    assert_eq!(cri.wait_exited(&second).await.reason, "ShimDied");
    assert!(old.iter().all(|pid| alive(*pid)), "the original keeps running");
}

/// The state letter of a process.
fn process_state(pid: i32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().chars().next().unwrap()
}

/// Waits until job control has stopped a process.
async fn wait_stopped(pid: i32) {
    let stopped = async {
        while process_state(pid) != 'T' {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT_TIMEOUT, stopped)
        .await
        .expect("the process is stopped");
}

#[tokio::test]
async fn stopped_process_stays_stopped() {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = TestProgram::build("threads.c", &[], dir.path());
    let cri = Cri::start_with(builder().exec_host()).await;
    let pod = cri.pod("stopped").await;
    let first = pod.run(program.config("first")).await;
    pod.wait_logged("first", "step 20").await;
    let pid = nix::unistd::Pid::from_raw(cri.pid(&first).await);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    wait_stopped(pid.as_raw()).await;
    let steps = program.checkpoint_and_stop(&pod, &first, "first").await;
    program.release();
    let second = pod.run(program.restored_by_image("second")).await;
    let pid = cri.pid(&second).await;
    wait_stopped(pid).await;
    assert!(stdout_lines(&pod, "second").is_empty());
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    cri.wait_exited(&second).await;
    assert_eq!(stdout_lines(&pod, "second"), remaining_steps(steps));
}

/// A parent whose children have exited in different ways. It reaps them only after the restore.
const PARENT_OF_ZOMBIES: &str = r#"
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
async fn zombies_are_restored() {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = TestProgram::python(PARENT_OF_ZOMBIES, dir.path());
    let cri = host_exec_cri().await;
    let pod = cri.pod("zombies").await;
    let first = pod.run(program.config("first")).await;
    pod.wait_logged("first", "step 1").await;
    program.checkpoint_and_stop(&pod, &first, "first").await;
    program.release();
    let second = pod.run(program.restored_by_image("second")).await;
    let status = cri.wait_exited(&second).await;
    let expected = [
        (7 << 8).to_string(),
        libc::SIGTERM.to_string(),
        libc::SIGKILL.to_string(),
        "3 signals".to_owned(),
    ];
    assert_eq!(stdout_lines(&pod, "second"), expected);
    assert_eq!(status.exit_code, 0);
}

#[tokio::test]
async fn test_workload_keeps_its_memory() {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("checkpoint.tar");
    let cri = Cri::start_with(builder().fault("CheckpointContainer:freeze=leave-frozen")).await;
    let pod = cri.pod("test-workload").await;
    let options = [
        ("memory", "64Mi"),
        ("threads", "3"),
        ("children", "2"),
        ("open-files", "2"),
        ("canaries", "yes"),
    ];
    let config = v1::ContainerConfig {
        annotations: annotated(&options),
        ..container_config("first")
    };
    let first = pod.run(config).await;
    // The children log their own heartbeats.
    pod.wait_logged("first", " F heartbeat 3 ").await;
    let old = process_tree(cri.pid(&first).await);
    checkpoint(&cri, &first, &archive).await.unwrap();
    cri.stop(&first, 0).await.unwrap();
    cri.wait_exited(&first).await;
    // The restored process logs the next `heartbeat N pid=P start=S`, with the same pid and start time.
    let heartbeats = |name: &str| -> Vec<String> {
        stdout_lines(&pod, name)
            .into_iter()
            .filter(|line| line.starts_with("heartbeat "))
            .collect()
    };
    let last = heartbeats("first").pop().unwrap();
    let heartbeat: u64 = last.split(' ').nth(1).unwrap().parse().unwrap();
    let next = last.replacen(
        &format!("heartbeat {heartbeat} "),
        &format!("heartbeat {} ", heartbeat + 1),
        1,
    );

    let config = v1::ContainerConfig {
        annotations: annotated(&[("restore-from", &archive.to_string_lossy())]),
        ..container_config("second")
    };
    let second = pod.run(config).await;
    pod.wait_logged("second", &format!(" F heartbeat {} ", heartbeat + 2))
        .await;
    assert_eq!(heartbeats("second")[0], next);
    let new = process_tree(cri.pid(&second).await);
    assert_eq!(new.iter().map(|pid| innermost_pid(*pid)).collect::<Vec<_>>(), old);
    cri.stop(&second, 10).await.unwrap();
    assert_eq!(cri.wait_exited(&second).await.exit_code, 0);
}
