//! Every mutant, with the cases that must fail, one list a suite. Written by hand, beforehand: never made from a run.

mod kubelet;

use super::{Definition, Wrong};

/// The cases that the reference kubelet fails without any defect, because the Kubernetes kubelet does.
pub const KNOWN: &[&str] = &["kubelet/robust/names-differ", "kubelet/timeout/small-honoured"];

/// Every mutant, suite by suite.
pub const ALL: &[Definition] = kubelet::ALL;

const fn caught(wrong: Wrong, fails: &'static [&'static str]) -> Definition {
    Definition { wrong, fails }
}
