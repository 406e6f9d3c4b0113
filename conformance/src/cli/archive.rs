//! The subcommand `archive FILE...`.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;

use super::{
    Failure, RunArgs, SelectionArgs,
    suite_run::{StartTime, SuiteRun, SuiteRunner},
};
use crate::{
    archive::{Expectations, InspectError, Layout, Limits, from_environment, inspect_file, inspect_non_file},
    engine::{CaseRecord, Level, NonPass, Outcome, Suite},
    report::{Secrets, TargetInfo},
    suites::archive::{ArchiveCase, cases},
};

#[derive(Clone, Debug, Args)]
pub(super) struct ArchiveArgs {
    /// The checkpoint archives
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Bytes from the memory of the container, which the pages of the archive must contain. With this option the case
    /// archive/memory/expected-bytes decides the exit code
    #[arg(long, value_name = "TEXT|@FILE", value_parser = parse_needle)]
    expect_in_memory: Option<Needle>,
    /// A secret of the container, which only the pages and spec.dump may contain; can be repeated [default: environment
    /// variables in spec.dump with names such as TOKEN or PASSWORD]
    #[arg(long, value_name = "TEXT|@FILE", value_parser = parse_needle)]
    secret: Vec<Needle>,
    /// The engine whose members the archive must have: containerd, cri-o, podman [default: the one in spec.dump]
    #[arg(long, value_name = "ENGINE", value_parser = parse_layout)]
    layout: Option<Layout>,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    verdict: RunArgs,
}

/// Bytes to search for in an archive. They are never printed.
#[derive(Clone)]
struct Needle(Vec<u8>);

impl std::fmt::Debug for Needle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The minimum length. Fewer bytes would match by chance.
const MIN_NEEDLE_BYTES: usize = 8;

/// Returns the text itself, or the content of the file after `@`, without one trailing newline.
fn parse_needle(text: &str) -> Result<Needle, String> {
    let mut bytes = match text.strip_prefix('@') {
        Some(file) => std::fs::read(file).map_err(|error| format!("{file}: {error}"))?,
        None => text.as_bytes().to_vec(),
    };
    if bytes.ends_with(b"\n") {
        bytes.pop();
    }
    if bytes.len() < MIN_NEEDLE_BYTES {
        return Err(format!(
            "expected at least {MIN_NEEDLE_BYTES} bytes: fewer would match by chance"
        ));
    }
    Ok(Needle(bytes))
}

fn parse_layout(name: &str) -> Result<Layout, String> {
    let names = Layout::ALL.map(Layout::as_str);
    Layout::ALL
        .into_iter()
        .find(|layout| layout.as_str() == name)
        .ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

impl ArchiveArgs {
    fn expected(&self) -> Expectations {
        Expectations {
            memory: self.expect_in_memory.clone().map(|Needle(bytes)| bytes),
            secrets: self.secret.iter().map(|Needle(bytes)| bytes.clone()).collect(),
            layout: self.layout,
        }
    }

    /// Tests the archives one after another and writes their reports into one document. The worst verdict decides the
    /// exit code. An unreadable archive gets a report with an error and does not affect the verdicts of the others.
    pub(super) fn run(self, args: &[OsString]) -> Result<u8, Failure> {
        let run = SuiteRunner::new(&self.selection, &self.verdict, args)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(anyhow::Error::from)?;
        let mut reports = Vec::new();
        for file in &self.files {
            let suite_run = match runtime.block_on(test_archive(&run, file, self.expected())) {
                Ok(suite_run) => suite_run,
                Err(error) => unreadable_archive(file, &error),
            };
            reports.push(run.report(suite_run));
        }
        run.finish(&reports)
    }
}

/// Returns the cases. `--expect-in-memory` makes the canary case documented: the bytes are then known to be in memory.
fn cases_for(expected: &Expectations) -> Vec<ArchiveCase> {
    let mut cases = cases();
    for case in cases.iter_mut().filter(|case| case.info.id == CANARY_CASE) {
        if expected.memory.is_some() {
            case.info.level = Level::Documented;
        }
    }
    cases
}

/// The case that searches for the bytes of `--expect-in-memory`.
const CANARY_CASE: &str = "archive/memory/expected-bytes";
/// The case that fails for an input that is not a checkpoint archive.
const KIND_CASE: &str = "archive/format/checkpoint-archive";

/// Returns the run of an unreadable archive: one case with an error.
fn unreadable_archive(file: &Path, error: &InspectError) -> SuiteRun {
    let case_info = cases()
        .into_iter()
        .map(|case| case.info)
        .find(|case_info| case_info.id == KIND_CASE);
    let outcome = Outcome::from(Err(NonPass::error(error)));
    SuiteRun {
        target: target_info(file),
        start_time: StartTime::now(),
        records: case_info
            .into_iter()
            .map(|case_info| CaseRecord {
                info: case_info,
                outcome: outcome.clone(),
                duration: Duration::ZERO,
                evidence: Vec::new(),
            })
            .collect(),
        secrets: Secrets::default(),
        remaining_archives: Vec::new(),
        footprint: None,
    }
}

fn target_info(file: &Path) -> TargetInfo {
    let endpoint = file.display().to_string();
    TargetInfo::new(Suite::Archive, "file", format!("the archive {endpoint}"), endpoint)
}

async fn test_archive(
    run: &SuiteRunner<'_>,
    file: &Path,
    mut expected: Expectations,
) -> Result<SuiteRun, InspectError> {
    let start_time = StartTime::now();
    let inspect = |expected: &Expectations| match inspect_file(file, expected, Limits::default()) {
        Err(InspectError::NotAFile { kind, .. }) => inspect_non_file(file, expected, kind),
        inspected => inspected,
    };
    let mut archive = inspect(&expected)?;
    if expected.secrets.is_empty() {
        // A member before spec.dump can contain these secrets, so the archive is read again.
        expected.secrets = from_environment(&archive);
        if !expected.secrets.is_empty() {
            archive = inspect(&expected)?;
        }
    }
    let mut secrets = Secrets::default();
    for needle in expected.secrets.iter().chain(&expected.memory) {
        secrets.add(&String::from_utf8_lossy(needle));
    }
    Ok(SuiteRun {
        target: target_info(file),
        start_time,
        records: run.run_cases(cases_for(&expected), &archive).await,
        secrets,
        remaining_archives: Vec::new(),
        footprint: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needle_is_text_or_a_file_and_never_printed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"from a file\n").unwrap();
        let needle = parse_needle(&format!("@{}", file.path().display())).unwrap();
        assert_eq!(needle.0, b"from a file");
        assert_eq!(parse_needle("as it is").unwrap().0, b"as it is");
        assert!(parse_needle("short").unwrap_err().contains("8 bytes"));
        assert!(parse_needle("@/nonexistent/x").unwrap_err().contains("/nonexistent/x"));
        assert!(!format!("{needle:?}").contains("file"));
    }
}
