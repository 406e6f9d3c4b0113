//! The memory of the archive: `plan` says which pages a file holds, `copy` moves them.

mod copy;
mod plan;

pub(crate) use self::{
    copy::{PageTimes, ReservedPages, copy_pages},
    plan::{PageRun, PagesFile},
};
