//! `checkpoint-conformance archive FILE...`

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{
    Failure, SelectionArgs, VerdictArgs,
    conclude::{Began, Judged, Run},
};
use crate::{
    archive::{Expected, Limits, inspect_file},
    case::{Suite, exit},
    catalog::archive::cases,
    report::{Secrets, Target},
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
        let run = Run::new(&self.selection, &self.verdict, args)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(anyhow::Error::from)?;
        let mut codes = Vec::new();
        for (number, file) in self.files.iter().enumerate() {
            let report = run.report(runtime.block_on(judge(&run, file))?);
            let below = (self.files.len() > 1).then(|| (number + 1).to_string());
            codes.push(run.conclude(&report, below.as_deref())?);
        }
        Ok(worst(&codes))
    }
}

async fn judge(run: &Run<'_>, file: &Path) -> Result<Judged, Failure> {
    let began = Began::now();
    let archive = inspect_file(file, &Expected::default(), Limits::default()).map_err(anyhow::Error::from)?;
    Ok(Judged {
        target: Target {
            suite: Suite::Archive,
            kind: "file".to_owned(),
            description: format!("the archive {}", file.display()),
            endpoint: file.display().to_string(),
            container: String::new(),
            node: None,
            mutant: None,
        },
        began,
        records: run.judge(cases(), &archive).await,
        secrets: Secrets::default(),
        archives_left: Vec::new(),
    })
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
