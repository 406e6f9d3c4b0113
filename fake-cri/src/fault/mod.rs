//! The fault rules, their grammar, the presets, the journal of calls: this room decides, it never acts.
//!
//! ```text
//!  --fault, --fault-file, pod annotation, control API
//!        | grammar
//!        v
//!      Rule  --add-->  Engine  --decide(rpc, Subject)-->  Decision { before, injections, after, fired }
//!                                                            |            |           |
//!                           service::FaultLayer acts  <------+------------|-----------+
//!                           the checkpoint acts       <-------------------+
//! ```
//!
//! The grammar is in `grammar.rs`, as EBNF, and in `docs/FAULTS.md`. A rule that cannot be read is a [`RuleParseError`] that
//! points at the column.

mod cursor;
mod engine;
mod error;
mod file;
mod grammar;
mod journal;
mod preset;
mod redact;
mod rpc;
mod rule;
mod target;
mod text;

pub use engine::{CallAction, FAULT_ANNOTATION, FaultDecision, FaultEngine, RuleSource, RuleStatus};
pub use error::RuleParseError;
pub use file::{FaultFileError, read_fault_file};
pub use grammar::{RuleList, parse_rules};
pub use journal::{Journal, JournalRecord};
pub use preset::{Preset, presets_markdown};
pub(crate) use redact::to_json;
pub use rpc::Rpc;
pub use rule::{InjectionPoint, Rule, RuleEffect, Selector, Trigger};
pub use target::{CallTarget, Injections, ResolveTarget};
