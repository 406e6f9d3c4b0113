//! What a case is: its id, its clause, its level, its outcome.

use serde::{Deserialize, Serialize};

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

/// What a case states before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clause {
    /// The case's name, a path: `kubelet/404/pod-unknown`. Never reused for another meaning.
    pub id: &'static str,
    /// What is demanded, in our own words.
    pub clause: &'static str,
    /// Where it is demanded: the documentation's section, a CRI comment, a kubelet file, a defect.
    pub source: &'static str,
    /// Who demands it.
    pub level: Level,
    /// What is expected to be seen, in a few words.
    pub expected: &'static str,
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The clause was judged and holds; with what was seen.
    Pass {
        /// What was seen.
        seen: String,
    },
    /// The clause was judged and does not hold.
    Fail {
        /// What was seen.
        seen: String,
    },
    /// The clause could not be judged, for a reason that lies in the target or the machine.
    Skip {
        /// Why.
        reason: String,
    },
    /// The harness could not do its work.
    Error {
        /// What went wrong in it.
        reason: String,
    },
}
