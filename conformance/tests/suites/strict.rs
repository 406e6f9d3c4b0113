//! A target can pass `--strict`: no two cases of a suite contradict each other.
//!
//! The proof is a target that passes all cases: the reference kubelet with `fractional_timestamps`, and the embedded
//! fake-cri. A skipped case did not pass. The tests therefore list the skips, and each pair of cases with a skipped one
//! must pass on another target: a mutant whose definition lists neither of the two as failing.

use std::collections::BTreeSet;

use checkpoint_conformance::{
    engine::{CaseRecord, GatePolicy, Outcome, RunConditions, SilentObserver, Suite, Verdict, run},
    mutation::{BASELINE_FAILURES, MUTANTS, contradictions},
    suites::{
        kubelet::{self, KubeletSession},
        runtime::{self, RuntimeSession},
    },
    targets::{Embedded, runtime::EmbeddedRuntime},
};

const STRICT: GatePolicy = GatePolicy {
    strict: true,
    allow_incomplete: false,
};

/// Returns the cases that did not pass, of a run whose verdict is pass under `--strict`.
fn not_passed(records: &[CaseRecord]) -> BTreeSet<&'static str> {
    let verdict = Verdict::from_records(records, STRICT, &RunConditions::default());
    let reasons: Vec<_> = records
        .iter()
        .filter(|record| !matches!(record.outcome, Outcome::Pass { .. }))
        .map(|record| format!("{}: {}", record.info.id, record.outcome.detail()))
        .collect();
    assert_eq!(verdict, Verdict::Pass, "{reasons:#?}");
    let not_passed = records
        .iter()
        .filter(|record| !matches!(record.outcome, Outcome::Pass { .. }));
    not_passed.map(|record| record.info.id).collect()
}

/// Asserts that each pair of cases passes together in the run or on a mutant.
fn assert_no_contradiction(suite: Suite, records: &[CaseRecord]) {
    let cases: Vec<_> = records.iter().map(|record| record.info.id).collect();
    // A mutant that does not list a skipped case as failing counts as a target on which the case passes.
    let failing_by_mutant = MUTANTS.iter().filter(|mutant| mutant.suite == suite).map(|mutant| {
        let fails = mutant.must_fail.iter().chain(BASELINE_FAILURES).copied();
        fails.collect::<BTreeSet<_>>()
    });
    let failing: Vec<_> = std::iter::once(not_passed(records)).chain(failing_by_mutant).collect();
    assert_eq!(contradictions(&cases, &failing), []);
}

/// Runs a future on a thread with a larger stack: the future of a suite is too large for a test thread.
fn block_on<F: Future<Output = ()>>(work: impl FnOnce() -> F + Send + 'static) {
    const STACK_BYTES: usize = 16 << 20;
    let run = move || tokio::runtime::Runtime::new().unwrap().block_on(work());
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).unwrap();
    thread.join().unwrap();
}

#[test]
fn reference_kubelet_passes_the_strict_kubelet_suite() {
    block_on(check_kubelet_suite);
}

#[test]
fn fake_cri_passes_the_strict_runtime_suite() {
    block_on(check_runtime_suite);
}

async fn check_kubelet_suite() {
    let embedded = Embedded {
        fractional_timestamps: true,
        executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
        ..Embedded::default()
    };
    let session = KubeletSession::new(embedded.start().await.unwrap());
    let records = run(&kubelet::cases(), &session, &mut SilentObserver).await;
    // Each archive has a unique name, and no archive was removed.
    let archive_count = std::fs::read_dir(session.kubelet.checkpoints_dir.as_ref().unwrap())
        .unwrap()
        .count();
    session.kubelet.lifecycle.as_ref().unwrap().shutdown().await.unwrap();
    let max_archives: u32 = 1 + kubelet::cases().iter().map(|case| case.plan.max_archives).sum::<u32>();
    assert!(
        archive_count > 40 && archive_count <= max_archives as usize,
        "{archive_count} archives exceed the announced maximum of {max_archives}"
    );
    assert_no_contradiction(Suite::Kubelet, &records);
}

async fn check_runtime_suite() {
    let embedded = EmbeddedRuntime {
        executable: Some(env!("CARGO_BIN_EXE_checkpoint-conformance").into()),
        ..EmbeddedRuntime::default()
    };
    let session = RuntimeSession::new(embedded.start().await.unwrap());
    let records = run(&runtime::cases(), &session, &mut SilentObserver).await;
    session.runtime.shutdown().await.unwrap();
    assert_no_contradiction(Suite::Runtime, &records);
}
