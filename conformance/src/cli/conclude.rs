//! From cases to records to reports to the exit code: the one way that every suite takes.
//!
//! ```text
//!  SelectionArgs + VerdictArgs = Run
//!      | judge(cases, target)
//!  records
//!      | Judged: with the target, its secrets, what it left
//!  report(..)     what is decided here and nowhere else
//!      | conclude(..)
//!  terminal, files below --report-dir, exit code
//! ```
//!
//! What ends before there are records (a usage error, Ctrl-C, a target that does not start) has no report.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Instant,
};

use clap::Args;
use jiff::Timestamp;

use super::{Failure, SelectionArgs, print};
use crate::{
    case::{self, Case, Record, Restore, Rules, Selection},
    report::{Frame, Palette, Progress, Repeat, Report, Secrets, Target, Terminal},
};

/// What decides, and where reports go.
#[derive(Clone, Debug, Default, Args)]
pub struct VerdictArgs {
    /// A failure of any level decides, not of documented clauses alone
    #[arg(long)]
    strict: bool,
    /// Exit 0 when documented clauses could not be judged; the verdict still says so
    #[arg(long)]
    allow_incomplete: bool,
    /// Write report.json and junit.xml into this folder
    #[arg(long, value_name = "DIR")]
    report_dir: Option<PathBuf>,
}

impl VerdictArgs {
    /// The folder for reports, and for what a target that is started here writes.
    pub(super) fn report_dir(&self) -> Option<&Path> {
        self.report_dir.as_deref()
    }
}

/// One run of a suite, as the command line asks for it.
#[derive(Debug)]
pub(super) struct Run<'a> {
    verdict: &'a VerdictArgs,
    selection: Selection,
    repeat: Repeat,
}

/// When the judging of a target began, its start included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Began(Timestamp, Instant);

impl Began {
    /// It begins.
    pub(super) fn now() -> Began {
        Began(Timestamp::now(), Instant::now())
    }
}

/// A target that was judged.
#[derive(Debug)]
pub(super) struct Judged {
    /// What was judged.
    pub(super) target: Target,
    /// When that began.
    pub(super) began: Began,
    /// What became of each case.
    pub(super) records: Vec<Record>,
    /// What no report may say.
    pub(super) secrets: Secrets,
    /// Archives that the run caused and could not remove.
    pub(super) archives_left: Vec<String>,
}

impl<'a> Run<'a> {
    /// Reads the options; `args` is the whole command line, for the commands that repeat a case.
    ///
    /// # Errors
    /// Options that cannot be understood.
    pub(super) fn new(
        selection: &SelectionArgs,
        verdict: &'a VerdictArgs,
        args: &[OsString],
    ) -> Result<Run<'a>, Failure> {
        Ok(Run {
            verdict,
            selection: selection.selection()?,
            repeat: Repeat::from_args(args.iter().map(|arg| arg.to_string_lossy().into_owned())),
        })
    }

    /// Runs those of the cases that are selected.
    pub(super) async fn judge<T: Restore>(&self, mut cases: Vec<Case<T>>, target: &T) -> Vec<Record> {
        cases.retain(|case| self.selection.takes(&case.clause));
        let mut progress = Progress::new(cases.len());
        case::run(&cases, target, &mut progress).await
    }

    /// The report of a target that was judged.
    pub(super) fn report(&self, judged: Judged) -> Report {
        let Began(started, began) = judged.began;
        let frame = Frame {
            target: judged.target,
            started,
            duration: began.elapsed(),
            rules: self.rules(),
            repeat: self.repeat.clone(),
            archives_left: judged.archives_left,
        };
        Report::new(frame, &judged.records, &judged.secrets)
    }

    /// Prints a report and writes its files; `below` is the folder for them within `--report-dir`, when one command has
    /// several reports. Returns the exit code.
    ///
    /// # Errors
    /// What cannot be written.
    pub(super) fn conclude(&self, report: &Report, below: Option<&str>) -> Result<u8, Failure> {
        let terminal = Terminal {
            palette: Palette::of_stdout(),
        };
        print(&terminal.render(report))?;
        if let Some(folder) = &self.verdict.report_dir {
            let folder = below.map_or_else(|| folder.clone(), |below| folder.join(below));
            report.write_to(&folder).map_err(anyhow::Error::from)?;
        }
        Ok(report.verdict.exit_code(self.rules()))
    }

    fn rules(&self) -> Rules {
        Rules {
            strict: self.verdict.strict,
            allow_incomplete: self.verdict.allow_incomplete,
        }
    }
}
