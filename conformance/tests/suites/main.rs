//! The suites: mutants are detected, no two cases contradict each other, and the order does not matter.

mod capabilities;
mod determinism;
mod mutants;
mod strict;
