//! The subcommand `findings REPORT.json... > docs/FINDINGS.md`.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, print};
use crate::{
    engine::exit,
    report::{findings, notes, read, stale_notes},
};

#[derive(Clone, Debug, Args)]
pub(super) struct FindingsArgs {
    /// The report.json of each target, in the order of the document
    #[arg(required = true, value_name = "REPORT.json")]
    reports: Vec<PathBuf>,
    /// Manual confirmations: a TOML file, or a directory of TOML files; can be repeated
    #[arg(long, value_name = "PATH")]
    confirmed: Vec<PathBuf>,
}

impl FindingsArgs {
    /// Prints the document. Returns 1 when a note matches no failure.
    pub(super) fn run(self) -> Result<u8, Failure> {
        let mut reports = Vec::new();
        for path in &self.reports {
            reports.extend(read(path).map_err(|error| Failure::Usage(error.to_string()))?);
        }
        let mut confirmed = Vec::new();
        for path in &self.confirmed {
            confirmed.extend(notes(path).map_err(|error| Failure::Usage(error.to_string()))?);
        }
        print(&findings(&reports, &confirmed))?;
        let unused = stale_notes(&reports, &confirmed);
        for note in &unused {
            eprintln!(
                "checkpoint-conformance: the note on {} of {:?} matches no failure of these reports",
                note.case, note.target
            );
        }
        Ok(if unused.is_empty() { exit::PASS } else { exit::FAIL })
    }
}
