//! Preconditions of the cases: how far the archive could be read, and which case checks a precondition that does not
//! hold.
//!
//! ```text
//!  require_complete -> require_criu -+-> require_config_dump, require_spec_dump, require_optional_document
//!                                    '-> require_images -> require_process_tree -> require_pagemaps
//! ```
//!
//! If a precondition does not hold, the result names the case that checks it. So one defect fails that case only.

use cri_proto::{
    criu::{
        message::{CoreEntry, MmEntry, PstreeEntry, VmaEntry},
        task_state,
    },
    document::{ConfigDump, SpecDump},
};

use crate::{
    archive::{Images, InspectedArchive, ParsedDocument},
    engine::{Case, CaseBuilder, Level, NonPass, case, skip},
};

/// A case of this suite.
pub type ArchiveCase = Case<InspectedArchive>;

/// A case that begins with [`require_criu`].
pub(super) const fn criu_case(id: &'static str, level: Level) -> CaseBuilder {
    case(id, level)
        .depends_on(&["archive/tar/well-formed"])
        .may_depend_on(&["archive/tar/not-empty", "archive/format/checkpoint-archive"])
}

/// A case that begins with [`require_process_tree`].
pub(super) const fn process_tree_case(id: &'static str, level: Level) -> CaseBuilder {
    case(id, level)
        .depends_on(IMAGES)
        .may_depend_on(&["archive/processes/pstree"])
}

/// Blocks the calling case unless the archive was read to its end.
pub(super) fn require_complete(archive: &InspectedArchive) -> Result<(), NonPass> {
    if archive.is_complete() {
        Ok(())
    } else {
        Err(NonPass::Blocked("archive/tar/well-formed"))
    }
}

/// Blocks the calling case unless the archive is complete and in CRIU's format.
pub(super) fn require_criu(archive: &InspectedArchive) -> Result<(), NonPass> {
    require_complete(archive)?;
    if archive.members.is_empty() {
        return Err(NonPass::Blocked("archive/tar/not-empty"));
    }
    if archive.is_criu() {
        return Ok(());
    }
    Err(NonPass::Blocked("archive/format/checkpoint-archive"))
}

/// As [`require_criu`], for archives whose images are not encrypted.
pub(super) fn require_unencrypted(archive: &InspectedArchive) -> Result<&Images, NonPass> {
    require_criu(archive)?;
    if archive.images.encrypted {
        return Err(NonPass::Blocked("archive/format/checkpoint-archive"));
    }
    Ok(&archive.images)
}

/// The cases that [`require_images`] depends on.
pub(super) const IMAGES: &[&str] = &[
    "archive/images/decodable",
    "archive/images/required-fields",
    "archive/images/not-empty",
];

/// Blocks the calling case unless all images can be read, so that images can be compared with each other.
pub(super) fn require_images(archive: &InspectedArchive) -> Result<&Images, NonPass> {
    let images = require_unencrypted(archive)?;
    if archive.member("checkpoint").is_none() && !images.has_any() {
        return Err(NonPass::Blocked("archive/images/decodable"));
    }
    if images.undecodable.count > 0 {
        return Err(NonPass::Blocked("archive/images/decodable"));
    }
    if images.missing_fields.count > 0 {
        return Err(NonPass::Blocked("archive/images/required-fields"));
    }
    if images.empty_images.count > 0 {
        return Err(NonPass::Blocked("archive/images/not-empty"));
    }
    if let Some(member) = &images.limit_reached {
        return skip(format!(
            "requires images within this reader's size limit, which {member} exceeds"
        ));
    }
    Ok(images)
}

/// Blocks the calling case unless all images can be read and there is a process tree.
pub(super) fn require_process_tree(archive: &InspectedArchive) -> Result<&Images, NonPass> {
    let images = require_images(archive)?;
    if images.pstree.is_empty() {
        return Err(NonPass::Blocked("archive/processes/pstree"));
    }
    Ok(images)
}

pub(super) fn require_config_dump(archive: &InspectedArchive) -> Result<&ConfigDump, NonPass> {
    require_criu(archive)?;
    archive
        .documents
        .config
        .parsed()
        .ok_or(NonPass::Blocked("archive/metadata/config-dump-valid"))
}

pub(super) fn require_spec_dump(archive: &InspectedArchive) -> Result<&SpecDump, NonPass> {
    require_criu(archive)?;
    archive
        .documents
        .spec
        .parsed()
        .ok_or(NonPass::Blocked("archive/metadata/spec-dump-valid"))
}

