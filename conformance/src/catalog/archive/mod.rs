//! The cases of the archive suite: what holds for any checkpoint archive, and what CRIU's format demands beside it.
//!
//! Every case judges an [`Inspected`] archive; none reads the file again. What a case needs comes first in it:
//!
//! ```text
//!  file/..        of the file itself
//!  tar/..         of the tar        <- all that follows is blocked by tar/well-formed when it cannot be read to its end
//!  members/..     of any member     <- but what was seen before that end is reported
//!  layout/..      ┐
//!  documents/..   │
//!  mounts/..      ├ of CRIU's format <- skipped for another one
//!  images/..      ┘
//!  process/.. memory/.. files/..    of images against each other <- blocked by images/.. when one cannot be read
//! ```
//!
//! So one wrong thing fails the cases that name it, and not those that merely could not be judged for it.

mod documents;
mod exhibit;
mod file;
mod files;
mod images;
mod layout;
mod members;
mod memory;
mod mounts;
mod process;
mod secrets;
mod tar;

use cri_proto::document::{ConfigDump, SpecDump};
use futures_util::{FutureExt as _, future::BoxFuture};

use crate::{
    archive::{Document, Images, Inspected},
    case::{Case, Outcome, Record, Restore, Stop},
};

pub use exhibit::exhibit;

/// Where a demand comes from, named once.
mod source {
    pub(super) const PAGE: &str = "Kubelet Checkpoint API page";
    pub(super) const POSIX: &str = "Kubelet Checkpoint API page (tar format); POSIX pax, ustar interchange format";
    pub(super) const E2E: &str = "Kubernetes e2e test of the checkpoint endpoint";
    pub(super) const CHECKPOINTCTL: &str = "checkpointctl";
    pub(super) const LINK: &str = "CVE-2026-53489";
    pub(super) const SPARSE: &str = "CVE-2025-58183";
}

/// A case out of its parts; the function judges and returns what it saw.
macro_rules! case {
    ($id:literal, $level:ident, $source:expr, $clause:literal, $expected:literal, $judge:expr) => {
        $crate::case::Case::new(
            $crate::case::Clause {
                id: concat!("archive/", $id),
                clause: $clause,
                source: $source,
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
use case;

/// A case of this suite.
pub type ArchiveCase = Case<Inspected>;

/// All cases of the suite, in the order in which they are judged.
pub fn cases() -> Vec<ArchiveCase> {
    let groups: [&[ArchiveCase]; 11] = [
        file::CASES,
        tar::CASES,
        members::CASES,
        layout::CASES,
        documents::CASES,
        mounts::CASES,
        images::CASES,
        process::CASES,
        memory::CASES,
        files::CASES,
        secrets::CASES,
    ];
    // They only look at what was read.
    groups.concat().into_iter().map(Case::shared).collect()
}

/// Judges every case, in order: for those who have an archive and no runner.
pub fn judge(archive: &Inspected) -> Vec<Record> {
    let judged = |case: &ArchiveCase| {
        let began = std::time::Instant::now();
        // The judgement is ready before it is asked for: an archive's cases wait for nothing.
        let judgement = (case.run)(archive).now_or_never();
        let outcome = judgement.map_or_else(
            || Stop::Error("the case waits".to_owned()).into_outcome(),
            Outcome::from,
        );
        Record {
            clause: case.clause,
            outcome,
            duration: began.elapsed(),
            exhibits: Vec::new(),
        }
    };
    cases().iter().map(judged).collect()
}

impl Restore for Inspected {
    /// What was read stays as it was.
    fn restore(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Stop {
    fn into_outcome(self) -> Outcome {
        Outcome::from(Err(self))
    }
}

/// The archive was read to its end.
fn whole(archive: &Inspected) -> Result<(), Stop> {
    if archive.is_complete() {
        Ok(())
    } else {
        Err(Stop::Blocked("archive/tar/well-formed"))
    }
}

/// The archive is whole and in CRIU's format.
fn criu(archive: &Inspected) -> Result<(), Stop> {
    whole(archive)?;
    if archive.members.is_empty() {
        return Err(Stop::Blocked("archive/tar/not-empty"));
    }
    if archive.is_criu() {
        return Ok(());
    }
    Err(Stop::Skip(
        "another format: no member is CRIU's or an engine's that uses CRIU".to_owned(),
    ))
}

/// All images can be read, so that they can be held against each other.
fn images(archive: &Inspected) -> Result<&Images, Stop> {
    criu(archive)?;
    let images = &archive.images;
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
fn tree(archive: &Inspected) -> Result<&Images, Stop> {
    let images = images(archive)?;
    if images.pstree.is_empty() {
        return Err(Stop::Blocked("archive/process/tree"));
    }
    Ok(images)
}

fn config(archive: &Inspected) -> Result<&ConfigDump, Stop> {
    criu(archive)?;
    archive
        .documents
        .config
        .read()
        .ok_or(Stop::Blocked("archive/documents/config-dump"))
}

fn spec(archive: &Inspected) -> Result<&SpecDump, Stop> {
    criu(archive)?;
    archive
        .documents
        .spec
        .read()
        .ok_or(Stop::Blocked("archive/documents/spec-dump"))
}

/// A document that an archive may lack.
fn optional<'a, T>(
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
fn none(complaints: impl IntoIterator<Item = String>, seen: impl Into<String>) -> Result<String, Stop> {
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
