//! Starts a container: image, CreateContainer, StartContainer.

use cri_proto::runtime::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::super::Config;
use super::super::images::ImagePullError;
use super::super::runtime_connection::{CriError, RuntimeConnection};
use super::translate;

#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error(transparent)]
    Image(#[from] ImagePullError),
    #[error("failed to create the log directory or a file to mount: {0}")]
    Files(std::io::Error),
    #[error("failed to create container: {0}")]
    Create(CriError),
    #[error("failed to start container: {0}")]
    Start(CriError),
}

impl RunError {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Image(error) => error.reason(),
            Self::Files(_) => "CreateContainerConfigError",
            Self::Create(_) => "CreateContainerError",
            Self::Start(_) => "RunContainerError",
        }
    }
}

pub(super) async fn start_container(
    cri: &RuntimeConnection,
    config: &Config,
    pod: &Pod,
    container: &Container,
    sandbox_id: &str,
    sandbox_attempt: u32,
    attempt: u32,
) -> Result<(), RunError> {
    let sandbox = translate::sandbox(config, pod, sandbox_attempt);
    let image = container.image.as_deref().unwrap_or_default();
    let local = cri.ensure_image(image, &sandbox).await?;
    let log = translate::log_directory(config, pod).join(&container.name);
    std::fs::create_dir_all(log).map_err(RunError::Files)?;
    let container_config = translate::container(config, pod, container, attempt, &local).map_err(RunError::Files)?;
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: sandbox_id.to_owned(),
        config: Some(container_config),
        sandbox_config: Some(sandbox),
    };
    let container_id = cri
        .call(cri.timeout(), request)
        .await
        .map_err(RunError::Create)?
        .container_id;
    let request = cri::StartContainerRequest { container_id };
    cri.call(cri.timeout(), request).await.map_err(RunError::Start)?;
    Ok(())
}
