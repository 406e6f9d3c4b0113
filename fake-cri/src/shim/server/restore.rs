//! The start of a container that goes on from its archive.

use std::{os::fd::AsFd, path::Path};

use super::{super::message::Refusal, ShimServer, container::now_ns};
use crate::{
    checkpoint::{
        RestoreOptions,
        restore::{self, RestoreRequest},
    },
    process::ProcessId,
};

impl ShimServer {
    /// Restores the container. The main thread does it, and hears nobody meanwhile: what is restored ends with the thread that
    /// made it, and belongs to its process.
    pub(super) fn restore(&mut self, archive: &Path, options: RestoreOptions) -> Result<(ProcessId, i64), Refusal> {
        let streams = self.open_streams()?;
        let request = RestoreRequest {
            archive,
            options,
            container_id: &self.spec.container_id,
            stdio: streams.container_fds.each_ref().map(|fd| fd.as_fd()),
            scratch_dir: &self.spec.dir,
        };
        let started_at_ns = now_ns();
        let restored = restore::restore(&request).map_err(|error| Refusal::Restore(error.to_string()))?;
        self.ns_init = Some(restored.ns_init);
        self.set_running(restored.init, started_at_ns, streams);
        Ok((restored.init, started_at_ns))
    }
}
