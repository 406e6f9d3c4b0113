//! The mutants of the archive suite: the sample archive with one fault.
//!
//! Each stands with the cases that must fail where it is made, in [`crate::archive::mutant`]; here they join the others.

use super::{Definition, Wrong, caught};
use crate::archive::mutant::mutants;

/// Every one.
pub(super) fn all() -> impl Iterator<Item = Definition> {
    mutants().map(|mutant| caught(Wrong::Archive(mutant.name), mutant.expected))
}
