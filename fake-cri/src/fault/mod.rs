//! The fault rules, their grammar, the presets, the journal of calls: this room decides, it never acts.
//!
//! ```text
//!  --fault, --fault-file, pod annotation, control API
//!        | parse
//!        v
//!      Rule  --add-->  Engine  --decide(rpc, Subject)-->  Decision { before, phases, after, fired }
//!                                                            |        |         |
//!                           service::FaultLayer acts  <------+--------|---------+
//!                           the checkpoint acts       <---------------+  (as Injections)
//! ```

mod engine;
mod journal;
mod subject;

pub use engine::Engine;
pub use journal::Journal;
pub use subject::{Injections, Subject, Subjects};
