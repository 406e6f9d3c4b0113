//! `checkpoint-conformance archive FILE...`

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

/// Which archives, which cases, what decides.
#[derive(Clone, Debug, Args)]
pub(super) struct ArchiveArgs {
    /// The archives
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Bytes that stood in the container's memory: they must stand in the archive's pages. With it archive/memory/expected-bytes decides
    /// the exit code
    #[arg(long, value_name = "TEXT|@FILE", value_parser = parse_needle)]
    expect_in_memory: Option<Needle>,
    /// A secret of the container: it may stand in the pages and in spec.dump, and nowhere else; may be given several times
    /// [default: values in spec.dump's environment whose names say that they are secret]
    #[arg(long, value_name = "TEXT|@FILE", value_parser = parse_needle)]
    secret: Vec<Needle>,
    /// Whose members the archive must have: containerd, cri-o, podman [default: of the engine that spec.dump names]
    #[arg(long, value_name = "ENGINE", value_parser = parse_layout)]
    layout: Option<Layout>,
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    verdict: RunArgs,
}

/// What is looked for in an archive; never printed.
#[derive(Clone)]
struct Needle(Vec<u8>);

impl std::fmt::Debug for Needle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// Fewer would be found anywhere.
const MIN_NEEDLE_BYTES: usize = 8;

/// The text itself, or the content of the file behind `@`, without a newline at its end.
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
            "expected at least {MIN_NEEDLE_BYTES} bytes: fewer are found by chance"
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

    /// Judges one archive after the other. With several, the worst verdict decides, and one document holds their reports. One that
    /// cannot be read ends in an error of its own, and leaves the others' verdicts as they are.
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

/// The cases, of which the one of the canary decides when the user gave one: then the bytes are known to belong there.
fn cases_for(expected: &Expectations) -> Vec<ArchiveCase> {
    let mut cases = cases();
    for case in cases.iter_mut().filter(|case| case.info.id == CANARY_CASE) {
        if expected.memory.is_some() {
            case.info.level = Level::Documented;
        }
    }
    cases
}

/// The case that looks for the user's bytes, and the one that an input fails which is none.
const CANARY_CASE: &str = "archive/memory/expected-bytes";
const KIND_CASE: &str = "archive/format/checkpoint-archive";

/// An archive that the harness could not read: one case that ends in an error.
fn unreadable_archive(file: &Path, error: &InspectError) -> SuiteRun {
    let clause = cases()
        .into_iter()
        .map(|case| case.info)
        .find(|clause| clause.id == KIND_CASE);
    let outcome = Outcome::from(Err(NonPass::error(error)));
    SuiteRun {
        target: target_info(file),
        start_time: StartTime::now(),
        records: clause
            .into_iter()
            .map(|clause| CaseRecord {
                info: clause,
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
    TargetInfo {
        suite: Suite::Archive,
        kind: "file".to_owned(),
        description: format!("the archive {}", file.display()),
        endpoint: file.display().to_string(),
        container: String::new(),
        node: None,
        mutant: None,
        product: None,
    }
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
        // They may stand before spec.dump, so the archive is read again.
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
