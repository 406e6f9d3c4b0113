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
mod exhibit;
mod file;
mod files;
mod given;
mod images;
mod kind;
mod layout;
mod members;
mod memory;
mod mounts;
mod process;
mod secrets;
mod spec;
mod tar;

use futures_util::{FutureExt as _, future::BoxFuture};

use crate::{
    archive::Inspected,
    case::{Case, Configuration, Outcome, Record, Restore, Stop},
    catalog::archive_authority,
};

pub use exhibit::exhibit;
pub use given::ArchiveCase;

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
    let cited = groups.concat().into_iter().map(|case| Case {
        clause: archive_authority::cite(case.clause),
        ..case
    });
    cited.map(Case::shared).collect()
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
    fn restore(&self, _: Configuration) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Stop {
    fn into_outcome(self) -> Outcome {
        Outcome::from(Err(self))
    }
}
