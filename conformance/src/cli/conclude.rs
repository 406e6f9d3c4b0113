//! From cases to records to reports to the exit code: the one way that every suite takes.
//!
//! ```text
//!  SelectionArgs + VerdictArgs = Run
//!      | judge(cases, target)
//!  records
//!      | Judged: with the target, its secrets, what it left
//!  report(..)     what is decided here and nowhere else
//!      | conclude(..)
//!  terminal, files of --report-dir and --report, the step summary of GitHub Actions, exit code
//! ```
//!
//! What ends before there are records (a usage error, Ctrl-C, a target that does not start) has no report.

use std::{
    ffi::OsString,
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context as _;
use clap::Args;
use jiff::Timestamp;

use super::{Failure, SelectionArgs, interruption, print};
use crate::{
    case::{
        self, BUILT_IN, Case, Clause, ExpectedFailures, Profile, Record, Restore, Rules, Schedule, Selection, Terms,
        exit,
    },
    catalog,
    report::{
        Footprint, Format, Frame, Progress, Repeat, Report, ReportError, Secrets, Target, Terminal,
        add_to_step_summary, write_all, write_file,
    },
};

/// How the run goes, what decides, and where reports go.
#[derive(Clone, Debug, Default, Args)]
pub struct VerdictArgs {
    /// How many cases at a time, of those that may share the target [default: the processors]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// The order of the cases: 0 is the catalogue's, any other number an order of its own, the same every time
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// What the target claims to do otherwise than the reference: a built-in profile (kubelet-1.30, kubelet-1.36,
    /// kubelet-1.37, containerd-2.4, cri-o, criu) or a file. Claimed failures of the levels reference and robust are facts
    #[arg(long, value_name = "NAME|FILE")]
    profile: Option<PathBuf>,
    /// A list of failures that are known, one id a line: they do not fail the run, but a listed case that passes does
    #[arg(long, value_name = "FILE")]
    expected_failures: Option<PathBuf>,
    /// A failure of any level decides, not of documented clauses alone
    #[arg(long)]
    strict: bool,
    /// Exit 0 when documented clauses could not be judged; the verdict still says so
    #[arg(long)]
    allow_incomplete: bool,
    /// Write the reports of every format into this folder: report.html, report.json, junit.xml, report.tap, summary.md, badge.json
    #[arg(long, value_name = "DIR")]
    report_dir: Option<PathBuf>,
    /// Write one report: html, json, junit, tap, summary or badge, and where to; may be given several times
    #[arg(long, value_name = "FORMAT=FILE", value_parser = parse_report)]
    report: Vec<(Format, PathBuf)>,
    /// When the reports are written, write the path of the first --report into this file, stay until SIGTERM and exit 0 whatever the
    /// verdict: Sonobuoy's sign that a plugin is done. It reads the verdict in the report, which it never gets from a container
    /// that has failed, and a container that has ended would be started again
    #[arg(long, value_name = "FILE", requires = "report")]
    done_file: Option<PathBuf>,
}

pub(super) fn parse_report(text: &str) -> Result<(Format, PathBuf), String> {
    let format = text
        .split_once('=')
        .and_then(|(name, path)| Some((Format::ALL.into_iter().find(|format| format.name() == name)?, path)));
    match format {
        Some((format, path)) if !path.is_empty() => Ok((format, PathBuf::from(path))),
        _ => {
            let formats = Format::ALL.map(Format::name).join(", ");
            Err(format!("expected FORMAT=FILE, FORMAT one of {formats}"))
        }
    }
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
    profile: Option<Profile>,
    expected_failures: Option<(String, ExpectedFailures)>,
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
    /// The checkpoints that the run was to make, on a kubelet.
    pub(super) footprint: Option<Footprint>,
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
            profile: verdict.profile.as_deref().map(profile).transpose()?,
            expected_failures: verdict
                .expected_failures
                .as_deref()
                .map(expected_failures)
                .transpose()?,
            repeat: Repeat::from_args(args.iter().map(|arg| arg.to_string_lossy().into_owned())),
        })
    }

    /// Whether a case is selected.
    pub(super) fn takes(&self, clause: &Clause) -> bool {
        self.selection.takes(clause)
    }

    /// Runs those of the cases that are selected.
    pub(super) async fn judge<T: Restore>(&self, mut cases: Vec<Case<T>>, target: &T) -> Vec<Record> {
        cases.retain(|case| self.selection.takes(&case.clause));
        let mut progress = Progress::new(cases.len());
        let schedule = Schedule {
            seed: self.verdict.seed,
            jobs: self
                .verdict
                .jobs
                .or_else(|| std::thread::available_parallelism().ok())
                .map_or(1, NonZeroUsize::get),
        };
        case::run_scheduled(&cases, target, schedule, &mut progress).await
    }

    /// The report of a target that was judged.
    pub(super) fn report(&self, mut judged: Judged) -> Report {
        let terms = Terms {
            seed: self.verdict.seed,
            profile: self.profile.as_ref().map(|profile| profile.apply(&mut judged.records)),
            expected_failures: self
                .expected_failures
                .as_ref()
                .map(|(file, list)| list.compare(file, &judged.records)),
        };
        let Began(started, began) = judged.began;
        let frame = Frame {
            target: judged.target,
            started,
            duration: began.elapsed(),
            rules: self.rules(),
            terms,
            footprint: judged.footprint,
            repeat: self.repeat.clone(),
            archives_left: judged.archives_left,
        };
        Report::new(frame, &judged.records, &judged.secrets)
    }

    /// Prints the reports and writes their files, several of them as one document; returns the exit code of the worst. With a file
    /// that says so it waits to be told to end.
    ///
    /// # Errors
    /// What cannot be written.
    pub(super) fn conclude(&self, reports: &[Report]) -> Result<u8, Failure> {
        let terminal = Terminal::of_stdout();
        for report in reports {
            print(&terminal.render(report))?;
        }
        self.write(reports).map_err(anyhow::Error::from)?;
        if let (Some(done), Some((_, path))) = (&self.verdict.done_file, self.verdict.report.first()) {
            tell_and_stay(done, path)?;
            return Ok(exit::HOLDS);
        }
        let codes: Vec<_> = reports
            .iter()
            .map(|report| report.verdict.exit_code(self.rules()))
            .collect();
        Ok(worst(&codes))
    }

    fn write(&self, reports: &[Report]) -> Result<(), ReportError> {
        if let Some(folder) = &self.verdict.report_dir {
            write_all(reports, folder)?;
        }
        for (format, path) in &self.verdict.report {
            write_file(reports, *format, path)?;
        }
        match std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) {
            Some(path) => add_to_step_summary(reports, Path::new(&path)),
            None => Ok(()),
        }
    }

    fn rules(&self) -> Rules {
        Rules {
            strict: self.verdict.strict,
            allow_incomplete: self.verdict.allow_incomplete,
        }
    }
}

