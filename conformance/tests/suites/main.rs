//! The suites: mutants are detected, no two cases contradict each other, and the order does not matter.

mod determinism;
mod mutants;
mod strict;
