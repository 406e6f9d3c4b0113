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
    engine::{
        self, BUILT_IN_PROFILES, Case, CaseInfo, CaseRecord, ExpectedFailures, GatePolicy, Profile, Reset,
        RunConditions, Schedule, Selection, exit,
    },
    report::{
        Footprint, Format, Progress, Report, ReportError, RerunCommand, RunInfo, Secrets, TargetInfo, Terminal,
        add_to_step_summary, write_all, write_file,
    },
    suites,
};

/// How the run goes, what decides, and where reports go.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// How many cases at a time, of those that may share the target [default: the processors]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// The order of the cases: 0 is the catalogue's, any other number an order of its own, the same every time
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// What the target claims to do otherwise than the reference: a built-in profile (kubelet-1.30, kubelet-1.36,
    /// kubelet-1.37, containerd-2.4, cri-o, criu) or a file. Claimed failures of the levels reference and robust are known deviations
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
    sonobuoy_done_file: Option<PathBuf>,
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

impl RunArgs {
    /// The folder for reports, and for what a target that is started here writes.
    pub(super) fn report_dir(&self) -> Option<&Path> {
        self.report_dir.as_deref()
    }
}

/// One run of a suite, as the command line asks for it.
#[derive(Debug)]
pub(super) struct SuiteRunner<'a> {
    args: &'a RunArgs,
    selection: Selection,
    profile: Option<Profile>,
    expected_failures: Option<(String, ExpectedFailures)>,
    rerun: RerunCommand,
}

/// When the judging of a target began, its start included.
#[derive(Clone, Copy, Debug)]
pub(super) struct StartTime(Timestamp, Instant);

impl StartTime {
    /// It begins.
    pub(super) fn now() -> StartTime {
        StartTime(Timestamp::now(), Instant::now())
    }
}

/// A target that was judged.
#[derive(Debug)]
pub(super) struct SuiteRun {
    /// What was judged.
    pub(super) target: TargetInfo,
    /// When that began.
    pub(super) start_time: StartTime,
    /// What became of each case.
    pub(super) records: Vec<CaseRecord>,
    /// What no report may say.
    pub(super) secrets: Secrets,
    /// Archives that the run caused and could not remove.
    pub(super) remaining_archives: Vec<String>,
    /// The checkpoints that the run was to make, on a kubelet.
    pub(super) footprint: Option<Footprint>,
}

impl<'a> SuiteRunner<'a> {
    /// Reads the options; `args` is the whole command line, for the commands that repeat a case.
    ///
    /// # Errors
    /// Options that cannot be understood.
    pub(super) fn new(
        selection: &SelectionArgs,
        verdict: &'a RunArgs,
        args: &[OsString],
    ) -> Result<SuiteRunner<'a>, Failure> {
        Ok(SuiteRunner {
            args: verdict,
            selection: selection.selection()?,
            profile: verdict.profile.as_deref().map(load_profile).transpose()?,
            expected_failures: verdict
                .expected_failures
                .as_deref()
                .map(load_expected_failures)
                .transpose()?,
            rerun: RerunCommand::from_args(args.iter().map(|arg| arg.to_string_lossy().into_owned())),
        })
    }

    /// Whether a case is selected.
    pub(super) fn selects(&self, clause: &CaseInfo) -> bool {
        self.selection.selects(clause)
    }

    /// Runs those of the cases that are selected.
    pub(super) async fn run_cases<T: Reset>(&self, mut cases: Vec<Case<T>>, target: &T) -> Vec<CaseRecord> {
        cases.retain(|case| self.selection.selects(&case.info));
        let mut progress = Progress::new(cases.len());
        let schedule = Schedule {
            seed: self.args.seed,
            jobs: self
                .args
                .jobs
                .or_else(|| std::thread::available_parallelism().ok())
                .map_or(1, NonZeroUsize::get),
        };
        engine::run_scheduled(&cases, target, schedule, &mut progress).await
    }

    /// The report of a target that was judged.
    pub(super) fn report(&self, mut suite_run: SuiteRun) -> Report {
        let conditions = RunConditions {
            seed: self.args.seed,
            profile: self
                .profile
                .as_ref()
                .map(|profile| profile.apply(&mut suite_run.records)),
            expected_failures: self
                .expected_failures
                .as_ref()
                .map(|(file, list)| list.compare(file, &suite_run.records)),
        };
        let StartTime(started_at, clock) = suite_run.start_time;
        let info = RunInfo {
            target: suite_run.target,
            started_at,
            duration: clock.elapsed(),
            policy: self.policy(),
            conditions,
            footprint: suite_run.footprint,
            rerun: self.rerun.clone(),
            remaining_archives: suite_run.remaining_archives,
        };
        Report::new(info, &suite_run.records, &suite_run.secrets)
    }

    /// Prints the reports and writes their files, several of them as one document; returns the exit code of the worst. With a file
    /// that says so it waits to be told to end.
    ///
    /// # Errors
    /// What cannot be written.
    pub(super) fn finish(&self, reports: &[Report]) -> Result<u8, Failure> {
        let terminal = Terminal::of_stdout();
        for report in reports {
            print(&terminal.render(report))?;
        }
        self.write(reports).map_err(anyhow::Error::from)?;
        if let (Some(done_file), Some((_, path))) = (&self.args.sonobuoy_done_file, self.args.report.first()) {
            write_done_file_and_wait(done_file, path)?;
            return Ok(exit::PASS);
        }
        let codes: Vec<_> = reports
            .iter()
            .map(|report| report.verdict.exit_code(self.policy()))
            .collect();
        Ok(worst_exit_code(&codes))
    }

    fn write(&self, reports: &[Report]) -> Result<(), ReportError> {
        if let Some(directory) = &self.args.report_dir {
            write_all(reports, directory)?;
        }
        for (format, path) in &self.args.report {
            write_file(reports, *format, path)?;
        }
        match std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) {
            Some(path) => add_to_step_summary(reports, Path::new(&path)),
            None => Ok(()),
        }
    }

    fn policy(&self) -> GatePolicy {
        GatePolicy {
            strict: self.args.strict,
            allow_incomplete: self.args.allow_incomplete,
        }
    }
}

