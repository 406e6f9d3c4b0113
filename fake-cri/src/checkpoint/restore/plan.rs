//! What a restore creates, as read from an archive and checked.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use cri_proto::criu::{
    message::{CoreEntry, FdinfoEntry, FileEntry, FsEntry, MmEntry, PstreeEntry},
    task_state,
};

use super::{
    Restorable,
    images::{CriuImages, PagesLocation},
};
use crate::process::NsPid;

/// The most open files: decoded entries take a multiple of their size in the image.
pub(super) const MAX_OPEN_FILES: usize = 1 << 18;

/// A process to restore.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) pstree_entry: PstreeEntry,
    /// The image of the thread-group leader, with the state of the whole process.
    pub(super) core: CoreEntry,
    /// The other threads, by tid.
    pub(super) threads: Vec<(NsPid, CoreEntry)>,
    /// `None` for a zombie.
    pub(super) live: Option<LiveTask>,
}

impl Task {
    pub(super) fn ns_pid(&self) -> NsPid {
        NsPid::from_raw(self.pstree_entry.pid)
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.core
            .tc
            .as_ref()
            .is_some_and(|task| task.task_state == task_state::STOPPED)
    }
}

/// The state of a process that is not a zombie.
#[derive(Debug)]
pub(super) struct LiveTask {
    pub(super) mm: MmEntry,
    pub(super) fs: FsEntry,
    pub(super) descriptors: Vec<FdinfoEntry>,
    pub(super) pages: PagePlan,
}

/// Everything that a restore creates.
#[derive(Debug)]
pub(super) struct RestorePlan {
    pub(super) images: CriuImages,
    pub(super) tasks: Vec<Task>,
    pub(super) files: HashMap<u32, FileEntry>,
    pub(super) shmem_segments: BTreeMap<u64, ShmemSegment>,
}

impl RestorePlan {
    pub(super) fn into_restorable(self) -> Restorable {
        let documents = self.images.documents;
        Restorable {
            unsupported: documents.unsupported,
            spec: documents.spec,
        }
    }

    pub(super) fn vma_ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let live_tasks = self.tasks.iter().filter_map(|task| task.live.as_ref());
        live_tasks
            .flat_map(|live| live.mm.vmas.iter())
            .map(|vma| vma.start..vma.end)
    }
}

/// The pages of an address space or of a shared memory segment.
#[derive(Debug)]
pub(super) struct PagePlan {
    pub(super) file: PagesLocation,
    /// Address range of each run, in ascending order. The runs are contiguous in the pages file.
    pub(super) runs: Vec<Range<u64>>,
}

#[derive(Debug)]
pub(super) struct ShmemSegment {
    pub(super) size: u64,
    pub(super) pages: Option<PagePlan>,
}
