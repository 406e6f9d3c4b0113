//! What a case is, how cases are run, and what their outcomes add up to.
//!
//! ```text
//!  Case = Clause + how to judge it
//!     |  Selection: which ones; Schedule: in which order, and which of them side by side
//!     v
//!  runner   step by step, each case within its own limit; the target is put back after each step
//!     |  Record = Clause + Outcome + duration
//!     |  Profile: a failure that the target claims is a known deviation; ExpectedFailures: known ones do not decide
//!     v
//!  Verdict  -> exit code
//! ```
//!
//! A case that could not judge says so: it is skipped with its reason, or with `blocked by <id>` when what it builds on
//! does not hold. Nothing passes because nothing was checked.

mod authority;
mod case;
mod conditions;
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
pub use case::{Case, CaseFuture, CaseResult, NonPass, check, fail, pass, skip};
pub use conditions::RunConditions;
pub use expected_failures::{ExpectedFailures, ExpectedFailuresResult, UnknownCase};
pub use profile::{BUILT_IN_PROFILES, Profile, ProfileError, ProfileResult};
pub use runner::{ConfigReset, Observer, Reset, SilentObserver, run, run_scheduled};
pub use schedule::{Schedule, Stage};
pub use selection::{Selection, SelectionError};
pub use verdict::{GatePolicy, Verdict, exit};

/// Who demands what a case judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The documentation does: it decides the exit code.
    Documented,
    /// The reference implementation does it so: decides with `--strict` only.
    Reference,
    /// A careful operator would want it: decides with `--strict` only.
    Robust,
}

impl Level {
    /// All levels, the binding one first.
    pub const ALL: [Level; 3] = [Level::Documented, Level::Reference, Level::Robust];

    /// The level's name as lists and reports write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Documented => "documented",
            Level::Reference => "reference",
            Level::Robust => "robust",
        }
    }
}

/// What is judged.
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

    /// The suite's name, which every id of its cases begins with.
    pub fn as_str(self) -> &'static str {
        match self {
            Suite::Kubelet => "kubelet",
            Suite::Runtime => "runtime",
            Suite::Archive => "archive",
        }
    }
}

/// What a case states before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaseInfo {
    /// The case's name, a path: `kubelet/lookup/pod-unknown`. Never reused for another meaning.
    pub id: &'static str,
    /// What is demanded, in our own words.
    pub requirement: &'static str,
    /// The document that demands it.
    pub authority: Authority,
    /// Where the requirement was seen broken, with versions; empty where that is not why the case is there.
    pub motivation: &'static str,
    /// Who demands it.
    pub level: Level,
    /// What is expected to be seen, in a few words.
    pub expected: &'static str,
}

impl CaseInfo {
    /// The part of the id that cases are grouped by: all but its last segment.
    pub fn group(&self) -> &'static str {
        self.id.rsplit_once('/').map_or(self.id, |(group, _)| group)
    }
}

/// Why a case was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SkipKind {
    /// The target or the machine lacks what the case needs.
    MissingCapability,
    /// What the case builds on fails; the reason names the case that says so.
    Blocked,
    /// The target refuses the operation by its configuration: it is not broken, and its operator can allow the operation.
    Policy,
    /// The user did not ask for cases of this kind: `--include-load` does, for example.
    Excluded,
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The clause was judged and holds; with what was seen.
    Pass {
        /// What was seen.
        actual: String,
    },
    /// The clause was judged and does not hold.
    Fail {
        /// What was seen.
        actual: String,
    },
    /// The clause was judged and does not hold, as the target's profile says it does not.
    KnownDeviation {
        /// What was seen, and what the profile says.
        actual: String,
    },
    /// The clause could not be judged, for a reason that lies in the target or the machine.
    Skip {
        /// What kind of reason it is.
        kind: SkipKind,
        /// Why.
        reason: String,
    },
    /// The harness could not do its work.
    Error {
        /// What went wrong in it.
        reason: String,
    },
}

impl Outcome {
    /// The outcome's word in reports: `pass`, `fail`, `known-deviation`, `skip` or `error`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Outcome::Pass { .. } => "pass",
            Outcome::Fail { .. } => "fail",
            Outcome::KnownDeviation { .. } => "known-deviation",
            Outcome::Skip { .. } => "skip",
            Outcome::Error { .. } => "error",
        }
    }

    /// What was seen, or the reason why nothing was.
    pub fn detail(&self) -> &str {
        match self {
            Outcome::Pass { actual } | Outcome::Fail { actual } | Outcome::KnownDeviation { actual } => actual,
            Outcome::Skip { reason, .. } | Outcome::Error { reason } => reason,
        }
    }
}

/// A case that has been run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaseRecord {
    /// What was judged.
    pub info: CaseInfo,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub duration: Duration,
    /// What passed between harness and target meanwhile.
    pub evidence: Vec<EvidenceItem>,
}
