//! The runtime target: what it makes in a runtime, and that nothing of it is left, however a run ends.

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

const HARNESS: &str = env!("CARGO_BIN_EXE_checkpoint-conformance");
const WITHIN: Duration = Duration::from_secs(30);
/// A case that makes a container and has a checkpoint of it take its time.
const LONG: &str = "runtime/checkpoint/ok";

/// A fake-cri that is not the harness's own.
fn fake_cri() -> FakeCriBuilder {
    FakeCri::builder().executable(HARNESS)
}

/// The harness, whose temporary folders are in `tmp`.
fn harness(tmp: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(HARNESS);
    command.args(args).env("TMPDIR", tmp).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn text(output: &Output) -> String {
    let of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    of(&output.stdout) + &of(&output.stderr)
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
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
async fn until_it_has_a_container(cri: &FakeCri, harness: &mut Child) {
    let began = Instant::now();
    let mut client = cri.runtime_client();
    loop {
        let answer = client.list_containers(ListContainersRequest::default());
        if !answer.await.unwrap().into_inner().containers.is_empty() {
            return;
        }
        assert!(harness.try_wait().unwrap().is_none(), "the harness has ended");
        assert!(began.elapsed() < WITHIN, "no container");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn send(signal: Signal, child: &Child) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

/// A harness in the middle of a checkpoint of this fake-cri, which never answers it.
async fn in_the_middle(cri: &FakeCri, tmp: &Path) -> Child {
    let endpoint = cri.endpoint();
    let args = ["runtime", "--endpoint", &endpoint, "--filter", LONG];
    let mut child = harness(tmp, &args).spawn().unwrap();
    until_it_has_a_container(cri, &mut child).await;
    child
}

async fn run_foreign_pod(cri: &FakeCri) {
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
    let ask = RunPodSandboxRequest {
        config: Some(config),
        ..RunPodSandboxRequest::default()
    };
    cri.runtime_client().run_pod_sandbox(ask).await.unwrap();
}

#[test]
fn the_embedded_runtime_is_judged_and_leaves_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let output = harness(tmp.path(), &["runtime", "--filter", "runtime/checkpoint/*"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("the embedded fake-cri"), "{}", text(&output));
    assert_eq!(names_in(tmp.path()), [""; 0]);
}

#[rstest]
#[case(Signal::SIGINT)]
#[case(Signal::SIGTERM)]
#[tokio::test]
async fn an_interrupted_run_leaves_nothing(#[case] signal: Signal) {
    let tmp = tempfile::tempdir().unwrap();
    let cri = fake_cri().fault("preset:hang-frozen").start().await.unwrap();
    run_foreign_pod(&cri).await;
    let child = in_the_middle(&cri, tmp.path()).await;
    send(signal, &child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(text(&output).contains("interrupted"), "{}", text(&output));
    assert_eq!(pods(&cri).await, ["foreign"]);
    assert_eq!(names_in(tmp.path()), [""; 0]);
    cri.shutdown().await;
}

#[tokio::test]
async fn what_a_killed_run_left_is_cleaned_and_nothing_else() {
    let tmp = tempfile::tempdir().unwrap();
    let cri = fake_cri().fault("preset:hang-frozen").start().await.unwrap();
    run_foreign_pod(&cri).await;
    let mut child = in_the_middle(&cri, tmp.path()).await;
    send(Signal::SIGKILL, &child);
    child.wait().unwrap();
    assert_eq!(pods(&cri).await.len(), 2);
    fs::create_dir(tmp.path().join("checkpoint-conformance-not-ours")).unwrap();

    let endpoint = cri.endpoint();
    let output = harness(tmp.path(), &["runtime", "--endpoint", &endpoint, "--clean"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    for what in ["removed container ", "removed pod ", "removed folder "] {
        assert!(text(&output).contains(what), "{}", text(&output));
    }
    assert_eq!(pods(&cri).await, ["foreign"]);
    assert_eq!(names_in(tmp.path()), ["checkpoint-conformance-not-ours"]);

    let again = harness(tmp.path(), &["clean", "--endpoint", &endpoint])
        .output()
        .unwrap();
    assert_eq!(text(&again), "nothing was left\n");
    cri.shutdown().await;
}

#[tokio::test]
async fn a_container_that_is_left_frozen_is_let_go_and_told() {
    let tmp = tempfile::tempdir().unwrap();
    let cri = fake_cri().fault("preset:left-frozen").start().await.unwrap();
    let endpoint = cri.endpoint();
    let args = ["runtime", "--endpoint", &endpoint, "--filter", LONG];
    let output = harness(tmp.path(), &args).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let told = text(&output);
    assert!(
        told.contains("was left frozen: its processes are stopped by a signal"),
        "{told}"
    );
    assert!(told.contains("SIGCONT sent to it"), "{told}");
    assert_eq!(pods(&cri).await, [""; 0]);
    cri.shutdown().await;
}

#[tokio::test]
async fn without_an_image_the_error_says_how_to_make_one() {
    let tmp = tempfile::tempdir().unwrap();
    let cri = fake_cri().arg("--strict-images").start().await.unwrap();
    let output = harness(tmp.path(), &["runtime", "--endpoint", &cri.endpoint()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    assert!(
        text(&output).contains("checkpoint-conformance image OUT.tar"),
        "{}",
        text(&output)
    );
    assert_eq!(names_in(tmp.path()), [""; 0]);
    cri.shutdown().await;
}

#[rstest]
#[case(&["runtime", "--endpoint", "unix:///nonexistent/cri.sock"], 3, "/nonexistent/cri.sock")]
#[case(&["runtime", "--endpoint", "tcp://127.0.0.1:1"], 3, "expected unix:///PATH")]
#[case(&["runtime", "--clean"], 2, "--endpoint")]
#[case(&["runtime", "--image", "busybox"], 2, "--endpoint")]
#[case(&["clean", "--endpoint", "unix:///nonexistent/cri.sock"], 3, "No such file or directory")]
fn what_cannot_be_reached_is_named(#[case] args: &[&str], #[case] code: i32, #[case] words: &str) {
    let tmp = tempfile::tempdir().unwrap();
    let output = harness(tmp.path(), args).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", text(&output));
    assert!(text(&output).contains(words), "{}", text(&output));
    assert_eq!(names_in(tmp.path()), [""; 0]);
}
