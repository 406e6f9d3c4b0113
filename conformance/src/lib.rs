//! Drives any kubelet or container runtime through every clause of the checkpoint API and reports what holds.
//!
//! ```text
//!  cli        which suite, which target, which cases
//!   |
//!  catalog    the cases -------> case     what a case is; the runner; the verdict
//!   |                             ^
//!   |  ask                        |  Record
//!  target     how to reach, start and steer what is judged
//!   |                             |
//!  reference, fake-cri          report    terminal, JSON, JUnit XML
//! ```
//!
//! [`mutant`] judges the harness itself: every single wrong thing must be caught by exactly the cases that name it.

pub mod archive;
pub mod cli;
pub mod engine;
pub mod evidence;
pub mod image;
pub mod mutation;
pub mod reference_kubelet;
pub mod report;
pub mod suites;
pub mod targets;