/// A document that an archive may lack.
pub(super) fn require_optional_document<'a, T>(
    archive: &InspectedArchive,
    document: &'a ParsedDocument<T>,
    name: &str,
    blocking_case: &'static str,
) -> Result<&'a T, NonPass> {
    require_criu(archive)?;
    match document {
        ParsedDocument::Parsed(document) => Ok(document),
        ParsedDocument::Unreadable(_) => Err(NonPass::Blocked(blocking_case)),
        ParsedDocument::Missing => skip(format!("requires an archive with {name}")),
    }
}

/// Fails with the first few problems in one line, or passes with `actual` if there are none.
pub(super) fn pass_unless(
    problems: impl IntoIterator<Item = String>,
    actual: impl Into<String>,
) -> Result<String, NonPass> {
    let mut problems = problems.into_iter();
    let shown: Vec<_> = problems.by_ref().take(4).collect();
    if shown.is_empty() {
        return Ok(actual.into());
    }
    let omitted = problems.count();
    let omitted = if omitted > 0 {
        format!("; and {omitted} more")
    } else {
        String::new()
    };
    Err(NonPass::Fail(format!("{}{omitted}", shown.join("; "))))
}

/// Problems that are collected one by one. The first few are kept as text, the others are counted, because the archive
/// determines how many there are.
#[derive(Debug, Default)]
pub(super) struct Problems {
    shown: Vec<String>,
    omitted: usize,
}

impl Problems {
    /// Adds a problem. `text` is called only for the first few.
    pub(super) fn add(&mut self, text: impl FnOnce() -> String) {
        if self.shown.len() < 4 {
            self.shown.push(text());
        } else {
            self.omitted += 1;
        }
    }

    /// Passes with `actual` if there are no problems.
    pub(super) fn into_result(self, actual: impl Into<String>) -> Result<String, NonPass> {
        let Self { shown, omitted } = self;
        pass_unless(
            shown.into_iter().chain(std::iter::repeat_n(String::new(), omitted)),
            actual,
        )
    }
}

/// The mappings of an address space, sorted for a binary search by address.
pub(super) struct Mappings<'a>(Vec<&'a VmaEntry>);

impl<'a> Mappings<'a> {
    /// Sorts the mappings, because another case checks their order.
    pub(super) fn from_mm(mm: &'a MmEntry) -> Self {
        let mut vmas: Vec<_> = mm.vmas.iter().collect();
        vmas.sort_by_key(|vma| (vma.start, vma.end));
        Self(vmas)
    }

    pub(super) fn mapping_at(&self, address: u64) -> Option<&'a VmaEntry> {
        let after = self.0.partition_point(|vma| vma.start <= address);
        let vma = self.0.get(after.checked_sub(1)?)?;
        (address < vma.end).then_some(*vma)
    }
}

/// Whether the core image is that of a zombie, which has no other images.
pub(super) fn is_dead_task(core: Option<&CoreEntry>) -> bool {
    const DEAD_TASK_STATES: [u32; 2] = [task_state::DEAD, task_state::ZOMBIE];
    core.and_then(|core| core.tc.as_ref())
        .is_some_and(|tc| DEAD_TASK_STATES.contains(&tc.task_state))
}

/// The processes that were alive at the dump, with the core image of their leader.
pub(super) fn live_processes(images: &Images) -> impl Iterator<Item = (&PstreeEntry, &CoreEntry)> {
    let cores = images
        .pstree
        .iter()
        .filter_map(|process| Some((process, images.cores.get(&process.pid)?)));
    cores.filter(|(_, core)| !is_dead_task(Some(core)))
}

/// Blocks the calling case unless every live process has a page map.
pub(super) fn require_pagemaps(archive: &InspectedArchive) -> Result<&Images, NonPass> {
    let images = require_process_tree(archive)?;
    let mut processes = live_processes(images);
    if images.pagemaps.is_empty() || processes.any(|(process, _)| !images.pagemaps.contains_key(&process.pid)) {
        return Err(NonPass::Blocked("archive/processes/pagemap-images"));
    }
    Ok(images)
}

pub(super) fn ip_and_sp(core: &CoreEntry) -> Option<(u64, u64)> {
    let x86 = core.thread_info.as_ref().map(|info| (info.gpregs.ip, info.gpregs.sp));
    let arm = core.ti_aarch64.as_ref().map(|info| (info.gpregs.pc, info.gpregs.sp));
    x86.or(arm)
}
