//! What a run found, told to people and to machines.
//!
//! ```text
//!  records + target + verdict = Report --+-- terminal   a table, failures with expected and actual
//!                                        +-- files      every format below a directory, or one of them
//!                                        |     json     report.json, schema in docs/REPORT.md; read() takes it back
//!                                        |     junit, tap, summary, badge   for CI
//!                                        |     html     one page for people
//!                                        +-- compare    what changed between two
//! ```
//!
//! Secrets that the run came to know (tokens, keys, what stood in a container's memory) are cut out before anything is
//! written ([`Secrets`]). Files are written only where the user named a directory.

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

/// The name and version of the layout of `report.json`. A change that breaks a reader raises the number.
pub const SCHEMA: &str = "checkpoint-conformance/report/1";

/// The same of a file that holds several reports, in its field `reports`.
pub const SCHEMA_SEVERAL: &str = "checkpoint-conformance/reports/1";

/// What was judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetInfo {
    /// Which suite ran.
    pub suite: Suite,
    /// How the target was had: `embedded`, `url`, `kubelet-binary`.
    pub kind: String,
    /// The target in a few words.
    pub description: String,
    /// Where it answered.
    pub endpoint: String,
    /// What was checkpointed, `namespace/pod/container`; empty when there was none.
    pub container: String,
    /// The node that it is part of, where several were judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The one wrong thing the target was told to do, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutant: Option<String>,
    /// What the target says that it is: a kubelet or a runtime with its version; absent where it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<Product>,
}

/// A program and its version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    /// Its name: `kubelet`, `containerd`.
    pub name: String,
    /// Its version as it says it: `v1.36.3`.
    pub version: String,
}

impl Product {
    /// A program by its name and version.
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Product {
        Product {
            name: name.into(),
            version: version.into(),
        }
    }

    /// This program.
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
    /// The case's id.
    pub id: String,
    /// What is demanded.
    pub requirement: String,
    /// The document that demands it.
    #[serde(default)]
    pub authority: CitedAuthority,
    /// Where the requirement was seen broken; empty where that is not why the case is there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub motivation: String,
    /// Who demands it.
    pub level: Level,
    /// `pass`, `fail`, `known-deviation`, `skip` or `error`.
    pub outcome: String,
    /// For a skip, its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_kind: Option<SkipKind>,
    /// What was expected.
    pub expected: String,
    /// What was observed; for `skip` and `error` the reason.
    pub actual: String,
    /// Seconds it took.
    pub duration: f64,
    /// The command that repeats this case alone; empty when nobody can.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rerun: String,
    /// What passed between harness and target meanwhile, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<EvidenceItem>,
}

impl CaseReport {
    /// The part of the id that cases are grouped by: all but its last segment.
    pub fn group(&self) -> &str {
        self.id.rsplit_once('/').map_or(&self.id, |(group, _)| group)
    }

    /// The last segment of the id.
    pub fn name(&self) -> &str {
        self.id.rsplit_once('/').map_or(&self.id, |(_, name)| name)
    }
}

/// A run's report, as `report.json` holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// The program that wrote the report.
    #[serde(default)]
    pub tool: Product,
    /// What was judged.
    pub target: TargetInfo,
    /// When the run began, RFC 3339.
    pub started_at: Timestamp,
    /// Seconds the run took, its target's start and end included.
    pub duration: f64,
    /// What the cases add up to.
    pub verdict: Verdict,
    /// Whether failures of every level decided the verdict.
    pub strict: bool,
    /// What else the run was judged under.
    #[serde(default)]
    pub conditions: RunConditions,
    /// The checkpoints that the run was to make, where it made them on a kubelet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub footprint: Option<Footprint>,
    /// The cases, sorted by id.
    pub cases: Vec<CaseReport>,
    /// Archives that the run caused and could not remove: they hold memory.
    pub remaining_archives: Vec<String>,
}

/// A report that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file could not be written.
    #[error("failed to write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A diagnostic could not be put into the YAML of TAP.
    #[error("failed to write report.tap: {0}")]
    Tap(#[from] serde_yaml_ng::Error),
    /// The JUnit report could not be put into XML.
    #[error("failed to write junit.xml: {0}")]
    Junit(#[from] quick_junit::SerializeError),
    /// The JSON report could not be put into JSON.
    #[error("failed to write report.json: {0}")]
    Json(#[from] serde_json::Error),
}

/// What a report is made of, beside its records.
#[derive(Clone, Debug)]
pub struct RunInfo {
    /// What was judged.
    pub target: TargetInfo,
    /// When the run began.
    pub started_at: Timestamp,
    /// How long it took.
    pub duration: Duration,
    /// What decided.
    pub policy: GatePolicy,
    /// What else it was judged under.
    pub conditions: RunConditions,
    /// The checkpoints that the run was to make.
    pub footprint: Option<Footprint>,
    /// The run's own command line, from which a case alone can be repeated.
    pub rerun: RerunCommand,
    /// Archives that the run caused and could not remove.
    pub remaining_archives: Vec<String>,
}

impl Report {
    /// The report of these records, free of `secrets`.
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

    /// How many cases ended so: `pass`, `fail`, `known-deviation`, `skip` or `error`.
    pub fn count(&self, outcome: &str) -> usize {
        self.cases.iter().filter(|case| case.outcome == outcome).count()
    }
}

impl TargetInfo {
    fn redacted(self, secrets: &Secrets) -> TargetInfo {
        TargetInfo {
            suite: self.suite,
            kind: self.kind,
            description: secrets.redact(&self.description),
            endpoint: secrets.redact(&self.endpoint),
            container: self.container,
            node: self.node,
            mutant: self.mutant,
            product: self.product.map(|product| Product {
                name: secrets.redact(&product.name),
                version: secrets.redact(&product.version),
            }),
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

/// Seconds to the millisecond: more digits would only be noise.
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
            id,
            requirement: "an unknown pod is answered 404",
            authority: Authority {
                title: "Kubelet Checkpoint API",
                section: "Response",
                url: "https://kubernetes.io/docs/reference/node/kubelet-checkpoint-api/#post-checkpoint-response",
            },
            motivation: "example#1: an unknown pod was answered 500",
            level,
            expected: "404",
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
                    reason: owned("the runtime takes no faults"),
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
                suite: Suite::Kubelet,
                kind: owned("url"),
                description: owned("the kubelet at https://127.0.0.1:10250"),
                endpoint: owned("https://127.0.0.1:10250"),
                container: owned("default/web/app"),
                node: None,
                mutant: None,
                product: Some(Product::new("kubelet", "v1.36.3")),
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
        // Snapshots outlive versions.
        report.tool.version = "1.2.3".to_owned();
        report
    }

    /// A report in which everything that a target may say tries to get out of where it stands.
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
