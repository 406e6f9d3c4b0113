//! Tests the harness with an unmodified kubelet: its verdict, and that it restores the host.
//!
//! Needs root and a kubelet:
//! `KUBELET_BINARY=PATH cargo test -p checkpoint-conformance --test real_kubelet -- --ignored`.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{sys::signal, unistd::Pid};

/// The files that a kubelet changes outside its root directory.
const KERNEL_PARAMETERS: [&str; 3] = ["vm/overcommit_memory", "kernel/panic", "kernel/keys/root_maxkeys"];
const STEP_TIMEOUT: Duration = Duration::from_secs(120);

/// Returns the part of the host state that a kubelet changes.
#[derive(Debug, PartialEq, Eq)]
struct HostSnapshot {
    parameters: Vec<String>,
    links: Vec<String>,
    plugins: Vec<String>,
}

impl HostSnapshot {
    fn capture() -> HostSnapshot {
        let read = |name: &&str| fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default();
        let list = |directory: &str| {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let mut names: Vec<_> = entries
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        };
        HostSnapshot {
            parameters: KERNEL_PARAMETERS.iter().map(read).collect(),
            links: list("/var/log/containers"),
            plugins: list("/var/lib/kubelet/device-plugins"),
        }
    }
}

/// A command of the harness whose directories are in `tmp`.
fn start_harness(kubelet: &str, tmp: &Path, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_checkpoint-conformance"));
    command
        .args(["kubelet", "--kubelet-binary", kubelet, "--report-dir"])
        .arg(tmp.join("report"))
        .args(args);
    command.env("TMPDIR", tmp).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn assert_clean(tmp: &Path, before: &HostSnapshot) {
    assert_eq!(&HostSnapshot::capture(), before);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(tmp.to_str().unwrap()), "{mounts}");
    let directories: Vec<_> = fs::read_dir(tmp)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(directories, ["report"]);
    for log in ["kubelet.log", "fake-cri.log"] {
        assert!(tmp.join("report").join(log).is_file(), "{log} was not kept");
    }
}

// One test, because the harness refuses to start a second kubelet on the machine.
#[test]
#[ignore = "needs a kubelet, named by KUBELET_BINARY, and root: ci/real-kubelet runs it"]
fn real_kubelet_run_restores_the_host() {
    let kubelet = std::env::var("KUBELET_BINARY").expect("KUBELET_BINARY is set");
    assert!(nix::unistd::geteuid().is_root(), "a kubelet needs root");
    // The kubelet removes a stale socket of an earlier kubelet, which would count as a change.
    let _ = fs::remove_file("/var/lib/kubelet/device-plugins/kubelet.sock");
    let before = HostSnapshot::capture();

    let tmp = tempfile::tempdir().unwrap();
    let output = start_harness(&kubelet, tmp.path(), &["--level", "documented"])
        .wait_with_output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}\n{errors}");
    assert!(text.contains("every selected documented case passed"), "{text}");
    assert!(text.contains("feature-gate"), "{text}");
    assert_clean(tmp.path(), &before);

    // Interrupt the harness while the kubelet runs.
    let tmp = tempfile::tempdir().unwrap();
    let child = start_harness(&kubelet, tmp.path(), &[]);
    let log = tmp.path().join("report/kubelet.log");
    let started_at = Instant::now();
    while !fs::read_to_string(&log)
        .unwrap_or_default()
        .contains("Starting to listen")
    {
        assert!(
            started_at.elapsed() < STEP_TIMEOUT,
            "timeout: the kubelet did not start"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    signal::kill(
        Pid::from_raw(i32::try_from(child.id()).unwrap()),
        signal::Signal::SIGINT,
    )
    .unwrap();
    let interrupted = child.wait_with_output().unwrap();
    assert_eq!(interrupted.status.code(), Some(3), "{interrupted:?}");
    assert_clean(tmp.path(), &before);
}