/// Writes into the file where the report is, and waits for the signal to end.
fn tell_and_stay(done: &Path, report: &Path) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("failed to start the async runtime")?;
    runtime.block_on(async {
        let interrupted = interruption()?;
        fs::write(done, report.as_os_str().as_encoded_bytes())
            .with_context(|| format!("failed to write {}", done.display()))?;
        interrupted.await;
        Ok(())
    })
}

/// The profile of that name, else that in the file of that name.
fn profile(name: &Path) -> Result<Profile, Failure> {
    let built_in = BUILT_IN.iter().find(|(built_in, _)| name == Path::new(built_in));
    let text = match built_in {
        Some((_, text)) => (*text).to_owned(),
        None => fs::read_to_string(name).map_err(|error| {
            let names: Vec<_> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            Failure::Usage(format!(
                "--profile {}: no built-in profile ({}), and as a file: {error}",
                name.display(),
                names.join(", ")
            ))
        })?,
    };
    Profile::parse(&text, &catalogue())
        .map_err(|error| Failure::Usage(format!("the profile {} {error}", name.display())))
}

fn expected_failures(file: &Path) -> Result<(String, ExpectedFailures), Failure> {
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::Usage(format!("--expected-failures {}: {error}", file.display())))?;
    let list = ExpectedFailures::parse(&text, &catalogue())
        .map_err(|error| Failure::Usage(format!("--expected-failures {}: {error}", file.display())))?;
    Ok((file.display().to_string(), list))
}

fn catalogue() -> Vec<Clause> {
    catalog::entries().into_iter().map(|entry| entry.clause).collect()
}

/// Error wins over fail, fail over incomplete, incomplete over a pass; nothing at all is incomplete.
pub(super) fn worst(codes: &[u8]) -> u8 {
    [exit::ERROR, exit::BROKEN, exit::INCOMPLETE, exit::HOLDS]
        .into_iter()
        .find(|code| codes.contains(code))
        .unwrap_or(exit::INCOMPLETE)
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
    #[case(&[], 4)]
    fn the_worst_report_decides(#[case] codes: &[u8], #[case] code: u8) {
        assert_eq!(worst(codes), code);
    }

    #[rstest]
    #[case("html=out/a=b.html", Some((Format::Html, "out/a=b.html")))]
    #[case("tap=x", Some((Format::Tap, "x")))]
    #[case("html", None)]
    #[case("html=", None)]
    #[case("pdf=x", None)]
    fn one_report_is_a_format_and_a_file(#[case] text: &str, #[case] parsed: Option<(Format, &str)>) {
        let parsed = parsed.map(|(format, path)| (format, PathBuf::from(path)));
        assert_eq!(parse_report(text).ok(), parsed);
    }

    #[test]
    fn every_built_in_profile_can_be_used_and_is_called_by_its_name() {
        for (name, _) in BUILT_IN {
            let profile = profile(Path::new(name)).unwrap();
            assert_eq!(profile.name, *name);
            assert!(!profile.about.is_empty());
        }
    }

    #[test]
    fn the_older_kubelets_403_is_a_fact_and_another_wrong_one_is_not() {
        let clause = catalogue().into_iter().find(|clause| clause.id == "kubelet/403/body");
        let outcome = |seen: &str| {
            let mut records = [Record {
                clause: clause.unwrap(),
                outcome: case::Outcome::Fail { seen: seen.to_owned() },
                duration: std::time::Duration::ZERO,
                exhibits: Vec::new(),
            }];
            profile(Path::new("kubelet-1.30")).unwrap().apply(&mut records);
            records[0].outcome.word()
        };
        let seen = r#""Forbidden (user=bob, verb=create, resource=nodes, subresource=checkpoint)""#;
        assert_eq!(outcome(seen), "fact");
        assert_eq!(outcome("\"Forbidden\""), "fail");
    }

    #[test]
    fn a_profile_that_is_not_there_is_a_usage_error_that_names_the_built_in_ones() {
        let error = profile(Path::new("/nonexistent/kubelet-9")).unwrap_err();
        assert!(matches!(error, Failure::Usage(_)));
        let text = error.to_string();
        assert!(
            text.contains("/nonexistent/kubelet-9") && text.contains("containerd-2.4"),
            "{text}"
        );
    }
}
