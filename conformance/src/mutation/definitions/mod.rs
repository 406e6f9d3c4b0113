//! The definitions of all mutants with the cases that must fail, one list per suite. They are written by hand before a
//! run, and never generated from a run.

mod archive;
mod kubelet;
mod runtime;

use std::sync::LazyLock;

use super::{MutantDefect, MutantDefinition};

/// The cases that the reference kubelet fails without any defect, because the Kubernetes kubelet does. It passes them
/// with `fractional_timestamps`.
pub const BASELINE_FAILURES: &[&str] = &["kubelet/archive-name/unique-within-a-second"];

/// Every mutant, suite by suite.
pub static MUTANTS: LazyLock<Vec<MutantDefinition>> = LazyLock::new(|| {
    [kubelet::MUTANTS, runtime::MUTANTS]
        .concat()
        .into_iter()
        .chain(archive::definitions())
        .collect()
});

const fn define(defect: MutantDefect, must_fail: &'static [&'static str]) -> MutantDefinition {
    MutantDefinition { defect, must_fail }
}
