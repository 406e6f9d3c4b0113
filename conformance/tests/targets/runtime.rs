//! The runtime target: it leaves nothing in the runtime, however a run ends.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use cri_proto::runtime::v1::{
    ListContainersRequest, ListPodSandboxRequest, PodSandboxConfig, PodSandboxMetadata, RunPodSandboxRequest,
};
use fake_cri::{FakeCri, FakeCriBuilder};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rstest::rstest;

const HARNESS_BINARY: &str = env!("CARGO_BIN_EXE_checkpoint-conformance");
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// A case that creates a container and checkpoints it with a delay.
const SLOW_CASE: &str = "runtime/checkpoint/succeeds";

/// A fake-cri that the test starts, not the harness.
fn fake_cri() -> FakeCriBuilder {
    FakeCri::builder().executable(HARNESS_BINARY)
}

/// A command of the harness, with `tmp` as the directory for temporary files.
fn harness_command(tmp: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(HARNESS_BINARY);
    command.args(args).env("TMPDIR", tmp).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn text(output: &Output) -> String {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    lossy(&output.stdout) + &lossy(&output.stderr)
}

fn file_names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

async fn pods(cri: &FakeCri) -> Vec<String> {
    let mut client = cri.runtime_client();
    let answer = client.list_pod_sandbox(ListPodSandboxRequest::default());
    let items = answer.await.unwrap().into_inner().items;
    items.into_iter().map(|pod| pod.metadata.unwrap().name).collect()
}

/// Waits until the harness has a container in the runtime.
async fn wait_for_container(cri: &FakeCri, harness: &mut Child) {
    let started_at = Instant::now();
    let mut client = cri.runtime_client();
    loop {
        let answer = client.list_containers(ListContainersRequest::default());
        if !answer.await.unwrap().into_inner().containers.is_empty() {
            return;
        }
        assert!(harness.try_wait().unwrap().is_none(), "the harness exited early");
        assert!(
            started_at.elapsed() < STEP_TIMEOUT,
            "timeout: the harness created no container"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn send(signal: Signal, child: &Child) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

/// Starts a harness and waits until it is in a checkpoint to which this fake-cri never responds.
async fn start_hanging_run(cri: &FakeCri, tmp: &Path) -> Child {
    let endpoint = cri.endpoint();
    let args = ["runtime", "--runtime-endpoint", &endpoint, "--filter", SLOW_CASE];
    let mut child = harness_command(tmp, &args).spawn().unwrap();
    wait_for_container(cri, &mut child).await;
    child
}

async fn run_unrelated_pod(cri: &FakeCri) {
    let config = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "foreign".to_owned(),
            uid: "1".to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        labels: HashMap::from([("app".to_owned(), "web".to_owned())]),
        ..PodSandboxConfig::default()
    };
    let message = RunPodSandboxRequest {
        config: Some(config),
        ..RunPodSandboxRequest::default()
    };
    cri.runtime_client().run_pod_sandbox(message).await.unwrap();
}

#[test]
fn embedded_runtime_run_cleans_up() {
    let tmp = tempfile::tempdir().unwrap();
    let output = harness_command(tmp.path(), &["runtime", "--filter", "runtime/checkpoint/*"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("the embedded fake-cri"), "{}", text(&output));
    assert_eq!(file_names(tmp.path()), [""; 0]);
}

#[rstest]
#[case(Signal::SIGINT)]
#[case(Signal::SIGTERM)]
#[tokio::test]
async fn interrupted_run_cleans_up(#[case] signal: Signal) {
    let tmp = tempfile::tempdir().unwrap();
    let cri = fake_cri().fault("preset:hang-frozen").start().await.unwrap();
    run_unrelated_pod(&cri).await;
    let child = start_hanging_run(&cri, tmp.path()).await;
    send(signal, &child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("interrupted"), "{}", text(&output));
    assert_eq!(pods(&cri).await, ["foreign"]);
    assert_eq!(file_names(tmp.path()), [""; 0]);
    cri.shutdown().await;
}

#[tokio::test]
async fn clean_removes_only_leftovers_of_killed_runs() {
    let tmp = tempfile::tempdir().unwrap();
    let cri = fake_cri().fault("preset:hang-frozen").start().await.unwrap();
    run_unrelated_pod(&cri).await;
    let mut child = start_hanging_run(&cri, tmp.path()).await;
    send(Signal::SIGKILL, &child);
    child.wait().unwrap();
    assert_eq!(pods(&cri).await.len(), 2);
    fs::create_dir(tmp.path().join("checkpoint-conformance-not-ours")).unwrap();

    let endpoint = cri.endpoint();
    let output = harness_command(tmp.path(), &["runtime", "--runtime-endpoint", &endpoint, "--clean"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    for line in ["removed container ", "removed pod ", "removed directory "] {
        assert!(text(&output).contains(line), "{}", text(&output));
    }
    assert_eq!(pods(&cri).await, ["foreign"]);
    assert_eq!(file_names(tmp.path()), ["checkpoint-conformance-not-ours"]);

    let second_clean = harness_command(tmp.path(), &["clean", "--runtime-endpoint", &endpoint])
        .output()
        .unwrap();
    assert_eq!(text(&second_clean), "nothing to clean up\n");
    cri.shutdown().await;
}

#[tokio::test]
async fn frozen_container_is_unfrozen_and_reported() {
    let tmp = tempfile::tempdir().unwrap();
    let cri = fake_cri().fault("preset:left-frozen").start().await.unwrap();
    let endpoint = cri.endpoint();
    let args = ["runtime", "--runtime-endpoint", &endpoint, "--filter", SLOW_CASE];
    let output = harness_command(tmp.path(), &args).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let output_text = text(&output);
    assert!(
        output_text.contains("was left frozen: its processes are stopped by a signal"),
        "{output_text}"
    );
    assert!(output_text.contains("SIGCONT sent to it"), "{output_text}");
    assert_eq!(pods(&cri).await, [""; 0]);
    cri.shutdown().await;
}

#[tokio::test]
async fn missing_image_error_says_how_to_build_it() {
    let tmp = tempfile::tempdir().unwrap();
    let cri = fake_cri().arg("--strict-images").start().await.unwrap();
    let output = harness_command(tmp.path(), &["runtime", "--runtime-endpoint", &cri.endpoint()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(
        text(&output).contains("checkpoint-conformance image OUT.tar"),
        "{}",
        text(&output)
    );
    assert_eq!(file_names(tmp.path()), [""; 0]);
    cri.shutdown().await;
}

#[rstest]
#[case(&["runtime", "--runtime-endpoint", "unix:///nonexistent/cri.sock"], 3, "/nonexistent/cri.sock")]
#[case(&["runtime", "--runtime-endpoint", "tcp://127.0.0.1:1"], 3, "expected unix:///PATH")]
#[case(&["runtime", "--clean"], 2, "--runtime-endpoint")]
#[case(&["runtime", "--image", "busybox"], 2, "--runtime-endpoint")]
#[case(&["clean", "--runtime-endpoint", "unix:///nonexistent/cri.sock"], 3, "No such file or directory")]
fn names_the_unreachable_endpoint(#[case] args: &[&str], #[case] code: i32, #[case] words: &str) {
    let tmp = tempfile::tempdir().unwrap();
    let output = harness_command(tmp.path(), args).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", text(&output));
    assert!(text(&output).contains(words), "{}", text(&output));
    assert_eq!(file_names(tmp.path()), [""; 0]);
}
