//! Runs the cases of a suite, builds the reports and computes the exit code. All suites share this code.
//!
//! ```text
//!  SelectionArgs + RunArgs = SuiteRunner
//!      | run_cases(cases, target)
//!  records
//!      | SuiteRun: records, target, secrets, remaining archives
//!  report(..)     applies the profile and the expected failures
//!      | finish(..)
//!  terminal, files of --report-dir and --report, the step summary of GitHub Actions, exit code
//! ```
//!
//! A usage error, an interrupt, or a target that does not start ends the command without a report.

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
        self, BUILT_IN_PROFILES, Case, CaseInfo, CaseRecord, ExpectedFailures, GatePolicy, Profile, RunConditions,
        Schedule, Selection, Target, exit,
    },
    report::{
        Footprint, Format, Progress, Report, ReportError, RerunCommand, RunInfo, Secrets, TargetInfo, Terminal,
        add_to_step_summary, write_all, write_file,
    },
    suites,
};

/// The options for the run, the verdict and the reports.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArgs {
    /// The number of concurrent cases, among those that can share the target [default: the number of processors]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// The order of the cases: 0 is the catalogue order, any other number a reproducible shuffle
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The known deviations of the target: a built-in profile (kubelet-1.30, kubelet-1.36, kubelet-1.37,
    /// containerd-2.4, cri-o, criu) or a file. Failures of the levels reference and robust that the profile lists do
    /// not fail the run
    #[arg(long, value_name = "NAME|FILE")]
    profile: Option<PathBuf>,
    /// A list of expected failures, one id per line. They do not fail the run; a listed case that passes does
    #[arg(long, value_name = "FILE")]
    expected_failures: Option<PathBuf>,
    /// Fail the run for a failure of any level, not only of documented cases
    #[arg(long)]
    strict: bool,
    /// Exit with 0 when documented cases did not run; the verdict is still incomplete
    #[arg(long)]
    allow_incomplete: bool,
    /// Write the reports in all formats into this directory: report.html, report.json, junit.xml, report.tap,
    /// summary.md, badge.json
    #[arg(long, value_name = "DIR")]
    report_dir: Option<PathBuf>,
    /// Write the report in one format (html, json, junit, tap, summary, badge) to FILE; can be repeated
    #[arg(long, value_name = "FORMAT=FILE", value_parser = parse_report)]
    report: Vec<(Format, PathBuf)>,
    /// Sonobuoy plugin protocol: when the reports are written, write the path of the first --report to this file, wait
    /// for SIGTERM, and exit with 0 for every verdict. Sonobuoy collects no report from a failed container, and the Pod
    /// would restart a container that has exited
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
    /// The directory for the reports, and for the logs of a kubelet that is started here.
    pub(super) fn report_dir(&self) -> Option<&Path> {
        self.report_dir.as_deref()
    }
}

/// Runs a suite with the options of the command line.
#[derive(Debug)]
pub(super) struct SuiteRunner<'a> {
    args: &'a RunArgs,
    selection: Selection,
    profile: Option<Profile>,
    expected_failures: Option<(String, ExpectedFailures)>,
    rerun: RerunCommand,
}

/// The start of a run, before its target starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct StartTime(Timestamp, Instant);

impl StartTime {
    pub(super) fn now() -> StartTime {
        StartTime(Timestamp::now(), Instant::now())
    }
}

/// The result of a suite on one target.
#[derive(Debug)]
pub(super) struct SuiteRun {
    pub(super) target: TargetInfo,
    pub(super) start_time: StartTime,
    pub(super) records: Vec<CaseRecord>,
    /// The secrets that the report must not contain.
    pub(super) secrets: Secrets,
    /// Archives that the run created and could not remove.
    pub(super) remaining_archives: Vec<String>,
    pub(super) footprint: Option<Footprint>,
}

impl<'a> SuiteRunner<'a> {
    /// Evaluates the options. `args` is the whole command line, for the rerun commands.
    ///
    /// # Errors
    /// A filter, the profile or the list of expected failures is invalid or cannot be read.
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

    pub(super) fn selects(&self, case_info: &CaseInfo) -> bool {
        self.selection.selects(case_info)
    }

    /// Runs the selected ones of these cases.
    pub(super) async fn run_cases<T: Target>(&self, mut cases: Vec<Case<T>>, target: &T) -> Vec<CaseRecord> {
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

    /// Builds the report of a run.
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

    /// Prints the reports, writes each file with all of them, and returns the worst exit code. With
    /// `--sonobuoy-done-file` it waits for SIGTERM or SIGINT and returns 0.
    ///
    /// # Errors
    /// A file or stdout cannot be written.
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

/// Writes the path of the report to the done file, then waits for SIGTERM or SIGINT.
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

/// Loads the built-in profile with this name, else the file with this path.
fn load_profile(name: &Path) -> Result<Profile, Failure> {
    let built_in = BUILT_IN_PROFILES
        .iter()
        .find(|(built_in, _)| name == Path::new(built_in));
    let text = match built_in {
        Some((_, text)) => (*text).to_owned(),
        None => fs::read_to_string(name).map_err(|error| {
            let names: Vec<_> = BUILT_IN_PROFILES.iter().map(|(name, _)| *name).collect();
            Failure::Usage(format!(
                "--profile {}: not a built-in profile ({}), and the file cannot be read: {error}",
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

/// Returns the worst exit code: error, then fail, then incomplete, then pass. Without any report it is incomplete.
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
        let case_info = all_cases()
            .into_iter()
            .find(|case_info| case_info.id == "kubelet/authorization/forbidden-body");
        let outcome = |seen: &str| {
            let mut records = [CaseRecord {
                info: case_info.unwrap(),
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
