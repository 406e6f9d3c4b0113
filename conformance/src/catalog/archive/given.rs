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
    archive::{Document, Images, Inspected},
    case::{Case, Stop},
};

/// Where a demand comes from, named once.
pub(super) mod source {
    pub(in crate::catalog::archive) const PAGE: &str = "Kubelet Checkpoint API page";
    pub(in crate::catalog::archive) const POSIX: &str =
        "Kubelet Checkpoint API page (tar format); POSIX pax, ustar interchange format";
    pub(in crate::catalog::archive) const E2E: &str = "Kubernetes e2e test of the checkpoint endpoint";
    pub(in crate::catalog::archive) const CHECKPOINTCTL: &str = "checkpointctl";
    pub(in crate::catalog::archive) const LINK: &str = "CVE-2026-53489";
    pub(in crate::catalog::archive) const CDI: &str =
        "CVE-2026-53492: containerd restored CDI annotations of the archive";
    pub(in crate::catalog::archive) const SPARSE: &str = "CVE-2025-58183";
}

/// A case out of its parts; the function judges and returns what it saw.
macro_rules! case {
    ($id:literal, $level:ident, $source:expr, $clause:literal, $expected:literal, $judge:expr) => {
        $crate::case::Case::new(
            $crate::case::Clause {
                id: concat!("archive/", $id),
                clause: $clause,
                authority: $crate::case::Authority::titled($source),
                motivation: "",
                level: $crate::case::Level::$level,
                expected: $expected,
            },
            |archive: &$crate::archive::Inspected| {
                let judge: fn(&$crate::archive::Inspected) -> $crate::case::Judgement = $judge;
                Box::pin(async move {
                    let judgement = judge(archive);
                    if let Err($crate::case::Stop::Fail(_)) = judgement {
                        $crate::catalog::archive::exhibit(archive);
                    }
                    judgement
                })
            },
        )
    };
}
pub(super) use case;

/// A case of this suite.
pub type ArchiveCase = Case<Inspected>;

/// The archive was read to its end.
pub(super) fn whole(archive: &Inspected) -> Result<(), Stop> {
    if archive.is_complete() {
        Ok(())
    } else {
        Err(Stop::Blocked("archive/tar/well-formed"))
    }
}

/// The archive is whole and in CRIU's format.
pub(super) fn criu(archive: &Inspected) -> Result<(), Stop> {
    whole(archive)?;
    if archive.members.is_empty() {
        return Err(Stop::Blocked("archive/tar/not-empty"));
    }
    if archive.is_criu() {
        return Ok(());
    }
    Err(Stop::Blocked("archive/kind"))
}

/// As [`criu`], and its images are no secret.
pub(super) fn readable(archive: &Inspected) -> Result<&Images, Stop> {
    criu(archive)?;
    if archive.images.encrypted {
        return Err(Stop::Blocked("archive/kind"));
    }
    Ok(&archive.images)
}

/// All images can be read, so that they can be held against each other.
pub(super) fn images(archive: &Inspected) -> Result<&Images, Stop> {
    let images = readable(archive)?;
    if archive.member("checkpoint").is_none() && !images.has_any() {
        return Err(Stop::Blocked("archive/images/decode"));
    }
    if images.undecodable.count > 0 {
        return Err(Stop::Blocked("archive/images/decode"));
    }
    if images.missing.count > 0 {
        return Err(Stop::Blocked("archive/images/required-fields"));
    }
    if images.empty.count > 0 {
        return Err(Stop::Blocked("archive/images/not-empty"));
    }
    if let Some(member) = &images.beyond_bound {
        return Err(Stop::Skip(format!(
            "the images are larger than this reader keeps, from {member} on"
        )));
    }
    Ok(images)
}

/// All images can be read, and there is a process tree.
pub(super) fn tree(archive: &Inspected) -> Result<&Images, Stop> {
    let images = images(archive)?;
    if images.pstree.is_empty() {
        return Err(Stop::Blocked("archive/process/tree"));
    }
    Ok(images)
}

pub(super) fn config(archive: &Inspected) -> Result<&ConfigDump, Stop> {
    criu(archive)?;
    archive
        .documents
        .config
        .read()
        .ok_or(Stop::Blocked("archive/documents/config-dump"))
}

