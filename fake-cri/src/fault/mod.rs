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
//! The grammar is in `grammar.rs`, as EBNF, and in `docs/FAULTS.md`. A rule that cannot be read is a [`ParseError`] that
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
mod subject;
mod text;

pub use engine::{ANNOTATION, Action, Decision, Engine, Listed, Source};
pub use error::ParseError;
pub use file::{FileError, read_file};
pub use grammar::{Rules, parse_rules};
pub use journal::{Entry, Journal};
pub use preset::{Preset, presets_markdown};
pub(crate) use redact::to_json;
pub use rpc::Rpc;
pub use rule::{Effect, Point, Rule, Scope, When};
pub use subject::{Injections, Subject, Subjects};
