//! The executable: flags, sockets, shutdown.

use crate::cri;

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use cri::{Cri, IMAGE, alive, container_config, pod_config};
use cri_proto::runtime::v1;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rstest::rstest;

fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_fake-cri"))
}

/// A fake-cri that runs until it gets a signal.
struct ServeChild(Child);

impl ServeChild {
    fn start(dir: &Path, args: &[&str]) -> ServeChild {
        let mut child = command()
            .arg("serve")
            .arg("--listen")
            .arg(format!("unix://{}/cri.sock", dir.display()))
            .arg("--state-dir")
            .arg(dir.join("state"))
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.starts_with("fake-cri listens on unix://"), "{line:?}");
        ServeChild(child)
    }

    fn stop(mut self, signal: Signal) -> Option<i32> {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
        self.0.wait().unwrap().code()
    }
}

async fn runtime(dir: &Path) -> v1::runtime_service_client::RuntimeServiceClient<tonic::transport::Channel> {
    let endpoint = format!("unix://{}/cri.sock", dir.display());
    v1::runtime_service_client::RuntimeServiceClient::connect(endpoint)
        .await
        .unwrap()
}

/// Runs a container and returns its pid.
async fn run_container(dir: &Path) -> i32 {
    let mut runtime = runtime(dir).await;
    let endpoint = format!("unix://{}/cri.sock", dir.display());
    let mut images = v1::image_service_client::ImageServiceClient::connect(endpoint)
        .await
        .unwrap();
    let request = v1::PullImageRequest {
        image: Some(cri::image(IMAGE)),
        ..Default::default()
    };
    images.pull_image(request).await.unwrap();
    let request = v1::RunPodSandboxRequest {
        config: Some(pod_config("web")),
        ..Default::default()
    };
    let pod = runtime
        .run_pod_sandbox(request)
        .await
        .unwrap()
        .into_inner()
        .pod_sandbox_id;
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: pod,
        config: Some(container_config("app")),
        sandbox_config: None,
    };
    let container_id = runtime
        .create_container(request)
        .await
        .unwrap()
        .into_inner()
        .container_id;
    let request = v1::StartContainerRequest {
        container_id: container_id.clone(),
    };
    runtime.start_container(request).await.unwrap();
    let request = v1::ContainerStatusRequest {
        container_id,
        verbose: true,
    };
    let info = runtime.container_status(request).await.unwrap().into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    i32::try_from(info["pid"].as_i64().unwrap()).unwrap()
}

#[rstest]
#[case(Signal::SIGTERM)]
#[case(Signal::SIGINT)]
#[tokio::test]
async fn containers_survive_a_runtime_restart(#[case] signal: Signal) {
    let dir = tempfile::tempdir().unwrap();
    let serving = ServeChild::start(dir.path(), &[]);
    let pid = run_container(dir.path()).await;
    let socket = dir.path().join("cri.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        std::fs::metadata(dir.path().join("state")).unwrap().mode() & 0o777,
        0o700
    );
    assert_eq!(serving.stop(signal), Some(0));
    assert!(alive(pid) && !socket.exists());

    let serving = ServeChild::start(dir.path(), &["--ephemeral"]);
    let containers = runtime(dir.path())
        .await
        .list_containers(v1::ListContainersRequest::default())
        .await;
    assert_eq!(containers.unwrap().into_inner().containers.len(), 1);
    assert_eq!(serving.stop(signal), Some(0));
    assert!(!alive(pid));
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };

    let cri = Cri::start().await;
    let channel = tonic::transport::Endpoint::try_from(cri.process.endpoint())
        .unwrap()
        .connect()
        .await
        .unwrap();
    for service in ["", "runtime.v1.RuntimeService", "runtime.v1.ImageService"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let status = HealthClient::new(channel.clone())
            .check(request)
            .await
            .unwrap()
            .into_inner()
            .status();
        assert_eq!(status, ServingStatus::Serving, "{service}");
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(
        names.contains(&"runtime.v1.RuntimeService") && names.contains(&"runtime.v1.ImageService"),
        "{names:?}"
    );
}

#[rstest]
#[case(&["serve", "--listen", "tcp://127.0.0.1:1"], "is not unix:///PATH")]
#[case(&["serve", "--checkpoint-rate", "fast"], "is not a rate")]
#[case(&["serve", "--checkpoint-jitter", "200%"], "from 0% to 100%")]
#[case(&["serve", "--exec", "sandbox"], "test-workload")]
#[case(&["serve", "--fault", "Nonsense("], "--fault")]
#[case(&["fly"], "fly")]
fn a_usage_error_exits_with_2(#[case] args: &[&str], #[case] expected: &str) {
    let output = command().args(args).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains(expected), "{text}");
}

#[test]
fn a_failure_exits_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let output = command()
        .args(["serve", "--images", "/no/such/file", "--listen"])
        .arg(dir.path().join("cri.sock"))
        .arg("--state-dir")
        .arg(dir.path().join("state"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("/no/such/file"), "{text}");
}

#[test]
fn without_xdg_the_error_names_the_needed_flag() {
    if nix::unistd::geteuid().is_root() {
        // The default paths of root must not be touched by a test.
        return;
    }
    let output = command().arg("serve").env_remove("XDG_RUNTIME_DIR").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--listen is needed"));
}
