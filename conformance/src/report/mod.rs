//! The report of a run, and the formats in which it is written.
//!
//! ```text
//!  records + target + verdict = Report --+-- terminal   a table, failures with expected and actual
//!                                        +-- files      all formats into a directory, or one format into a file
//!                                        |     json     report.json, schema in docs/REPORT.md; `read` parses it
//!                                        |     junit, tap, summary, badge   for CI
//!                                        |     html     one page for people
//!                                        +-- compare    the changes between two reports
//! ```
//!
//! [`Secrets`] replaces every secret that the run knows (tokens, keys, bytes from the memory of a container) before
//! anything is written. Files are written only to paths that the user named.

mod badge;
mod compare;
mod escape;
mod files;
mod findings;
mod footprint;
mod html;
mod junit;
mod labels;
mod normalize;
mod phrases;
mod progress;
mod read;
mod rerun;
mod secrets;
mod summary;
mod tap;
mod terminal;

use std::{path::PathBuf, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    engine::{CaseRecord, CitedAuthority, GatePolicy, Level, Outcome, RunConditions, SkipKind, Suite, Verdict},
    evidence::EvidenceItem,
};

pub use compare::{Change, ChangedCase, Comparison, compare};
pub use files::{Format, add_to_step_summary, write_all, write_file};
pub use findings::{Note, NotesError, findings, notes, stale_notes};
pub use footprint::Footprint;
pub use normalize::normalize;
pub use progress::Progress;
pub use read::{ReadError, read};
pub use rerun::RerunCommand;
pub use secrets::Secrets;
pub use terminal::{Palette, Terminal};

/// The schema of `report.json`. An incompatible change increments the version.
pub const SCHEMA: &str = "checkpoint-conformance/report/1";

/// The schema of a file with several reports, in its field `reports`.
pub const SCHEMA_SEVERAL: &str = "checkpoint-conformance/reports/1";

/// The target of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetInfo {
    /// The suite that ran.
    pub suite: Suite,
    /// The kind of the target: `embedded`, `url`, `kubelet-binary`, `node`, `file` and others.
    pub kind: String,
    /// A short description for people.
    pub description: String,
    /// The URL, socket or file of the target.
    pub endpoint: String,
    /// The container that was checkpointed, as `namespace/pod/container`; empty when there was none.
    pub container: String,
    /// The node of the target, when a run or a merge has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The mutant that the target runs, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutant: Option<String>,
    /// The name and version that the target reports; absent when it reports none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<Product>,
}

impl TargetInfo {
    /// Creates the description of a target without a container, a node, a mutant and a product.
    pub fn new(suite: Suite, kind: &str, description: impl Into<String>, endpoint: impl Into<String>) -> TargetInfo {
        TargetInfo {
            suite,
            kind: kind.to_owned(),
            description: description.into(),
            endpoint: endpoint.into(),
            container: String::new(),
            node: None,
            mutant: None,
            product: None,
        }
    }
}

/// A program and its version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    /// The name, such as `kubelet` or `containerd`.
    pub name: String,
    /// The version as the program reports it, such as `v1.36.3`.
    pub version: String,
}

impl Product {
    /// Creates a product from a name and a version.
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Product {
        Product {
            name: name.into(),
            version: version.into(),
        }
    }

    /// Returns the name and version of this program.
    pub fn this_program() -> Product {
        Product::new("checkpoint-conformance", env!("CARGO_PKG_VERSION"))
    }
}

impl std::fmt::Display for Product {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// One case in a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseReport {
    /// The id of the case.
    pub id: String,
    /// The requirement, one sentence.
    pub requirement: String,
    /// The document that states the requirement.
    #[serde(default)]
    pub authority: CitedAuthority,
    /// Where the requirement was violated in practice; empty when no violation is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub motivation: String,
    /// The level of the requirement.
    pub level: Level,
    /// `pass`, `fail`, `known-deviation`, `skip` or `error`.
    pub outcome: String,
    /// The kind of a skip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_kind: Option<SkipKind>,
    /// The expected value.
    pub expected: String,
    /// The observed value; for `skip` and `error` the reason.
    pub actual: String,
    /// The duration in seconds.
    pub duration: f64,
    /// The command that runs this case alone; empty when there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rerun: String,
    /// The evidence in the order in which it was recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<EvidenceItem>,
}

impl CaseReport {
    /// Returns the group of the case: the id without its last segment.
    pub fn group(&self) -> &str {
        self.id.rsplit_once('/').map_or(&self.id, |(group, _)| group)
    }

