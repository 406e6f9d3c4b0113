//! The images of the runtime.

use std::time::Duration;

use cri_proto::runtime::v1::{Image, ImageSpec, ImageStatusRequest, PodSandboxConfig, PullImageRequest};

use super::runtime_connection::{CriError, RuntimeConnection};

/// The kubelet pulls images without a deadline; an hour is long enough here.
const PULL_TIMEOUT: Duration = Duration::from_secs(3600);

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
                let pulled = self.call(PULL_TIMEOUT, request).await;
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
        let status = self.call(self.timeout(), request).await;
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
