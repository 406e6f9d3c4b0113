//! The subcommand `compare OLD.json NEW.json`.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, print};
use crate::{
    engine::exit,
    report::{compare, read},
};

#[derive(Clone, Debug, Args)]
pub(super) struct CompareArgs {
    /// The old report.json, with one or several reports
    #[arg(value_name = "OLD.json")]
    old: PathBuf,
    /// The new report.json
    #[arg(value_name = "NEW.json")]
    new: PathBuf,
    /// Print Markdown instead of plain text
    #[arg(long)]
    markdown: bool,
}

impl CompareArgs {
    /// Prints the changes. Returns 1 when the new report is worse, else 0.
    pub(super) fn run(self) -> Result<u8, Failure> {
        let old = read(&self.old).map_err(|error| Failure::Usage(error.to_string()))?;
        let new = read(&self.new).map_err(|error| Failure::Usage(error.to_string()))?;
        let comparison = compare(&old, &new);
        print(&if self.markdown {
            comparison.markdown()
        } else {
            comparison.text()
        })?;
        Ok(if comparison.is_worse() { exit::FAIL } else { exit::PASS })
    }
}
