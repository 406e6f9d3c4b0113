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

use std::{collections::BTreeSet, sync::LazyLock, time::Instant};

use futures_util::future::BoxFuture;

use crate::{
    archive::InspectedArchive,
    engine::{
        Capabilities, Capability, CaseRecord, ConfigReset, NonPass, Outcome, Target, skip_reason,
        with_indirect_dependencies,
    },
};

pub use evidence::record_archive;
pub use preconditions::ArchiveCase;

/// All cases of the suite, in the order in which they run.
pub fn cases() -> Vec<ArchiveCase> {
    static CASES: LazyLock<Vec<ArchiveCase>> = LazyLock::new(|| {
        let topics = [
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
        with_indirect_dependencies(topics.concat())
    });
    CASES.clone()
}

/// Runs every case in order, for callers that have an archive and no runner. Each case finds out itself whether a case
/// that it depends on would fail.
pub fn check_all(archive: &InspectedArchive) -> Vec<CaseRecord> {
    let capabilities = capabilities(archive);
    let check_one = |case: &ArchiveCase| {
        let started = Instant::now();
        let result = match skip_reason(&case.info, &capabilities, &BTreeSet::new()) {
            Some(reason) => Err(reason),
            None => case
                .run_blocking(archive)
                .unwrap_or_else(|| Err(NonPass::Error("the case awaits something".to_owned()))),
        };
        CaseRecord {
            info: case.info,
            outcome: Outcome::from(result),
            duration: started.elapsed(),
            evidence: Vec::new(),
        }
    };
    cases().iter().map(check_one).collect()
}

fn capabilities(archive: &InspectedArchive) -> Capabilities {
    Capabilities::default()
        .with(Capability::ArchiveFile, archive.file.is_some())
        .with(Capability::KnownMemory, archive.memory.is_some())
        .with(Capability::KnownSecret, archive.secret_leaks.is_some())
}

impl Target for InspectedArchive {
    fn capabilities(&self) -> BoxFuture<'_, Capabilities> {
        Box::pin(std::future::ready(capabilities(self)))
    }

    /// The inspected archive is never changed.
    fn reset(&self, _: ConfigReset) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn record_failure(&self) {
        record_archive(self);
    }
}
