//! The CRI calls, each with the operation name of the kubelet's metrics.

use std::time::Duration;

use cri_proto::runtime::v1::*;

use super::runtime_connection::{CriError, RuntimeConnection};

/// The kubelet pulls images without a deadline; an hour is long enough here.
const PULL_TIMEOUT: Duration = Duration::from_secs(3600);

macro_rules! calls {
    ($($client:ident.$rpc:ident: $operation:literal, $request:ty => $response:ty;)*) => {
        impl RuntimeConnection {
            $(
                pub(crate) async fn $rpc(&self, deadline: Duration, message: $request) -> Result<$response, CriError> {
                    let mut client = self.$client();
                    self.call($operation, deadline, message, |request| async move { client.$rpc(request).await }).await
                }
            )*
        }
    };
}

calls! {
    runtime.version: "version", VersionRequest => VersionResponse;
    runtime.list_pod_sandbox: "list_podsandbox", ListPodSandboxRequest => ListPodSandboxResponse;
    runtime.run_pod_sandbox: "run_podsandbox", RunPodSandboxRequest => RunPodSandboxResponse;
    runtime.stop_pod_sandbox: "stop_podsandbox", StopPodSandboxRequest => StopPodSandboxResponse;
    runtime.remove_pod_sandbox: "remove_podsandbox", RemovePodSandboxRequest => RemovePodSandboxResponse;
    runtime.list_containers: "list_containers", ListContainersRequest => ListContainersResponse;
    runtime.container_status: "container_status", ContainerStatusRequest => ContainerStatusResponse;
    runtime.create_container: "create_container", CreateContainerRequest => CreateContainerResponse;
    runtime.start_container: "start_container", StartContainerRequest => StartContainerResponse;
    runtime.stop_container: "stop_container", StopContainerRequest => StopContainerResponse;
    runtime.remove_container: "remove_container", RemoveContainerRequest => RemoveContainerResponse;
    runtime.checkpoint_container: "checkpoint_container", CheckpointContainerRequest => CheckpointContainerResponse;
    images.image_status: "image_status", ImageStatusRequest => ImageStatusResponse;
    images.pull_image: "pull_image", PullImageRequest => PullImageResponse;
}

/// An image in the runtime, with the user of its configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LocalImage {
    /// The reference for CreateContainer.
    pub(crate) reference: String,
    pub(crate) uid: Option<i64>,
    /// The user name, for an image with a user name.
    pub(crate) username: String,
}

impl RuntimeConnection {
    /// Returns the image with its user, after a pull if the runtime does not have the image (pull policy IfNotPresent).
    pub(super) async fn ensure_image(
        &self,
        image: &str,
        sandbox: &PodSandboxConfig,
    ) -> Result<LocalImage, ImagePullError> {
        let image_spec = ImageSpec {
            image: image.to_owned(),
            annotations: sandbox.annotations.clone(),
            ..ImageSpec::default()
        };
        let local_image = self.inspect_image(image_spec.clone()).await?;
        let reference = match local_image {
            Some(local_image) => local_image.id,
            None => {
                let request = PullImageRequest {
                    image: Some(image_spec),
                    auth: None,
                    sandbox_config: Some(sandbox.clone()),
                };
                let pulled = self.pull_image(PULL_TIMEOUT, request).await;
                pulled.map_err(|e| ImagePullError::Pull(image.to_owned(), e))?.image_ref
            }
        };
        // The kubelet queries the user of the image by the name in the Pod, without annotations.
        let pulled_image = ImageSpec {
            image: image.to_owned(),
            ..ImageSpec::default()
        };
        let user = self.inspect_image(pulled_image).await?.unwrap_or_default();
        Ok(LocalImage {
            reference,
            uid: user.uid.map(|uid| uid.value),
            username: user.username,
        })
    }

    async fn inspect_image(&self, image: ImageSpec) -> Result<Option<Image>, ImagePullError> {
        let request = ImageStatusRequest {
            image: Some(image),
            verbose: false,
        };
        let status = self.image_status(self.timeout(), request).await;
        Ok(status.map_err(ImagePullError::Inspect)?.image)
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ImagePullError {
    #[error("failed to inspect image: {0}")]
    Inspect(CriError),
    #[error("failed to pull image {0:?}: {1}")]
    Pull(String, CriError),
}

impl ImagePullError {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Inspect(_) => "ImageInspectError",
            Self::Pull(..) => "ErrImagePull",
        }
    }
}
