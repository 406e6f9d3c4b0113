//! The mutants of the runtime suite: fake-cri alone, by a preset that is in force from its start.

use super::{Definition, Wrong::Runtime, caught};

/// Every one.
pub(super) const ALL: &[Definition] = &[
    caught(Runtime("unimplemented"), &["runtime/checkpoint/ok"]),
    caught(Runtime("no-archive"), &["runtime/checkpoint/archive"]),
    caught(Runtime("empty-archive"), &["runtime/checkpoint/archive"]),
];
