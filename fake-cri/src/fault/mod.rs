//! Fault rules, their grammar, the presets, the journal of calls, and the faults of a checkpoint.
//!
//! ```text
//!  --fault, --fault-file, pod annotation, control API
//!        | grammar
//!        v
//!      Rule  --add-->  FaultEngine  --decide(rpc, target)-->  FaultDecision { before, checkpoint, after, .. }
//!                                                                              |          |         |
//!                                    service::FaultLayer applies <-------------+----------|---------+
//!                                    CheckpointHooks apply, in the shim  <----------------+
//! ```
//!
//! The grammar is described in `grammar.rs` (EBNF) and in `docs/FAULTS.md`. A rule that does not parse gives a
//! [`RuleParseError`] with the line and column. The engine of checkpoints does not know this module: [`CheckpointHooks`]
//! implement its hooks, and a faulty sink stands between the archive and its file, so that a fault meets the same code
//! as the real thing.

pub(crate) mod archive;
mod checkpoint;
mod cursor;
mod defect;
mod effect;
mod engine;
mod error;
mod file;
mod grammar;
mod journal;
mod preset;
mod redact;
mod rpc;
mod rule;
mod sink;
mod target;
mod text;

pub use checkpoint::{CheckpointFaults, CheckpointHooks, Injection};
pub use defect::{CallOutcome, Defect, MemoryRegion, SideEffect};
pub use effect::{Effect, ErrorStatus};
pub use engine::{FAULT_ANNOTATION, FaultDecision, FaultEngine, RuleSource, RuleStatus};
pub use error::RuleParseError;
pub use file::{FaultFileError, read_fault_file};
pub use grammar::{RuleList, parse_rules};
pub use journal::{Journal, JournalRecord};
pub use preset::{Preset, presets_markdown};
pub(crate) use redact::to_json;
pub use rpc::Rpc;
pub use rule::{InjectionPoint, Rule, Selector, Trigger};
pub use target::{CallTarget, ResolveTarget};
