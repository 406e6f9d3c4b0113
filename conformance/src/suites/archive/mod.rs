//! The cases of the archive suite: what holds for any checkpoint archive, and what CRIU's format demands beside it.
//!
//! Every case judges an [`Inspected`] archive; none reads the file again. What a case needs comes first in it:
//!
//! ```text
//!  kind           what the input is   <- what is no checkpoint archive blocks all that is CRIU's or an engine's
//!  file/..        of the file itself
//!  tar/..         of the tar        <- all that follows is blocked by tar/well-formed when it cannot be read to its end
//!  members/..     of any member     <- but what was seen before that end is reported
//!  layout/..      ┐
//!  documents/..   │
//!  spec/..        │
//!  mounts/..      ├ of CRIU's format
//!  images/..      ┘
//!  process/.. memory/.. files/..    of images against each other <- blocked by images/.. when one cannot be read
//! ```
//!
//! So one wrong thing fails the cases that name it, and not those that merely could not be judged for it.

mod documents;
mod evidence;
mod file;
mod files;
mod images;
mod kind;
mod layout;
mod members;
mod memory;
mod mounts;
mod preconditions;
mod process;
mod secrets;
mod spec;
mod tar;

use futures_util::{FutureExt as _, future::BoxFuture};

use crate::{
    archive::InspectedArchive,
    engine::{Case, CaseRecord, ConfigReset, NonPass, Outcome, Reset},
    suites::archive_authority,
};

pub use evidence::record_archive;
pub use preconditions::ArchiveCase;

/// All cases of the suite, in the order in which they are judged.
pub fn cases() -> Vec<ArchiveCase> {
    let groups: [&[ArchiveCase]; 13] = [
        kind::CASES,
        file::CASES,
        tar::CASES,
        members::CASES,
        layout::CASES,
        documents::CASES,
        spec::CASES,
        mounts::CASES,
        images::CASES,
        process::CASES,
        memory::CASES,
        files::CASES,
        secrets::CASES,
    ];
    // They only look at what was read.
    let with_authorities = groups.concat().into_iter().map(|case| Case {
        info: archive_authority::with_authority(case.info),
        ..case
    });
    with_authorities.map(Case::shared).collect()
}

/// Judges every case, in order: for those who have an archive and no runner.
pub fn check_all(archive: &InspectedArchive) -> Vec<CaseRecord> {
    let check_one = |case: &ArchiveCase| {
        let started = std::time::Instant::now();
        // The judgement is ready before it is asked for: an archive's cases wait for nothing.
        let result = (case.run)(archive).now_or_never();
        let outcome = result.map_or_else(
            || NonPass::Error("the case waits".to_owned()).into_outcome(),
            Outcome::from,
        );
        CaseRecord {
            info: case.info,
            outcome,
            duration: started.elapsed(),
            evidence: Vec::new(),
        }
    };
    cases().iter().map(check_one).collect()
}

impl Reset for InspectedArchive {
    /// What was read stays as it was.
    fn reset(&self, _: ConfigReset) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl NonPass {
    fn into_outcome(self) -> Outcome {
        Outcome::from(Err(self))
    }
}
