//! Reads `report.json`: one report, or a merged file with several.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Report, SCHEMA, SCHEMA_SEVERAL};

/// Why a report could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error("failed to read {}: {source}", path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The I/O error.
        source: std::io::Error,
    },
    /// The content is not a report.
    #[error("failed to parse {} as a report.json of this program: {reason}", path.display())]
    Content {
        /// The path of the file.
        path: PathBuf,
        /// The JSON error, or the schema that was found.
        reason: String,
    },
}

/// A merged file. A file with one report has no such wrapper.
#[derive(Deserialize)]
struct MergedReportsFile {
    reports: Vec<Report>,
}

/// Reads the reports of a file, in their order.
///
/// # Errors
/// The file cannot be read, is not JSON, or has another schema. The error names the file.
pub fn read(path: &Path) -> Result<Vec<Report>, ReadError> {
    let text = fs::read_to_string(path).map_err(|source| ReadError::File {
        path: path.to_owned(),
        source,
    })?;
    parse(&text).map_err(|reason| ReadError::Content {
        path: path.to_owned(),
        reason,
    })
}

fn parse(text: &str) -> Result<Vec<Report>, String> {
    let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let reports = match value.get("schema").and_then(serde_json::Value::as_str) {
        Some(SCHEMA) => serde_json::from_value(value).map(|report| vec![report]),
        Some(SCHEMA_SEVERAL) => serde_json::from_value::<MergedReportsFile>(value).map(|several| several.reports),
        Some(other) => return Err(format!("expected the schema {SCHEMA:?}, found {other:?}")),
        None => return Err(format!("expected the schema {SCHEMA:?}, found none")),
    };
    let reports = reports.map_err(|error| error.to_string())?;
    match reports.iter().find(|report| report.schema != SCHEMA) {
        Some(other) => Err(format!("expected the schema {SCHEMA:?}, found {:?}", other.schema)),
        None => Ok(reports),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn reads_single_and_merged_reports() {
        let report = sample();
        let one = serde_json::to_string(&report).unwrap();
        assert_eq!(parse(&one).unwrap(), std::slice::from_ref(&report));
        let several = serde_json::json!({ "schema": SCHEMA_SEVERAL, "reports": [report, report] }).to_string();
        assert_eq!(parse(&several).unwrap(), [report.clone(), report]);
    }

    #[rstest]
    #[case::no_json("<html>", "expected value")]
    #[case::another_document("{}", "found none")]
    #[case::another_version(r#"{"schema": "checkpoint-conformance/report/9"}"#, "report/9")]
    #[case::a_field_of_another_type(r#"{"schema": "checkpoint-conformance/report/1", "target": 7}"#, "invalid type")]
    #[case::several_of_nothing(
        r#"{"schema": "checkpoint-conformance/reports/1", "reports": [{}]}"#,
        "missing field"
    )]
    fn explains_what_is_no_report(#[case] text: &str, #[case] reason: &str) {
        let error = parse(text).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn names_a_missing_file() {
        let error = read(Path::new("no/such/report.json")).unwrap_err();
        assert!(
            error.to_string().starts_with("failed to read no/such/report.json: "),
            "{error}"
        );
    }
}
