//! The image of the containers: makes sure that the runtime has it, and detects what it can run.

use std::{collections::HashMap, time::Duration};

use cri_proto::runtime::v1::{Image, ImageSpec, ImageStatusRequest, PullImageRequest};

use super::{ContainerOptions, Runtime, WORKLOAD_IMAGE, WorkloadProgram, call, lifecycle::NAMESPACE};
use crate::{reference_kubelet::LocalImage, targets::TargetError};

/// Enough for a small image over a slow connection. The user waits for the pull.
const PULL_TIMEOUT: Duration = Duration::from_secs(120);

impl Runtime {
    /// Resolves the image, with its user. Pulls the image if the runtime does not have it.
    ///
    /// # Errors
    /// The image cannot be pulled. For [`WORKLOAD_IMAGE`] the error says how to create it.
    pub(super) async fn ensure_image(&self, image: &str) -> Result<LocalImage, TargetError> {
        let spec = ImageSpec {
            image: image.to_owned(),
            ..ImageSpec::default()
        };
        if let Some(existing) = self.image_status(&spec).await? {
            return Ok(to_local_image(existing));
        }
        let (_, sandbox) = self.pod_config(NAMESPACE, HashMap::new())?;
        let message = PullImageRequest {
            image: Some(spec.clone()),
            auth: None,
            sandbox_config: Some(sandbox),
        };
        let pulled = call(&self.cri, PULL_TIMEOUT, message);
        match pulled.await {
            Ok(pulled) => {
                let existing = self.image_status(&spec).await?.map(to_local_image).unwrap_or_default();
                Ok(LocalImage {
                    reference: pulled.image_ref,
                    ..existing
                })
            }
            Err(error) if image == WORKLOAD_IMAGE => Err(TargetError::NotReady(format!(
                "the runtime has no image {image} and cannot pull it: import it (checkpoint-conformance image \
                 OUT.tar; ctr -n k8s.io images import OUT.tar), or name another image with --image ({error})"
            ))),
            Err(error) => Err(TargetError::NotReady(format!(
                "the runtime has no image {image} and cannot pull it: {error}"
            ))),
        }
    }

    async fn image_status(&self, spec: &ImageSpec) -> Result<Option<Image>, TargetError> {
        let message = ImageStatusRequest {
            image: Some(spec.clone()),
            verbose: false,
        };
        let status = call(&self.cri, super::CALL_TIMEOUT, message);
        Ok(status.await?.image)
    }

    /// Detects what the image can run: the test workload, or else a shell.
    ///
    /// # Errors
    /// The image can run neither. The error contains the runtime's messages for both.
    pub(super) async fn detect_program(&self) -> Result<WorkloadProgram, TargetError> {
        let mut reasons = Vec::new();
        for program in [WorkloadProgram::TestWorkload, WorkloadProgram::Shell] {
            match self.run_program(program, ContainerOptions::new()).await {
                Ok(_) => {
                    self.reset().await?;
                    return Ok(program);
                }
                Err(error) => reasons.push(error.to_string()),
            }
            self.reset().await?;
        }
        Err(TargetError::NotReady(format!(
            "the image {} runs neither {} nor a shell workload: {}",
            self.image_name,
            super::WORKLOAD_PATH,
            reasons.join("; ")
        )))
    }
}

fn to_local_image(image: Image) -> LocalImage {
    LocalImage {
        reference: image.id,
        uid: image.uid.map(|uid| uid.value),
        username: image.username,
    }
}