    /// Returns the last segment of the id.
    pub fn name(&self) -> &str {
        self.id.rsplit_once('/').map_or(&self.id, |(_, name)| name)
    }
}

/// The report of a run; `report.json` is its JSON form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The schema, [`SCHEMA`].
    pub schema: String,
    /// The program that wrote the report.
    #[serde(default)]
    pub tool: Product,
    /// The target of the run.
    pub target: TargetInfo,
    /// The start of the run, RFC 3339.
    pub started_at: Timestamp,
    /// The duration of the run in seconds, including the start and stop of the target.
    pub duration: f64,
    /// The verdict of the run.
    pub verdict: Verdict,
    /// Whether failures of every level decide the verdict (`--strict`).
    pub strict: bool,
    /// The other options that affect the verdict.
    #[serde(default)]
    pub conditions: RunConditions,
    /// The footprint, computed before the first case; absent unless the target is a kubelet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub footprint: Option<Footprint>,
    /// The cases, sorted by id.
    pub cases: Vec<CaseReport>,
    /// Archives that the run created and could not remove. They contain the memory of a container.
    pub remaining_archives: Vec<String>,
}

/// A report that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file or directory could not be written.
    #[error("failed to write {}: {source}", path.display())]
    Write {
        /// The path of the file or directory.
        path: PathBuf,
        /// The I/O error.
        source: std::io::Error,
    },
    /// A YAML diagnostic of the TAP report could not be serialized.
    #[error("failed to write report.tap: {0}")]
    Tap(#[from] serde_yaml_ng::Error),
    /// The JUnit report could not be serialized.
    #[error("failed to write junit.xml: {0}")]
    Junit(#[from] quick_junit::SerializeError),
    /// The JSON report could not be serialized.
    #[error("failed to write report.json: {0}")]
    Json(#[from] serde_json::Error),
}

/// The input of a report apart from the records.
#[derive(Clone, Debug)]
pub struct RunInfo {
    /// The target of the run.
    pub target: TargetInfo,
    /// The start of the run.
    pub started_at: Timestamp,
    /// The duration of the run.
    pub duration: Duration,
    /// Which outcomes decide the verdict.
    pub policy: GatePolicy,
    /// The other options that affect the verdict.
    pub conditions: RunConditions,
    /// The footprint on a kubelet.
    pub footprint: Option<Footprint>,
    /// The command line of the run, from which the rerun commands are built.
    pub rerun: RerunCommand,
    /// Archives that the run created and could not remove.
    pub remaining_archives: Vec<String>,
}

impl Report {
    /// Builds the report of these records and replaces all `secrets`.
    pub fn new(info: RunInfo, records: &[CaseRecord], secrets: &Secrets) -> Report {
        let mut cases: Vec<_> = records
            .iter()
            .map(|record| case_report(record, &info.rerun, secrets))
            .collect();
        cases.sort_by(|a, b| a.id.cmp(&b.id));
        Report {
            schema: SCHEMA.to_owned(),
            tool: Product::this_program(),
            target: info.target.redacted(secrets),
            started_at: info.started_at,
            duration: seconds(info.duration),
            verdict: Verdict::from_records(records, info.policy, &info.conditions),
            strict: info.policy.strict,
            conditions: info.conditions,
            footprint: info.footprint,
            cases,
            remaining_archives: info
                .remaining_archives
                .iter()
                .map(|path| secrets.redact(path))
                .collect(),
        }
    }

    /// Counts the cases with this outcome: `pass`, `fail`, `known-deviation`, `skip` or `error`.
    pub fn count(&self, outcome: &str) -> usize {
        self.cases.iter().filter(|case| case.outcome == outcome).count()
    }
}

impl TargetInfo {
    fn redacted(self, secrets: &Secrets) -> TargetInfo {
        TargetInfo {
            description: secrets.redact(&self.description),
            endpoint: secrets.redact(&self.endpoint),
            product: self.product.map(|product| Product {
                name: secrets.redact(&product.name),
                version: secrets.redact(&product.version),
            }),
            ..self
        }
    }
}

fn case_report(record: &CaseRecord, repeat: &RerunCommand, secrets: &Secrets) -> CaseReport {
    CaseReport {
        id: record.info.id.to_owned(),
        requirement: record.info.requirement.to_owned(),
        authority: record.info.authority.into(),
        motivation: record.info.motivation.to_owned(),
        level: record.info.level,
        outcome: record.outcome.as_str().to_owned(),
        skip_kind: match record.outcome {
            Outcome::Skip { kind, .. } => Some(kind),
            _ => None,
        },
        expected: record.info.expected.to_owned(),
        actual: secrets.redact(record.outcome.detail()),
        duration: seconds(record.duration),
        rerun: secrets.redact(&repeat.command(record.info.id)),
        evidence: record
            .evidence
            .iter()
            .map(|item| EvidenceItem {
                kind: item.kind,
                text: secrets.redact(&item.text),
            })
            .collect(),
    }
}

/// Rounds to milliseconds: more digits are noise.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        engine::{Authority, CaseInfo},
        evidence::EvidenceKind,
    };

    pub(crate) fn sample() -> Report {
        let case_info = |id, level| CaseInfo {
            requirement: "The kubelet must return 404 for an unknown Pod.",
            authority: Authority {
                title: "Kubelet Checkpoint API",
                section: "Response",
                url: "https://kubernetes.io/docs/reference/node/kubelet-checkpoint-api/#post-checkpoint-response",
            },
            motivation: "example#1: 500 for an unknown Pod",
            expected: "404",
            ..CaseInfo::new(id, level)
        };
        let record = |id, level, outcome| CaseRecord {
            info: case_info(id, level),
            outcome,
            duration: Duration::from_micros(12_345),
            evidence: vec![EvidenceItem {
                kind: EvidenceKind::Request,
                text: format!("POST /{id} with token s3cr3t-token"),
            }],
        };
        let owned = |text: &str| text.to_owned();
        let records = [
            record(
                "kubelet/lookup/pod-unknown",
                Level::Documented,
                Outcome::Fail {
                    actual: owned("200 with token s3cr3t-token <&>"),
                },
            ),
            record(
                "kubelet/checkpoint/succeeds",
                Level::Documented,
                Outcome::Pass { actual: owned("200") },
            ),
            record(
                "kubelet/runtime-error/status-code",
                Level::Documented,
                Outcome::Skip {
                    kind: SkipKind::MissingCapability,
                    reason: owned("the runtime supports no fault injection"),
                },
            ),
            record(
                "kubelet/lookup/pod-unknown-body",
                Level::Reference,
                Outcome::Error {
                    reason: owned("connection refused"),
                },
            ),
        ];
        let mut secrets = Secrets::default();
        secrets.add("s3cr3t-token");
        let info = RunInfo {
            target: TargetInfo {
                container: owned("default/web/app"),
                product: Some(Product::new("kubelet", "v1.36.3")),
                ..TargetInfo::new(
                    Suite::Kubelet,
                    "url",
                    owned("the kubelet at https://127.0.0.1:10250"),
                    owned("https://127.0.0.1:10250"),
                )
            },
            started_at: "2026-03-04T05:06:07Z".parse().unwrap(),
            duration: Duration::from_millis(1500),
            policy: GatePolicy::default(),
            conditions: RunConditions::default(),
            footprint: None,
            rerun: RerunCommand::from_args(
                [
                    "checkpoint-conformance",
                    "kubelet",
                    "--kubelet-url",
                    "https://h:1",
                    "--filter",
                    "x*",
                ]
                .map(str::to_owned),
            ),
            remaining_archives: vec![owned("/var/lib/kubelet/checkpoints/checkpoint-web_default-app-X.tar")],
        };
        let mut report = Report::new(info, &records, &secrets);
        // A fixed version: the snapshots must not change with each release.
        report.tool.version = "1.2.3".to_owned();
        report
    }

    /// A report whose texts from the target try to break out of the markup of every format.
    pub(crate) fn hostile() -> Report {
        let text = "</pre></code></details><script>alert(1)</script>\"'><img src=x onerror=alert(2)>\n]]>--><!-- &lt; \
                    \u{1b}[2J\u{202e}evil\u{0}`` ``` {{7*7}} | # TODO\nok 9\n";
        let mut report = sample();
        for case in &mut report.cases {
            case.actual = text.to_owned();
            case.expected = text.to_owned();
            case.requirement = text.to_owned();
            case.motivation = text.to_owned();
            case.authority = CitedAuthority {
                title: text.to_owned(),
                section: text.to_owned(),
                url: format!("javascript:{text}"),
            };
            case.rerun = text.to_owned();
            for item in &mut case.evidence {
                item.text = text.to_owned();
            }
        }
        report.target.description = text.to_owned();
        report.target.endpoint = text.to_owned();
        report.target.container = text.to_owned();
        report.target.product = Some(Product::new(text, text));
        report.remaining_archives = vec![text.to_owned()];
        report
    }

    #[test]
    fn matches_the_documented_json() {
        insta::assert_json_snapshot!(sample());
    }

    #[test]
    fn round_trips_through_json() {
        let report = sample();
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }
}
