//! What a case takes as given before it judges: how far the archive could be read, what holds in it, and who says so when not.
//!
//! ```text
//!  whole -> criu -+-> config, spec, optional        the documents
//!                 '-> images -> tree -> maps         the images, their processes, those processes' memory
//! ```
//!
//! Each step that does not hold names the case that judges it, so that a wrong thing fails that case alone.

use cri_proto::{
    criu::message::{CoreEntry, MmEntry, PstreeEntry, VmaEntry},
    document::{ConfigDump, SpecDump},
};

use crate::{
    archive::{Images, InspectedArchive, ParsedDocument},
    engine::{Case, NonPass},
};

/// Where a demand comes from, named once.
pub(super) mod source {
    pub(in crate::suites::archive) const PAGE: &str = "Kubelet Checkpoint API page";
    pub(in crate::suites::archive) const TAR_FORMAT: &str =
        "Kubelet Checkpoint API page (tar format); POSIX pax, ustar interchange format";
    pub(in crate::suites::archive) const E2E: &str = "Kubernetes e2e test of the checkpoint endpoint";
    pub(in crate::suites::archive) const CHECKPOINTCTL: &str = "checkpointctl";
    pub(in crate::suites::archive) const SYMLINK_CVE: &str = "CVE-2026-53489";
    pub(in crate::suites::archive) const CDI_CVE: &str =
        "CVE-2026-53492: containerd restored CDI annotations of the archive";
    pub(in crate::suites::archive) const SPARSE_CVE: &str = "CVE-2025-58183";
}

/// A case out of its parts; the function judges and returns what it saw.
macro_rules! case {
    ($id:literal, $level:ident, $source:expr, $requirement:literal, $expected:literal, $check:expr) => {
        $crate::engine::Case::new(
            $crate::engine::CaseInfo {
                id: $id,
                requirement: $requirement,
                authority: $crate::engine::Authority::from_title($source),
                motivation: "",
                level: $crate::engine::Level::$level,
                expected: $expected,
            },
            |archive: &$crate::archive::InspectedArchive| {
                let check: fn(&$crate::archive::InspectedArchive) -> $crate::engine::CaseResult = $check;
                Box::pin(async move {
                    let result = check(archive);
                    if let Err($crate::engine::NonPass::Fail(_)) = result {
                        $crate::suites::archive::record_archive(archive);
                    }
                    result
                })
            },
        )
    };
}
pub(super) use case;

/// A case of this suite.
pub type ArchiveCase = Case<InspectedArchive>;

/// The archive was read to its end.
pub(super) fn require_complete(archive: &InspectedArchive) -> Result<(), NonPass> {
    if archive.is_complete() {
        Ok(())
    } else {
        Err(NonPass::Blocked("archive/tar/well-formed"))
    }
}

/// The archive is whole and in CRIU's format.
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

/// As [`criu`], and its images are no secret.
pub(super) fn require_unencrypted(archive: &InspectedArchive) -> Result<&Images, NonPass> {
    require_criu(archive)?;
    if archive.images.encrypted {
        return Err(NonPass::Blocked("archive/format/checkpoint-archive"));
    }
    Ok(&archive.images)
}

/// All images can be read, so that they can be held against each other.
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
        return Err(NonPass::Skip(format!(
            "the images are larger than this reader keeps, from {member} on"
        )));
    }
    Ok(images)
}

/// All images can be read, and there is a process tree.
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
        ParsedDocument::Missing => Err(NonPass::Skip(format!("there is no {name}"))),
    }
}

/// The first few of a list of complaints in one line; a pass with `seen` when there are none.
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

/// Complaints that are made one by one: the first few are kept in words, the others are counted. Archives choose how many there
/// are.
#[derive(Debug, Default)]
pub(super) struct Problems {
    shown: Vec<String>,
    omitted: usize,
}

impl Problems {
    /// One more.
    pub(super) fn add(&mut self, text: impl FnOnce() -> String) {
        if self.shown.len() < 4 {
            self.shown.push(text());
        } else {
            self.omitted += 1;
        }
    }

    /// A pass with `seen` when there are none.
    pub(super) fn into_result(self, actual: impl Into<String>) -> Result<String, NonPass> {
        let Self { shown, omitted } = self;
        pass_unless(
            shown.into_iter().chain(std::iter::repeat_n(String::new(), omitted)),
            actual,
        )
    }
}

/// The mappings of an address space, to be found by address however many there are.
pub(super) struct Mappings<'a>(Vec<&'a VmaEntry>);

impl<'a> Mappings<'a> {
    /// Mappings in order are judged elsewhere; here any order will do.
    pub(super) fn from_mm(mm: &'a MmEntry) -> Self {
        let mut vmas: Vec<_> = mm.vmas.iter().collect();
        vmas.sort_by_key(|vma| (vma.start, vma.end));
        Self(vmas)
    }

    /// The mapping at this address.
    pub(super) fn mapping_at(&self, address: u64) -> Option<&'a VmaEntry> {
        let after = self.0.partition_point(|vma| vma.start <= address);
        let vma = self.0.get(after.checked_sub(1)?)?;
        (address < vma.end).then_some(*vma)
    }
}

/// Whether the core image is of a zombie, which has nothing but it.
pub(super) fn is_dead_task(core: Option<&CoreEntry>) -> bool {
    /// `TASK_DEAD` and `COMPEL_TASK_ZOMBIE`.
    const DEAD_TASK_STATES: [u32; 2] = [2, 6];
    core.and_then(|core| core.tc.as_ref())
        .is_some_and(|tc| DEAD_TASK_STATES.contains(&tc.task_state))
}

/// Processes that live at the dump, with their leader's core image.
pub(super) fn live_processes(images: &Images) -> impl Iterator<Item = (&PstreeEntry, &CoreEntry)> {
    let cores = images
        .pstree
        .iter()
        .filter_map(|process| Some((process, images.cores.get(&process.pid)?)));
    cores.filter(|(_, core)| !is_dead_task(Some(core)))
}

/// The images, with a page map for every process that lives.
pub(super) fn require_pagemaps(archive: &InspectedArchive) -> Result<&Images, NonPass> {
    let images = require_process_tree(archive)?;
    let mut processes = live_processes(images);
    if images.pagemaps.is_empty() || processes.any(|(process, _)| !images.pagemaps.contains_key(&process.pid)) {
        return Err(NonPass::Blocked("archive/processes/pagemap-images"));
    }
    Ok(images)
}

/// Where a thread runs and where its stack is.
pub(super) fn ip_and_sp(core: &CoreEntry) -> Option<(u64, u64)> {
    let x86 = core.thread_info.as_ref().map(|info| (info.gpregs.ip, info.gpregs.sp));
    let arm = core.ti_aarch64.as_ref().map(|info| (info.gpregs.pc, info.gpregs.sp));
    x86.or(arm)
}
