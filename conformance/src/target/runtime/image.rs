//! The image of the containers: whether the runtime has it, and what it can run.

use std::time::Duration;

use cri_proto::runtime::v1::{ImageSpec, ImageStatusRequest, PullImageRequest};

use super::{ContainerOptions, IMAGE, Program, Runtime, call};
use crate::target::TargetError;

/// A small image over a slow line; a person waits meanwhile.
const PULL_WITHIN: Duration = Duration::from_secs(120);

impl Runtime {
    /// What to start `image` by: the reference of the image that the runtime has, or has after a pull.
    ///
    /// # Errors
    /// There is none; the error says how to make one.
    pub(super) async fn ensure_image(&self, image: &str) -> Result<String, TargetError> {
        let spec = ImageSpec {
            image: image.to_owned(),
            ..ImageSpec::default()
        };
        let mut client = self.cri.images();
        let ask = ImageStatusRequest {
            image: Some(spec.clone()),
            verbose: false,
        };
        let known = call("ImageStatus", super::ANSWER_WITHIN, ask, |request| async move {
            client.image_status(request).await
        });
        if let Some(known) = known.await?.image {
            return Ok(known.id);
        }
        let mut client = self.cri.images();
        let ask = PullImageRequest {
            image: Some(spec),
            ..PullImageRequest::default()
        };
        let pulled = call("PullImage", PULL_WITHIN, ask, |request| async move {
            client.pull_image(request).await
        });
        match pulled.await {
            Ok(pulled) => Ok(pulled.image_ref),
            Err(error) if image == IMAGE => Err(TargetError::NotReady(format!(
                "the runtime has no image {image}, which cannot be pulled: import it (checkpoint-conformance image \
                 OUT.tar; ctr -n k8s.io images import OUT.tar), or name another with --image ({error})"
            ))),
            Err(error) => Err(TargetError::NotReady(format!(
                "the runtime has no image {image}, and cannot pull it: {error}"
            ))),
        }
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
            self.image,
            super::STAND_IN,
            reasons.join("; ")
        )))
    }
}
