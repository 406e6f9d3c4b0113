//! Fault rules, their grammar, the presets, and the journal of calls. This module decides what must fail; it does
//! nothing itself.
//!
//! ```text
//!  --fault, --fault-file, pod annotation, control API
//!        | grammar
//!        v
//!      Rule  --add-->  FaultEngine  --decide(rpc, target)-->  FaultDecision { before, injections, after, .. }
//!                                                                              |          |         |
//!                                    service::FaultLayer applies <-------------+----------|---------+
//!                                    the checkpoint applies      <------------------------+
//! ```
//!
//! The grammar is described in `grammar.rs` (EBNF) and in `docs/FAULTS.md`. A rule that does not parse gives a
//! [`RuleParseError`] with the line and column.

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
