//! The cases of the archive suite: properties of any checkpoint archive, and of CRIU's image format.
//!
//! Every case checks an [`InspectedArchive`]; no case reads the file again. Each case begins with its preconditions:
//!
//! ```text
//!  format/..       the kind of input   <- blocks the cases from layout/.. on if it is no checkpoint archive
//!  file/..         the file itself
//!  tar/..          the tar             <- well-formed blocks all following cases if the tar cannot be read to its end
//!  members/..      each member         <- violations before that end are still reported
//!  layout/..       ┐
//!  metadata/..     │
//!  spec/..         ├ CRIU's image format and the engine's documents
//!  mounts/..       │
//!  images/..       ┘
//!  processes/.. memory/.. open-files/..   consistency of the images  <- blocked by images/.. if one cannot be read
//! ```
//!
//! So one defect fails only the cases about it. Cases that cannot be checked because of it are blocked.

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

/// All cases of the suite, in the order in which they run.
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
    // The cases share the target: they only look at the result of the inspection.
    let with_authorities = groups.concat().into_iter().map(|case| Case {
        info: archive_authority::with_authority(case.info),
        ..case
    });
    with_authorities.map(Case::shared).collect()
}

/// Runs every case in order, for callers that have an archive and no runner.
pub fn check_all(archive: &InspectedArchive) -> Vec<CaseRecord> {
    let check_one = |case: &ArchiveCase| {
        let started = std::time::Instant::now();
        // The future is ready on the first poll: cases of this suite await nothing.
        let result = (case.run)(archive).now_or_never();
        let outcome = result.map_or_else(
            || NonPass::Error("the case did not finish at once".to_owned()).into_outcome(),
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
    /// The inspected archive is never changed.
    fn reset(&self, _: ConfigReset) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl NonPass {
    fn into_outcome(self) -> Outcome {
        Outcome::from(Err(self))
    }
}
