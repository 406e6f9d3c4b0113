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
    case::Suite,
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
    /// Judges one archive after the other. With several, the worst verdict decides, and one document holds their reports.
    pub(super) fn run(self, args: &[OsString]) -> Result<u8, Failure> {
        let run = Run::new(&self.selection, &self.verdict, args)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(anyhow::Error::from)?;
        let mut reports = Vec::new();
        for file in &self.files {
            reports.push(run.report(runtime.block_on(judge(&run, file))?));
        }
        run.conclude(&reports)
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
