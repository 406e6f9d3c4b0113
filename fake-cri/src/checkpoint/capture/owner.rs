//! Who is sent a signal when a file becomes ready (`F_SETOWN`).

use cri_proto::criu::message::FownEntry;

/// Nobody is told when the file becomes ready: `F_GETOWN` of another process cannot be asked.
pub(super) fn no_owner() -> FownEntry {
    FownEntry::default()
}
