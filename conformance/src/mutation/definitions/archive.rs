//! The mutants of the archive suite: the sample archive with one defect each.
//!
//! [`crate::archive::mutant`] defines each mutant together with the cases that must fail.

use super::{MutantDefect, MutantDefinition, define};
use crate::archive::mutant::mutants;

pub(super) fn definitions() -> impl Iterator<Item = MutantDefinition> {
    mutants().map(|mutant| define(MutantDefect::Archive(mutant.name), mutant.must_fail))
}
