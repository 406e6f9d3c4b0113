//! `stats-dump`: the times and page counts of a checkpoint, as CRIU's counters.

use std::time::Duration;

use cri_proto::criu::{
    Kind, encode,
    message::{DumpStatsEntry, StatsEntry},
};

use super::dump::ImageSet;

/// The times of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DumpTimes {
    /// Until all threads were stopped.
    pub(crate) freezing_time: Duration,
    /// From then to the thaw.
    pub(crate) frozen_time: Duration,
    /// Spent reading pages.
    pub(crate) memdump_time: Duration,
    /// Spent writing pages.
    pub(crate) memwrite_time: Duration,
}

impl DumpTimes {
    pub(crate) fn encode(&self, image_set: &ImageSet) -> Vec<u8> {
        let entry = StatsEntry {
            dump: Some(DumpStatsEntry {
                freezing_time: saturating_micros(self.freezing_time),
                frozen_time: saturating_micros(self.frozen_time),
                memdump_time: saturating_micros(self.memdump_time),
                memwrite_time: saturating_micros(self.memwrite_time),
                pages_scanned: image_set.pages_scanned,
                pages_skipped_parent: 0,
                pages_written: image_set.private_pages(),
                irmap_resolve: Some(0),
                pages_lazy: 0,
                page_pipes: Some(0),
                page_pipe_bufs: Some(0),
                shpages_scanned: Some(image_set.shared_pages_scanned),
                shpages_skipped_parent: Some(0),
                shpages_written: Some(image_set.pages() - image_set.private_pages()),
            }),
            restore: None,
        };
        encode(Kind::Stats, [&entry])
    }
}

/// CRIU counts microseconds in 32 bits: 71 minutes at most.
fn saturating_micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
