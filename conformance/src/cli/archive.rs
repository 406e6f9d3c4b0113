//! `checkpoint-conformance archive FILE...`

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;
use jiff::Timestamp;

use super::{Failure, SelectionArgs, VerdictArgs, print};
use crate::{
    archive::{Expected, Inspected, Limits, inspect_file},
    case::{self, Record, Selection, Silent, Suite, exit},
    catalog::archive::cases,
    report::{Frame, Palette, Repeat, Report, Secrets, Target, Terminal},
};

/// Which archives, which cases, what decides.
#[derive(Clone, Debug, Args)]
pub(super) struct ArchiveArgs {
    /// The archives
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    verdict: VerdictArgs,
}

impl ArchiveArgs {
    /// Judges one archive after the other. With several, the worst verdict decides, and each has its folder of reports.
    pub(super) fn run(self, args: &[OsString]) -> Result<u8, Failure> {
        let selection = self.selection.selection()?;
        let terminal = Terminal {
            palette: Palette::of_stdout(),
            repeat: Repeat::from_args(args.iter().map(|arg| arg.to_string_lossy().into_owned())),
        };
        let mut codes = Vec::new();
        for (number, file) in self.files.iter().enumerate() {
            let report = self.judge(file, &selection)?;
            print(&terminal.render(&report))?;
            if let Some(folder) = &self.verdict.report_dir {
                let folder = if self.files.len() == 1 {
                    folder.clone()
                } else {
                    folder.join((number + 1).to_string())
                };
                report.write_to(&folder).map_err(anyhow::Error::from)?;
            }
            codes.push(report.verdict.exit_code(self.verdict.rules()));
        }
        Ok(worst(&codes))
    }

    fn judge(&self, file: &Path, selection: &Selection) -> Result<Report, Failure> {
        let (started, began) = (Timestamp::now(), Instant::now());
        let archive = inspect_file(file, &Expected::default(), Limits::default()).map_err(anyhow::Error::from)?;
        let records = run_selected(&archive, selection)?;
        let frame = Frame {
            target: Target {
                suite: Suite::Archive,
                kind: "file".to_owned(),
                description: format!("the archive {}", file.display()),
                endpoint: file.display().to_string(),
                container: String::new(),
                mutant: None,
            },
            started,
            duration: began.elapsed(),
            rules: self.verdict.rules(),
            archives_left: Vec::new(),
        };
        Ok(Report::new(frame, &records, &Secrets::default()))
    }
}

fn run_selected(archive: &Inspected, selection: &Selection) -> Result<Vec<Record>, Failure> {
    let mut cases = cases();
    cases.retain(|case| selection.takes(&case.clause));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(anyhow::Error::from)?;
    Ok(runtime.block_on(case::run(&cases, archive, &mut Silent)))
}

/// Error wins over fail, fail over incomplete, incomplete over a pass.
fn worst(codes: &[u8]) -> u8 {
    [exit::ERROR, exit::BROKEN, exit::INCOMPLETE]
        .into_iter()
        .find(|code| codes.contains(code))
        .unwrap_or(exit::HOLDS)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&[0, 0], 0)]
    #[case(&[0, 4], 4)]
    #[case(&[4, 1, 0], 1)]
    #[case(&[1, 3, 4], 3)]
    fn the_worst_archive_decides(#[case] codes: &[u8], #[case] code: u8) {
        assert_eq!(worst(codes), code);
    }
}
