//! The subcommand `merge NODE=REPORT.json... --report-dir DIR`, for the reports of several machines.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{
    Failure, print,
    suite_run::{parse_report, worst_exit_code},
};
use crate::{
    engine::GatePolicy,
    report::{Format, Report, Terminal, read, write_all, write_file},
};

#[derive(Clone, Debug, Args)]
pub(super) struct MergeArgs {
    /// The report.json of each machine, optionally with the name of its node
    #[arg(required = true, value_name = "[NODE=]REPORT.json", value_parser = parse_source)]
    reports: Vec<NamedReport>,
    /// Write the reports in all formats into this directory
    #[arg(long, value_name = "DIR")]
    report_dir: Option<PathBuf>,
    /// Write the report in one format (html, json, junit, tap, summary, badge) to FILE; can be repeated
    #[arg(long, value_name = "FORMAT=FILE", value_parser = parse_report)]
    report: Vec<(Format, PathBuf)>,
    /// Exit with 0 when documented cases did not run
    #[arg(long)]
    allow_incomplete: bool,
}

/// A report file and the node that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NamedReport {
    node: Option<String>,
    file: PathBuf,
}

/// Parses `[NODE=]FILE`. If a file of the whole name exists, the text is a path even when it contains `=`.
fn parse_source(text: &str) -> Result<NamedReport, String> {
    let unnamed = NamedReport {
        node: None,
        file: PathBuf::from(text),
    };
    match text.split_once('=') {
        Some((node, file)) if !node.is_empty() && !Path::new(text).exists() => Ok(NamedReport {
            node: Some(node.to_owned()),
            file: PathBuf::from(file),
        }),
        _ => Ok(unnamed),
    }
}

impl MergeArgs {
    /// Prints and writes the reports. Returns the worst exit code, with the `--strict` of each original run.
    pub(super) fn run(self) -> Result<u8, Failure> {
        let mut reports = Vec::new();
        for NamedReport { node, file } in &self.reports {
            let file_reports = read(file).map_err(|error| Failure::Usage(error.to_string()))?;
            reports.extend(
                file_reports
                    .into_iter()
                    .map(|report| with_node(node.as_deref(), report)),
            );
        }
        let terminal = Terminal::of_stdout();
        for report in &reports {
            print(&terminal.render(report))?;
        }
        if let Some(directory) = &self.report_dir {
            write_all(&reports, directory).map_err(anyhow::Error::from)?;
        }
        for (format, path) in &self.report {
            write_file(&reports, *format, path).map_err(anyhow::Error::from)?;
        }
        let code = |report: &Report| {
            report.verdict.exit_code(GatePolicy {
                strict: report.strict,
                allow_incomplete: self.allow_incomplete,
            })
        };
        Ok(worst_exit_code(&reports.iter().map(code).collect::<Vec<_>>()))
    }
}

/// Sets the node of a report. A node from an earlier merge stays.
fn with_node(node: Option<&str>, mut report: Report) -> Report {
    if report.target.node.is_none() {
        report.target.node = node.map(str::to_owned);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_reports_with_a_node() {
        let source = |node: Option<&str>, file: &str| NamedReport {
            node: node.map(str::to_owned),
            file: PathBuf::from(file),
        };
        assert_eq!(parse_source("a/report.json"), Ok(source(None, "a/report.json")));
        assert_eq!(
            parse_source("node-1=a/report.json"),
            Ok(source(Some("node-1"), "a/report.json"))
        );
        assert_eq!(parse_source("=report.json"), Ok(source(None, "=report.json")));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a=b.json");
        std::fs::write(&file, "").unwrap();
        assert_eq!(parse_source(file.to_str().unwrap()).unwrap().file, file);
    }
}
