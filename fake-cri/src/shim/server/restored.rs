//! The start of a container that goes on from its archive.

use std::{os::fd::AsFd, path::Path};

use super::{super::message::Refusal, Server, container::now};
use crate::{
    checkpoint::{
        Options,
        restore::{self, Request},
    },
    process::ProcessId,
};

impl Server {
    /// Restores the container. The main thread does it, and hears nobody meanwhile: what is restored ends with the thread that
    /// made it, and belongs to its process.
    pub(super) fn restore(&mut self, archive: &Path, options: Options) -> Result<(ProcessId, i64), Refusal> {
        let streams = self.streams()?;
        let request = Request {
            archive,
            options,
            container: &self.spec.container_id,
            streams: streams.given.each_ref().map(|fd| fd.as_fd()),
            folder: &self.spec.dir,
        };
        let started_at_ns = now();
        let restored = restore::restore(&request).map_err(|error| Refusal::Restore(error.to_string()))?;
        self.keeper = Some(restored.keeper);
        self.runs(restored.init, started_at_ns, streams);
        Ok((restored.init, started_at_ns))
    }
}
