//! A fake-cri of this build, and what the tests of the CRI ask of it over and over.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use cri_proto::runtime::v1::{
    self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use fake_cri::{FakeCri, FakeCriBuilder};
use tonic::{Code, Response, Status, transport::Channel};

/// The image that containers of these tests have.
pub const IMAGE: &str = "localhost/stand-in:1";

/// A running fake-cri.
pub struct Cri {
    pub process: FakeCri,
}

/// Options for a fake-cri of this build.
pub fn builder() -> FakeCriBuilder {
    FakeCri::builder().executable(env!("CARGO_BIN_EXE_fake-cri"))
}

/// The code of a call that should have failed.
#[track_caller]
pub fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.expect_err("the call should have failed").code()
}

/// A pod of this name in the namespace `default`.
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

/// A container of this name with [`IMAGE`].
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

/// An image by its name.
pub fn image(name: &str) -> v1::ImageSpec {
    v1::ImageSpec {
        image: name.to_owned(),
        ..Default::default()
    }
}

impl Cri {
    pub async fn start() -> Cri {
        Cri::with(builder()).await
    }

    pub async fn with(builder: FakeCriBuilder) -> Cri {
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
        let answer = self.runtime().run_pod_sandbox(request).await.expect("the pod runs");
        answer.into_inner().pod_sandbox_id
    }

    pub async fn pod_status(&self, id: &str) -> Result<v1::PodSandboxStatus, Status> {
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        let answer = self
            .runtime()
            .pod_sandbox_status(request)
            .await
            .map(Response::into_inner)?;
        Ok(answer.status.expect("a status has a status"))
    }

    pub async fn pull(&self, name: &str) -> Result<String, Status> {
        let request = v1::PullImageRequest {
            image: Some(image(name)),
            ..Default::default()
        };
        self.images()
            .pull_image(request)
            .await
            .map(|answer| answer.into_inner().image_ref)
    }
}
