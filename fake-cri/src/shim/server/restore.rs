//! Starts a container from a checkpoint archive.

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
    /// Restores the container in the main thread, which serves no request meanwhile: restored processes are killed when
    /// the thread that created them ends, and they must be children of this process.
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
