//! `stats-dump`: what the checkpoint took, in CRIU's counters.

use std::time::Duration;

use cri_proto::criu::{
    Kind, encode,
    message::{DumpStatsEntry, StatsEntry},
};

use super::capture::Capture;

/// The times of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Until all threads stood still.
    pub(crate) freezing_time: Duration,
    /// From then until they were let go.
    pub(crate) frozen_time: Duration,
    /// Spent in reading pages.
    pub(crate) memdump_time: Duration,
    /// Spent in writing them.
    pub(crate) memwrite_time: Duration,
}

impl Times {
    /// The image.
    pub(crate) fn encode(&self, capture: &Capture) -> Vec<u8> {
        let entry = StatsEntry {
            dump: Some(DumpStatsEntry {
                freezing_time: micros(self.freezing_time),
                frozen_time: micros(self.frozen_time),
                memdump_time: micros(self.memdump_time),
                memwrite_time: micros(self.memwrite_time),
                pages_scanned: capture.pages_scanned,
                pages_skipped_parent: 0,
                pages_written: capture.private_pages(),
                irmap_resolve: Some(0),
                pages_lazy: 0,
                page_pipes: Some(0),
                page_pipe_bufs: Some(0),
                shpages_scanned: Some(capture.shared_pages_scanned),
                shpages_skipped_parent: Some(0),
                shpages_written: Some(capture.pages() - capture.private_pages()),
            }),
            restore: None,
        };
        encode(Kind::Stats, [&entry])
    }
}

/// Microseconds, as CRIU counts; more than an hour and eleven minutes does not fit.
fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
