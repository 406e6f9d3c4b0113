//! ContainerStatus of a container.

use cri_proto::runtime::v1;

use super::{ContainerRecord, ContainerState};

impl ContainerRecord {
    /// The response of ContainerStatus without the verbose info.
    pub fn status(&self) -> v1::ContainerStatus {
        let (started_at, exit) = match &self.state {
            ContainerState::Created => (0, None),
            ContainerState::Running { started_at, .. } => (*started_at, None),
            ContainerState::Exited { started_at, exit } => (*started_at, Some(exit)),
        };
        v1::ContainerStatus {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.cri_state() as i32,
            created_at: self.created_at,
            started_at,
            finished_at: exit.map_or(0, |exit| exit.finished_at),
            exit_code: exit.map_or(0, |exit| exit.code),
            image: Some(v1::ImageSpec {
                image: self.image_name().to_owned(),
                ..self.config.image.clone().unwrap_or_default()
            }),
            image_ref: self.image_ref().to_owned(),
            reason: exit.map(|exit| exit.reason.clone()).unwrap_or_default(),
            message: exit.map(|exit| exit.message.clone()).unwrap_or_default(),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            // fake-cri mounts nothing.
            mounts: Vec::new(),
            log_path: self
                .log
                .as_ref()
                .map(|log| log.to_string_lossy().into_owned())
                .unwrap_or_default(),
            resources: Some(v1::ContainerResources {
                linux: Some(self.resources.clone()),
                windows: None,
            }),
            image_id: self.image.id.clone(),
            user: self.user().map(|user| v1::ContainerUser { linux: Some(user) }),
            stop_signal: self.config.stop_signal,
        }
    }

    /// The name of the image in the request. The kubelet sends the image id: then the first tag of the image, if it has
    /// one.
    pub fn image_name(&self) -> &str {
        match self.config.image.as_ref().map(|spec| spec.image.as_str()) {
            Some(name) if name != self.image.id => name,
            _ => self.image.repo_tags.first().unwrap_or(&self.image.id),
        }
    }

    /// The image reference with digest, or the image id if the image has no digest.
    pub fn image_ref(&self) -> &str {
        self.image.repo_digests.first().unwrap_or(&self.image.id)
    }
}
