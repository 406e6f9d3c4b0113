//! The report formats and their files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{Report, ReportError, SCHEMA_SEVERAL, badge, html, junit, summary, tap};

/// A format of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `report.json`, the whole report for programs; `compare` and `merge` read it back.
    Json,
    /// `junit.xml`, for CI systems.
    Junit,
    /// `report.tap`, version 14.
    Tap,
    /// `summary.md`, Markdown; also the step summary of GitHub Actions.
    Summary,
    /// `badge.json`, for a shields.io endpoint.
    Badge,
    /// `report.html`, one page for people.
    Html,
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 6] = [
        Format::Json,
        Format::Junit,
        Format::Tap,
        Format::Summary,
        Format::Badge,
        Format::Html,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Junit => "junit",
            Format::Tap => "tap",
            Format::Summary => "summary",
            Format::Badge => "badge",
            Format::Html => "html",
        }
    }

    /// The file name in a report directory.
    pub fn file_name(self) -> &'static str {
        match self {
            Format::Json => "report.json",
            Format::Junit => "junit.xml",
            Format::Tap => "report.tap",
            Format::Summary => "summary.md",
            Format::Badge => "badge.json",
            Format::Html => "report.html",
        }
    }

    /// Renders these reports as one document.
    ///
    /// # Errors
    /// A text cannot be serialized in this format.
    pub fn render(self, reports: &[Report]) -> Result<String, ReportError> {
        match self {
            Format::Json => match reports {
                [one] => json(one),
                several => json(&MergedReports {
                    schema: SCHEMA_SEVERAL,
                    reports: several,
                }),
            },
            Format::Junit => junit::render(reports),
            Format::Tap => tap::render(reports),
            Format::Summary => Ok(summary::render(reports)),
            Format::Badge => json(&badge::badge(reports)),
            Format::Html => Ok(html::render(reports)),
        }
    }
}

#[derive(Serialize)]
struct MergedReports<'a> {
    schema: &'static str,
    reports: &'a [Report],
}

fn json(value: &impl Serialize) -> Result<String, ReportError> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Writes one format to a file and creates the parent directory if needed.
///
/// # Errors
/// The report cannot be rendered, or the file cannot be written. The error names the path.
pub fn write_file(reports: &[Report], format: Format, path: &Path) -> Result<(), ReportError> {
    let text = format.render(reports)?;
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    if let Some(directory) = directory {
        fs::create_dir_all(directory).map_err(write_error(directory))?;
    }
    fs::write(path, text).map_err(write_error(path))
}

/// Writes every format into a directory and creates the directory if needed.
///
/// # Errors
/// The report cannot be rendered, or a file cannot be written. The error names the path.
pub fn write_all(reports: &[Report], directory: &Path) -> Result<(), ReportError> {
    fs::create_dir_all(directory).map_err(write_error(directory))?;
    Format::ALL
        .into_iter()
        .try_for_each(|format| write_file(reports, format, &directory.join(format.file_name())))
}

/// Appends the summary to the file that GitHub Actions names in `GITHUB_STEP_SUMMARY`. The file may have other content.
///
/// # Errors
/// The file cannot be written. The error names the path.
pub fn add_to_step_summary(reports: &[Report], path: &Path) -> Result<(), ReportError> {
    use std::io::Write as _;
    let text = Format::Summary.render(reports)?;
    let mut file = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(write_error(path))?;
    file.write_all(text.as_bytes()).map_err(write_error(path))
}

fn write_error(path: &Path) -> impl Fn(std::io::Error) -> ReportError + use<> {
    let path: PathBuf = path.to_owned();
    move |source| ReportError::Write {
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{read, tests::sample};

    #[test]
    fn writes_every_format_without_secrets() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("new/directory");
        write_all(&[sample()], &directory).unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), Format::ALL.len());
        for format in Format::ALL {
            let text = fs::read_to_string(directory.join(format.file_name())).unwrap();
            assert!(!text.contains("s3cr3t"), "{format:?}: {text}");
            assert_eq!(text.contains("[secret]"), format != Format::Badge, "{format:?}: {text}");
        }
    }

    #[test]
    fn round_trips_merged_reports() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/merged.json");
        write_file(&[sample(), sample()], Format::Json, &path).unwrap();
        assert_eq!(read(&path).unwrap(), [sample(), sample()]);
    }

    #[test]
    fn appends_to_the_step_summary() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "text of an earlier step\n").unwrap();
        add_to_step_summary(&[sample()], file.path()).unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        assert!(
            text.starts_with("text of an earlier step\n## Checkpoint conformance: error\n"),
            "{text}"
        );
    }

    #[test]
    fn names_the_directory_that_cannot_be_created() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = write_all(&[sample()], &file.path().join("below")).unwrap_err();
        let named = format!("failed to write {}", file.path().join("below").display());
        assert!(error.to_string().starts_with(&named), "{error}");
    }
}
