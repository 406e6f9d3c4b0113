//! The image of the containers: whether the runtime has it, and what it can run.

use std::{collections::HashMap, time::Duration};

use cri_proto::runtime::v1::{Image, ImageSpec, ImageStatusRequest, PullImageRequest};

use super::{ContainerOptions, IMAGE, Program, Runtime, call, life::NAMESPACE};
use crate::{reference::LocalImage, target::TargetError};

/// A small image over a slow line; a person waits meanwhile.
const PULL_WITHIN: Duration = Duration::from_secs(120);

impl Runtime {
    /// The image as a container is created from it, and its user; it is pulled when the runtime does not have it.
    ///
    /// # Errors
    /// There is none; the error says how to make one.
    pub(super) async fn ensure_image(&self, image: &str) -> Result<LocalImage, TargetError> {
        let spec = ImageSpec {
            image: image.to_owned(),
            ..ImageSpec::default()
        };
        if let Some(known) = self.image_status(&spec).await? {
            return Ok(local(known));
        }
        let (_, sandbox) = self.pod_config(NAMESPACE, HashMap::new())?;
        let mut client = self.cri.images();
        let ask = PullImageRequest {
            image: Some(spec.clone()),
            auth: None,
            sandbox_config: Some(sandbox),
        };
        let pulled = call("PullImage", PULL_WITHIN, ask, |request| async move {
            client.pull_image(request).await
        });
        match pulled.await {
            Ok(pulled) => {
                let known = self.image_status(&spec).await?.map(local).unwrap_or_default();
                Ok(LocalImage {
                    reference: pulled.image_ref,
                    ..known
                })
            }
            Err(error) if image == IMAGE => Err(TargetError::NotReady(format!(
                "the runtime has no image {image}, which cannot be pulled: import it (checkpoint-conformance image \
                 OUT.tar; ctr -n k8s.io images import OUT.tar), or name another with --image ({error})"
            ))),
            Err(error) => Err(TargetError::NotReady(format!(
                "the runtime has no image {image}, and cannot pull it: {error}"
            ))),
        }
    }

    async fn image_status(&self, spec: &ImageSpec) -> Result<Option<Image>, TargetError> {
        let mut client = self.cri.images();
        let ask = ImageStatusRequest {
            image: Some(spec.clone()),
            verbose: false,
        };
        let status = call("ImageStatus", super::ANSWER_WITHIN, ask, |request| async move {
            client.image_status(request).await
        });
        Ok(status.await?.image)
    }

    /// Finds out what the image has: the stand-in, or else a shell.
    ///
    /// # Errors
    /// Neither runs; the error says what the runtime said of both.
    pub(super) async fn find_program(&self) -> Result<Program, TargetError> {
        let mut reasons = Vec::new();
        for program in [Program::StandIn, Program::Shell] {
            match self.start(program, ContainerOptions::new()).await {
                Ok(_) => {
                    self.restore().await?;
                    return Ok(program);
                }
                Err(error) => reasons.push(error.to_string()),
            }
            self.restore().await?;
        }
        Err(TargetError::NotReady(format!(
            "the image {} has neither {} nor a shell that counts: {}",
            self.image_name,
            super::STAND_IN,
            reasons.join("; ")
        )))
    }
}

fn local(image: Image) -> LocalImage {
    LocalImage {
        reference: image.id,
        uid: image.uid.map(|uid| uid.value),
        username: image.username,
    }
}