/// Writes into the file where the report is, and waits for the signal to end.
fn write_done_file_and_wait(done_file: &Path, report: &Path) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("failed to start the async runtime")?;
    runtime.block_on(async {
        let interrupted = interruption()?;
        fs::write(done_file, report.as_os_str().as_encoded_bytes())
            .with_context(|| format!("failed to write {}", done_file.display()))?;
        interrupted.await;
        Ok(())
    })
}

/// The profile of that name, else that in the file of that name.
fn load_profile(name: &Path) -> Result<Profile, Failure> {
    let built_in = BUILT_IN_PROFILES
        .iter()
        .find(|(built_in, _)| name == Path::new(built_in));
    let text = match built_in {
        Some((_, text)) => (*text).to_owned(),
        None => fs::read_to_string(name).map_err(|error| {
            let names: Vec<_> = BUILT_IN_PROFILES.iter().map(|(name, _)| *name).collect();
            Failure::Usage(format!(
                "--profile {}: no built-in profile ({}), and as a file: {error}",
                name.display(),
                names.join(", ")
            ))
        })?,
    };
    Profile::parse(&text, &all_cases())
        .map_err(|error| Failure::Usage(format!("the profile {} {error}", name.display())))
}

fn load_expected_failures(file: &Path) -> Result<(String, ExpectedFailures), Failure> {
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::Usage(format!("--expected-failures {}: {error}", file.display())))?;
    let list = ExpectedFailures::parse(&text, &all_cases())
        .map_err(|error| Failure::Usage(format!("--expected-failures {}: {error}", file.display())))?;
    Ok((file.display().to_string(), list))
}

fn all_cases() -> Vec<CaseInfo> {
    suites::catalogue_entries()
        .into_iter()
        .map(|entry| entry.info)
        .collect()
}

/// Error wins over fail, fail over incomplete, incomplete over a pass; nothing at all is incomplete.
pub(super) fn worst_exit_code(codes: &[u8]) -> u8 {
    [exit::ERROR, exit::FAIL, exit::INCOMPLETE, exit::PASS]
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
    fn worst_report_decides(#[case] codes: &[u8], #[case] code: u8) {
        assert_eq!(worst_exit_code(codes), code);
    }

    #[rstest]
    #[case("html=out/a=b.html", Some((Format::Html, "out/a=b.html")))]
    #[case("tap=x", Some((Format::Tap, "x")))]
    #[case("html", None)]
    #[case("html=", None)]
    #[case("pdf=x", None)]
    fn parses_a_report_option(#[case] text: &str, #[case] parsed: Option<(Format, &str)>) {
        let parsed = parsed.map(|(format, path)| (format, PathBuf::from(path)));
        assert_eq!(parse_report(text).ok(), parsed);
    }

    #[test]
    fn built_in_profiles_are_valid() {
        for (name, _) in BUILT_IN_PROFILES {
            let profile = load_profile(Path::new(name)).unwrap();
            assert_eq!(profile.name, *name);
            assert!(!profile.description.is_empty());
        }
    }

    #[test]
    fn only_the_announced_403_is_a_known_deviation() {
        let clause = all_cases()
            .into_iter()
            .find(|clause| clause.id == "kubelet/authorization/forbidden-body");
        let outcome = |seen: &str| {
            let mut records = [CaseRecord {
                info: clause.unwrap(),
                outcome: engine::Outcome::Fail {
                    actual: seen.to_owned(),
                },
                duration: std::time::Duration::ZERO,
                evidence: Vec::new(),
            }];
            load_profile(Path::new("kubelet-1.30")).unwrap().apply(&mut records);
            records[0].outcome.as_str()
        };
        let actual = r#""Forbidden (user=bob, verb=create, resource=nodes, subresource=checkpoint)""#;
        assert_eq!(outcome(actual), "known-deviation");
        assert_eq!(outcome("\"Forbidden\""), "fail");
    }

    #[test]
    fn unknown_profile_is_a_usage_error() {
        let error = load_profile(Path::new("/nonexistent/kubelet-9")).unwrap_err();
        assert!(matches!(error, Failure::Usage(_)));
        let text = error.to_string();
        assert!(
            text.contains("/nonexistent/kubelet-9") && text.contains("containerd-2.4"),
            "{text}"
        );
    }
}
