//! Which pages a pages file holds, in file order. The page maps of the processes decide, before a page is read.

use std::ops::Range;

use crate::process::{Pid, Tid, file_mapping::FileMapping, pagemap::PAGE_SIZE};

/// The content of one `pages-N.img`: memory runs in file order.
#[derive(Debug)]
pub(crate) struct PagesFile {
    pub(crate) name: String,
    /// Whether the file holds shared memory.
    pub(crate) shared: bool,
    pub(crate) runs: Vec<PageRun>,
    /// A mapping of a file whose pages are read through it. It must exist until they are read.
    #[expect(dead_code, reason = "kept for its Drop")]
    pub(crate) mapped_file: Option<FileMapping>,
}

/// Adjacent pages of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageRun {
    /// For the log.
    pub(crate) pid: Pid,
    /// A live thread of the process.
    pub(crate) proc_tid: Tid,
    pub(crate) range: Range<u64>,
    /// Whether fork does not preserve the pages, so that they must be read before the process resumes.
    pub(crate) not_forked: bool,
}

impl PageRun {
    pub(crate) fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

impl PagesFile {
    pub(crate) fn bytes(&self) -> u64 {
        self.runs.iter().map(PageRun::bytes).sum()
    }

    pub(crate) fn pages(&self) -> u64 {
        self.bytes() / PAGE_SIZE
    }
}
