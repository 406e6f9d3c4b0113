//! The mutants of the archive suite: the sample archive with one fault.
//!
//! Each stands with the cases that must fail where it is made, in [`crate::archive::mutant`]; here they join the others.

use super::{MutantDefect, MutantDefinition, define};
use crate::archive::mutant::mutants;

/// Every one.
pub(super) fn definitions() -> impl Iterator<Item = MutantDefinition> {
    mutants().map(|mutant| define(MutantDefect::Archive(mutant.name), mutant.must_fail))
}
