//! Every mutant, with the cases that must fail, one list a suite. Written by hand, beforehand: never made from a run.

mod archive;
mod kubelet;
mod runtime;

use std::sync::LazyLock;

use super::{Definition, Wrong};

/// The cases that the reference kubelet fails without any defect, because the Kubernetes kubelet does. It passes them with
/// `fractional_timestamps`.
pub const KNOWN: &[&str] = &["kubelet/robust/names-differ"];

/// Every mutant, suite by suite.
pub static ALL: LazyLock<Vec<Definition>> = LazyLock::new(|| {
    [kubelet::ALL, runtime::ALL]
        .concat()
        .into_iter()
        .chain(archive::all())
        .collect()
});

const fn caught(wrong: Wrong, fails: &'static [&'static str]) -> Definition {
    Definition { wrong, fails }
}
