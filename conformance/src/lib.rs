//! Conformance tests for container checkpoints: kubelets, container runtimes and checkpoint archives.
//!
//! ```text
//!  cli                            suite, target and selected cases
//!   |
//!  suites                         the cases -----> engine   type of a case, runner, verdict
//!   |                                                |  CaseRecord
//!   |  requests                                      v
//!  targets                        connect to,      report   terminal, JSON, JUnit XML, HTML
//!   |                             start and control the system under test
//!  reference_kubelet, fake-cri
//! ```
//!
//! [`mutation`] tests the harness: each mutant must fail exactly the cases that its definition lists.

pub mod archive;
pub mod cli;
mod cri_client;
pub mod engine;
pub mod evidence;
mod http_server;
pub mod image;
pub mod mutation;
pub mod reference_kubelet;
pub mod report;
pub mod suites;
pub mod targets;
pub mod tls;
