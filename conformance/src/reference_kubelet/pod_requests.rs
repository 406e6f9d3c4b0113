//! The requests that a kubelet makes of a runtime for a Pod, for a caller that drives a runtime with no kubelet between.
//!
//! They come from the same translation as those of the reference kubelet, which a test compares with what an unmodified kubelet
//! sends (`fixtures/kubelet/requests-v1.36.3.json`).

use std::{io, path::Path, path::PathBuf};

use cri_proto::runtime::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{
    Config,
    runtime_calls::LocalImage,
    static_pod::{create_pod_directories, translate},
};

/// A Pod, as a kubelet with this root directory asks for it.
#[derive(Clone, Debug)]
pub(crate) struct PodRequests {
    config: Config,
    pod: Pod,
}

impl PodRequests {
    /// The requests for `pod`, whose logs and mounted files lie below `root`.
    ///
    /// The Pod needs a name, a namespace, a uid and a spec.
    pub(crate) fn new(root: &Path, pod: Pod) -> PodRequests {
        PodRequests {
            config: Config::new(root, ""),
            pod,
        }
    }

    /// The sandbox; makes the Pod's log directory.
    ///
    /// # Errors
    /// A directory could not be made.
    pub(crate) fn sandbox(&self) -> io::Result<cri::PodSandboxConfig> {
        create_pod_directories(&self.config, &self.pod)?;
        Ok(translate::sandbox(&self.config, &self.pod, 0))
    }

    /// The first run of a container; makes its log directory and the files that the kubelet mounts into it.
    ///
    /// # Errors
    /// A directory or a file could not be made.
    pub(crate) fn container(&self, container: &Container, image: &LocalImage) -> io::Result<cri::ContainerConfig> {
        let logs = translate::log_directory(&self.config, &self.pod).join(&container.name);
        std::fs::create_dir_all(logs)?;
        translate::container(&self.config, &self.pod, container, 0, image)
    }

    /// Where the first run of a container writes its log.
    pub(crate) fn log(&self, container: &str) -> PathBuf {
        translate::log_directory(&self.config, &self.pod).join(translate::log_path(container, 0))
    }
}
