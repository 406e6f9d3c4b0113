//! A fake-cri of this build, and helpers for the tests of the CRI.
#![allow(dead_code, unreachable_pub, reason = "each test program uses only some of the items")]

use std::{collections::HashMap, time::Duration};

use cri_proto::runtime::v1::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use fake_cri::{FakeCri, FakeCriBuilder};
use tonic::{Code, Response, Status, transport::Channel};

/// The image of the test containers.
pub const IMAGE: &str = "localhost/test-workload:1";

/// A running fake-cri.
pub struct Cri {
    pub process: FakeCri,
}

/// A builder for a fake-cri of this build.
pub fn builder() -> FakeCriBuilder {
    FakeCri::builder().executable(env!("CARGO_BIN_EXE_fake-cri"))
}

/// Returns the code of a call that must fail.
#[track_caller]
pub fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.expect_err("the call fails").code()
}

/// A pod with this name in the namespace `default`.
pub fn pod_config(name: &str) -> v1::PodSandboxConfig {
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        ..Default::default()
    }
}

/// A container with this name and [`IMAGE`].
pub fn container_config(name: &str) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(image(IMAGE)),
        log_path: format!("{name}/0.log"),
        ..Default::default()
    }
}

pub fn image(name: &str) -> v1::ImageSpec {
    v1::ImageSpec {
        image: name.to_owned(),
        ..Default::default()
    }
}

impl Cri {
    pub async fn start() -> Cri {
        Cri::start_with(builder()).await
    }

    pub async fn start_with(builder: FakeCriBuilder) -> Cri {
        Cri {
            process: builder.start().await.expect("fake-cri starts"),
        }
    }

    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.process.runtime_client()
    }

    pub fn images(&self) -> ImageServiceClient<Channel> {
        self.process.image_client()
    }

    pub async fn run_pod(&self, config: v1::PodSandboxConfig) -> String {
        let request = v1::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: String::new(),
        };
        let response = self
            .runtime()
            .run_pod_sandbox(request)
            .await
            .expect("the pod is running");
        response.into_inner().pod_sandbox_id
    }

    pub async fn pod_status(&self, id: &str) -> Result<v1::PodSandboxStatus, Status> {
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        let response = self
            .runtime()
            .pod_sandbox_status(request)
            .await
            .map(Response::into_inner)?;
        Ok(response.status.expect("a status"))
    }

    pub async fn pull(&self, name: &str) -> Result<String, Status> {
        let request = v1::PullImageRequest {
            image: Some(image(name)),
            ..Default::default()
        };
        self.images()
            .pull_image(request)
            .await
            .map(|response| response.into_inner().image_ref)
    }

    /// Runs a pod with a log directory, and pulls [`IMAGE`].
    pub async fn pod(&self, name: &str) -> Pod<'_> {
        self.pod_with_config(pod_config(name)).await
    }

    pub async fn pod_with_config(&self, config: v1::PodSandboxConfig) -> Pod<'_> {
        self.pull(IMAGE).await.expect("the image is pulled");
        let logs = tempfile::tempdir().expect("a temporary directory");
        let config = v1::PodSandboxConfig {
            log_directory: logs.path().to_string_lossy().into_owned(),
            ..config
        };
        let id = self.run_pod(config).await;
        Pod { cri: self, id, logs }
    }

    pub async fn start_container(&self, id: &str) -> Result<(), Status> {
        let request = v1::StartContainerRequest {
            container_id: id.to_owned(),
        };
        self.runtime().start_container(request).await.map(drop)
    }

    pub async fn stop(&self, id: &str, timeout: i64) -> Result<(), Status> {
        let request = v1::StopContainerRequest {
            container_id: id.to_owned(),
            timeout,
        };
        self.runtime().stop_container(request).await.map(drop)
    }

    pub async fn remove(&self, id: &str) -> Result<(), Status> {
        let request = v1::RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        self.runtime().remove_container(request).await.map(drop)
    }

    pub async fn status(&self, id: &str) -> Result<v1::ContainerStatus, Status> {
        Ok(self.status_and_info(id).await?.0)
    }

    /// Returns the status and the verbose information.
    pub async fn status_and_info(&self, id: &str) -> Result<(v1::ContainerStatus, serde_json::Value), Status> {
        let request = v1::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        };
        let response = self.runtime().container_status(request).await?.into_inner();
        let info = serde_json::from_str(&response.info["info"]).expect("info is JSON");
        Ok((response.status.expect("a status"), info))
    }

    /// Returns the host pid of the init process; 0 if there is none.
    pub async fn pid(&self, id: &str) -> i32 {
        let (_, info) = self.status_and_info(id).await.expect("the container exists");
        i32::try_from(info["pid"].as_i64().expect("a number")).expect("a pid")
    }

    /// Polls until a container has exited.
    pub async fn wait_exited(&self, id: &str) -> v1::ContainerStatus {
        let exited = async {
            loop {
                let status = self.status(id).await.expect("the container exists");
                if status.state() == v1::ContainerState::ContainerExited {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(WAIT_TIMEOUT, exited)
            .await
            .expect("the container exits")
    }
}

/// The timeout of everything that is expected to happen soon.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// A pod and its log directory.
pub struct Pod<'a> {
    pub cri: &'a Cri,
    pub id: String,
    pub logs: tempfile::TempDir,
}

impl Pod<'_> {
    pub async fn create(&self, config: v1::ContainerConfig) -> Result<String, Status> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: None,
        };
        let response = self.cri.runtime().create_container(request).await?;
        Ok(response.into_inner().container_id)
    }

    /// Creates and starts a container.
    pub async fn run(&self, config: v1::ContainerConfig) -> String {
        let id = self.create(config).await.expect("the container is created");
        self.cri.start_container(&id).await.expect("the container starts");
        id
    }

    /// Waits until a line of the container's log contains `part`, and returns the log.
    pub async fn wait_logged(&self, name: &str, part: &str) -> String {
        let path = self.logs.path().join(name).join("0.log");
        let wait = async {
            loop {
                let log = std::fs::read_to_string(&path).unwrap_or_default();
                if log.lines().any(|line| line.contains(part)) {
                    return log;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(WAIT_TIMEOUT, wait).await {
            Ok(log) => log,
            Err(_) => panic!("{part:?} is not in {:?}", std::fs::read_to_string(&path)),
        }
    }
}

/// Annotations of fake-cri: the key `memory` becomes `fake-cri.dev/memory`.
pub fn annotated(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| (format!("fake-cri.dev/{key}"), (*value).to_owned()))
        .collect()
}

/// Whether a process exists and is not a zombie.
pub fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
    })
}
