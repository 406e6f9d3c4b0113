//! `checkpoint-conformance compare OLD.json NEW.json`

use std::path::PathBuf;

use clap::Args;

use super::{Failure, print};
use crate::{
    engine::exit,
    report::{compare, read},
};

/// Which reports.
#[derive(Clone, Debug, Args)]
pub(super) struct CompareArgs {
    /// The report.json of before; it may hold several reports
    #[arg(value_name = "OLD.json")]
    old: PathBuf,
    /// The report.json of after
    #[arg(value_name = "NEW.json")]
    new: PathBuf,
    /// Print Markdown
    #[arg(long)]
    markdown: bool,
}

impl CompareArgs {
    /// Prints what changed; 0 when nothing got worse, 1 when something did.
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