pub(super) fn spec(archive: &Inspected) -> Result<&SpecDump, Stop> {
    criu(archive)?;
    archive
        .documents
        .spec
        .read()
        .ok_or(Stop::Blocked("archive/documents/spec-dump"))
}

/// A document that an archive may lack.
pub(super) fn optional<'a, T>(
    archive: &Inspected,
    document: &'a Document<T>,
    name: &str,
    judged_by: &'static str,
) -> Result<&'a T, Stop> {
    criu(archive)?;
    match document {
        Document::Read(document) => Ok(document),
        Document::Unreadable(_) => Err(Stop::Blocked(judged_by)),
        Document::Missing => Err(Stop::Skip(format!("there is no {name}"))),
    }
}

/// The first few of a list of complaints in one line; a pass with `seen` when there are none.
pub(super) fn none(complaints: impl IntoIterator<Item = String>, seen: impl Into<String>) -> Result<String, Stop> {
    let mut complaints = complaints.into_iter();
    let shown: Vec<_> = complaints.by_ref().take(4).collect();
    if shown.is_empty() {
        return Ok(seen.into());
    }
    let more = complaints.count();
    let more = if more > 0 {
        format!("; and {more} more")
    } else {
        String::new()
    };
    Err(Stop::Fail(format!("{}{more}", shown.join("; "))))
}

/// Complaints that are made one by one: the first few are kept in words, the others are counted. Archives choose how many there
/// are.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    shown: Vec<String>,
    more: usize,
}

impl Complaints {
    /// One more.
    pub(super) fn add(&mut self, text: impl FnOnce() -> String) {
        if self.shown.len() < 4 {
            self.shown.push(text());
        } else {
            self.more += 1;
        }
    }

    /// A pass with `seen` when there are none.
    pub(super) fn judge(self, seen: impl Into<String>) -> Result<String, Stop> {
        let Self { shown, more } = self;
        none(shown.into_iter().chain(std::iter::repeat_n(String::new(), more)), seen)
    }
}

/// The mappings of an address space, to be found by address however many there are.
pub(super) struct Mappings<'a>(Vec<&'a VmaEntry>);

impl<'a> Mappings<'a> {
    /// Mappings in order are judged elsewhere; here any order will do.
    pub(super) fn of(mm: &'a MmEntry) -> Self {
        let mut vmas: Vec<_> = mm.vmas.iter().collect();
        vmas.sort_by_key(|vma| (vma.start, vma.end));
        Self(vmas)
    }

    /// The mapping at this address.
    pub(super) fn at(&self, address: u64) -> Option<&'a VmaEntry> {
        let after = self.0.partition_point(|vma| vma.start <= address);
        let vma = self.0.get(after.checked_sub(1)?)?;
        (address < vma.end).then_some(*vma)
    }
}

/// Whether the core image is of a zombie, which has nothing but it.
pub(super) fn is_dead(core: Option<&CoreEntry>) -> bool {
    /// `TASK_DEAD` and `COMPEL_TASK_ZOMBIE`.
    const DEAD: [u32; 2] = [2, 6];
    core.and_then(|core| core.tc.as_ref())
        .is_some_and(|tc| DEAD.contains(&tc.task_state))
}

/// Processes that live at the dump, with their leader's core image.
pub(super) fn living(images: &Images) -> impl Iterator<Item = (&PstreeEntry, &CoreEntry)> {
    let cores = images
        .pstree
        .iter()
        .filter_map(|process| Some((process, images.cores.get(&process.pid)?)));
    cores.filter(|(_, core)| !is_dead(Some(core)))
}

/// The images, with a page map for every process that lives.
pub(super) fn maps(archive: &Inspected) -> Result<&Images, Stop> {
    let images = tree(archive)?;
    let mut living = living(images);
    if images.pagemaps.is_empty() || living.any(|(process, _)| !images.pagemaps.contains_key(&process.pid)) {
        return Err(Stop::Blocked("archive/process/pagemap"));
    }
    Ok(images)
}

/// Where a thread runs and where its stack is.
pub(super) fn pointers(core: &CoreEntry) -> Option<(u64, u64)> {
    let x86 = core.thread_info.as_ref().map(|info| (info.gpregs.ip, info.gpregs.sp));
    let arm = core.ti_aarch64.as_ref().map(|info| (info.gpregs.pc, info.gpregs.sp));
    x86.or(arm)
}
