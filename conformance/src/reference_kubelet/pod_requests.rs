//! The CRI requests of a kubelet for a Pod, for a caller that calls a runtime without a kubelet.
//!
//! The reference kubelet uses the same translation. A test compares the requests with those of an unmodified kubelet
//! (`fixtures/kubelet/requests-v1.36.3.json`).

use std::{io, path::Path, path::PathBuf};

use cri_proto::runtime::v1 as cri;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Config, images::LocalImage, static_pod::translate};

/// Builds the requests for one Pod.
#[derive(Clone, Debug)]
pub(crate) struct PodRequests {
    config: Config,
    pod: Pod,
}

impl PodRequests {
    /// Prepares the requests for `pod`. Its logs and mounted files are created in `root`.
    ///
    /// The Pod must have a name, a namespace, a uid and a spec.
    pub(crate) fn new(root: &Path, pod: Pod) -> PodRequests {
        PodRequests {
            config: Config::new(root, ""),
            pod,
        }
    }

    /// Returns the sandbox configuration and creates the log directory of the Pod.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub(crate) fn sandbox(&self) -> io::Result<cri::PodSandboxConfig> {
        let sandbox = translate::sandbox(&self.config, &self.pod, 0);
        std::fs::create_dir_all(&sandbox.log_directory)?;
        Ok(sandbox)
    }

    /// Returns the configuration of the first run of a container; creates its log directory and mounted files.
    ///
    /// # Errors
    /// A directory or a file cannot be created.
    pub(crate) fn container(&self, container: &Container, image: &LocalImage) -> io::Result<cri::ContainerConfig> {
        let logs = translate::log_directory(&self.config, &self.pod).join(&container.name);
        std::fs::create_dir_all(logs)?;
        translate::container(&self.config, &self.pod, container, 0, image)
    }

    /// Returns the path of the log of the first run of a container.
    pub(crate) fn log(&self, container: &str) -> PathBuf {
        translate::log_directory(&self.config, &self.pod).join(translate::log_path(container, 0))
    }
}
