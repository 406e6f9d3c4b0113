//! `checkpoint-conformance merge NODE=REPORT.json... --report-dir DIR`: the runs of several machines as one report.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{
    Failure,
    conclude::{parse_report, worst},
    print,
};
use crate::{
    case::Rules,
    report::{Format, Report, Terminal, read, write_all, write_file},
};

/// Which reports, and where to.
#[derive(Clone, Debug, Args)]
pub(super) struct MergeArgs {
    /// The report.json of each machine, after the name of its node where that shall be in the report
    #[arg(required = true, value_name = "[NODE=]REPORT.json", value_parser = parse_source)]
    reports: Vec<Source>,
    /// Write the reports of every format into this folder
    #[arg(long, value_name = "DIR")]
    report_dir: Option<PathBuf>,
    /// Write one report: html, json, junit, tap, summary or badge, and where to; may be given several times
    #[arg(long, value_name = "FORMAT=FILE", value_parser = parse_report)]
    report: Vec<(Format, PathBuf)>,
    /// Exit 0 when documented clauses could not be judged
    #[arg(long)]
    allow_incomplete: bool,
}

/// One file, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    node: Option<String>,
    file: PathBuf,
}

/// A file that is there is meant as it is, also with a `=` in its path.
fn parse_source(text: &str) -> Result<Source, String> {
    let whole = Source {
        node: None,
        file: PathBuf::from(text),
    };
    match text.split_once('=') {
        Some((node, file)) if !node.is_empty() && !Path::new(text).exists() => Ok(Source {
            node: Some(node.to_owned()),
            file: PathBuf::from(file),
        }),
        _ => Ok(whole),
    }
}

impl MergeArgs {
    /// Prints and writes them; returns the exit code of the worst. Each was strict or not when it was judged.
    pub(super) fn run(self) -> Result<u8, Failure> {
        let mut reports = Vec::new();
        for Source { node, file } in &self.reports {
            let of_file = read(file).map_err(|error| Failure::Usage(error.to_string()))?;
            reports.extend(of_file.into_iter().map(|report| on(node.as_deref(), report)));
        }
        let terminal = Terminal::of_stdout();
        for report in &reports {
            print(&terminal.render(report))?;
        }
        if let Some(folder) = &self.report_dir {
            write_all(&reports, folder).map_err(anyhow::Error::from)?;
        }
        for (format, path) in &self.report {
            write_file(&reports, *format, path).map_err(anyhow::Error::from)?;
        }
        let code = |report: &Report| {
            report.verdict.exit_code(Rules {
                strict: report.strict,
                allow_incomplete: self.allow_incomplete,
            })
        };
        Ok(worst(&reports.iter().map(code).collect::<Vec<_>>()))
    }
}

/// A report that knows its node keeps it: it may come from a merge before.
fn on(node: Option<&str>, mut report: Report) -> Report {
    if report.target.node.is_none() {
        report.target.node = node.map(str::to_owned);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_may_come_with_its_node() {
        let source = |node: Option<&str>, file: &str| Source {
            node: node.map(str::to_owned),
            file: PathBuf::from(file),
        };
        assert_eq!(parse_source("a/report.json"), Ok(source(None, "a/report.json")));
        assert_eq!(
            parse_source("node-1=a/report.json"),
            Ok(source(Some("node-1"), "a/report.json"))
        );
        assert_eq!(parse_source("=report.json"), Ok(source(None, "=report.json")));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a=b.json");
        std::fs::write(&file, "").unwrap();
        assert_eq!(parse_source(file.to_str().unwrap()).unwrap().file, file);
    }
}
