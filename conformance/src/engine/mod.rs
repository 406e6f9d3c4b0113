//! The model of a case, the runner, and the verdict.
//!
//! ```text
//!   Case = CaseInfo + CasePlan + the function that checks it
//!      |  Selection: which cases run; Schedule: in which order, and which of them concurrently
//!      v
//!   runner   step by step, each case with a timeout; the target is reset after each step; a case is skipped if the
//!      |     target lacks a Capability that it requires, or if a case that it depends on has failed
//!      |  CaseRecord = CaseInfo + Outcome + duration
//!      |  Profile: turns claimed failures into known deviations; ExpectedFailures: listed failures do not decide
//!      v
//!   Verdict  -> exit code
//! ```
//!
//! A case that cannot check its requirement is skipped with a reason, or with `blocked by <id>` if a case that it
//! depends on failed. No case passes because nothing was checked. A case run alone finds out itself that a case that it
//! depends on would fail, and has the same outcome; it can only be blocked by cases that it declares.

mod authority;
mod capability;
mod case;
mod conditions;
mod dependencies;
mod expected_failures;
mod profile;
mod runner;
mod schedule;
mod selection;
mod verdict;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::evidence::EvidenceItem;

pub use authority::{Authority, CitedAuthority};
pub use capability::{Capabilities, Capability};
pub use case::{Case, CaseBuilder, CaseFuture, CasePlan, CaseResult, NonPass, case, check, fail, pass, pass_if, skip};
pub use conditions::RunConditions;
pub use dependencies::with_indirect_dependencies;
pub use expected_failures::{ExpectedFailures, ExpectedFailuresResult, UnknownCase};
pub use profile::{BUILT_IN_PROFILES, Profile, ProfileError, ProfileResult};
pub use runner::{ConfigReset, Observer, SilentObserver, Target, run, run_scheduled, skip_reason};
pub use schedule::{Schedule, Stage};
pub use selection::{Selection, SelectionError};
pub use verdict::{GatePolicy, Verdict, exit};

/// Who states the requirement of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The documentation states it. A failure decides the exit code.
    Documented,
    /// The reference implementation behaves that way. A failure decides with `--strict` only.
    Reference,
    /// A careful operator expects it. A failure decides with `--strict` only.
    Robust,
}

impl Level {
    /// All levels, in descending order of authority.
    pub const ALL: [Level; 3] = [Level::Documented, Level::Reference, Level::Robust];

    /// The level's name in lists and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Documented => "documented",
            Level::Reference => "reference",
            Level::Robust => "robust",
        }
    }
}

/// The kind of target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// The Kubelet Checkpoint API of a kubelet.
    Kubelet,
    /// CheckpointContainer of a runtime.
    Runtime,
    /// A checkpoint archive.
    Archive,
}

impl Suite {
    /// All suites.
    pub const ALL: [Suite; 3] = [Suite::Kubelet, Suite::Runtime, Suite::Archive];

    /// The suite's name, with which the ids of its cases begin.
    pub fn as_str(self) -> &'static str {
        match self {
            Suite::Kubelet => "kubelet",
            Suite::Runtime => "runtime",
            Suite::Archive => "archive",
        }
    }
}

/// Id, level and texts of a case, and what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaseInfo {
    /// The case's id, a path: `kubelet/lookup/pod-unknown`. An id is never reused with another meaning.
    pub id: &'static str,
    /// The requirement, in one sentence with *must*.
    pub requirement: &'static str,
    /// The document that states the requirement.
    pub authority: Authority,
    /// Where the requirement was violated in practice, with versions; empty if that is not why the case exists.
    pub motivation: &'static str,
    /// The level of the authority.
    pub level: Level,
    /// The expected value, in a few words.
    pub expected: &'static str,
    /// What a target must offer. The case is skipped if one is missing.
    pub requires: &'static [Capability],
    /// The ids of the cases whose failure always blocks this case.
    pub depends_on: &'static [&'static str],
    /// The ids of the cases whose failure blocks this case under some conditions, which this case itself observes.
    pub may_depend_on: &'static [&'static str],
}

impl CaseInfo {
    /// A case with empty texts that needs nothing.
    pub const fn new(id: &'static str, level: Level) -> CaseInfo {
        CaseInfo {
            id,
            requirement: "",
            authority: Authority::PROJECT,
            motivation: "",
            level,
            expected: "",
            requires: &[],
            depends_on: &[],
            may_depend_on: &[],
        }
    }

    /// Whether the case with this id can block this case.
    pub fn may_be_blocked_by(&self, id: &str) -> bool {
        self.depends_on.contains(&id) || self.may_depend_on.contains(&id)
    }

    /// The group of the case: its id without the last segment.
    pub fn group(&self) -> &'static str {
        self.id.rsplit_once('/').map_or(self.id, |(group, _)| group)
    }
}

/// Why a case was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SkipKind {
    /// The target or the machine lacks something that the case requires.
    MissingCapability,
    /// A case that this case depends on fails; the reason names that case.
    Blocked,
    /// The configuration of the target refuses the operation. The target is not defective, and its operator can allow
    /// the operation.
    Policy,
    /// The user did not include cases of this kind, for example with `--include-load`.
    Excluded,
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The requirement holds.
    Pass {
        /// The observed value.
        actual: String,
    },
    /// The requirement does not hold.
    Fail {
        /// The observed value.
        actual: String,
    },
    /// The requirement does not hold, as the target's profile claims.
    KnownDeviation {
        /// The observed value, and the claim of the profile.
        actual: String,
    },
    /// The requirement could not be checked, for a reason in the target or the machine.
    Skip {
        /// The kind of reason.
        kind: SkipKind,
        /// The reason.
        reason: String,
    },
    /// The harness failed.
    Error {
        /// The cause.
        reason: String,
    },
}

impl Outcome {
    /// The outcome's name in reports: `pass`, `fail`, `known-deviation`, `skip` or `error`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Outcome::Pass { .. } => "pass",
            Outcome::Fail { .. } => "fail",
            Outcome::KnownDeviation { .. } => "known-deviation",
            Outcome::Skip { .. } => "skip",
            Outcome::Error { .. } => "error",
        }
    }

    /// The observed value, or the reason why there is none.
    pub fn detail(&self) -> &str {
        match self {
            Outcome::Pass { actual } | Outcome::Fail { actual } | Outcome::KnownDeviation { actual } => actual,
            Outcome::Skip { reason, .. } | Outcome::Error { reason } => reason,
        }
    }
}

/// The result of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseRecord {
    /// Id, level and texts of the case.
    pub info: CaseInfo,
    /// How the case ended.
    pub outcome: Outcome,
    /// How long the case took.
    pub duration: Duration,
    /// What the harness recorded during the case.
    pub evidence: Vec<EvidenceItem>,
}

fn sorted_ids(records: &[CaseRecord], selects: impl Fn(&CaseRecord) -> bool) -> Vec<String> {
    let selected = records.iter().filter(|record| selects(record));
    let mut ids: Vec<_> = selected.map(|record| record.info.id.to_owned()).collect();
    ids.sort();
    ids
}
